/* SPDX-License-Identifier: Apache-2.0
 *
 * sensor._speed: the hot path of the engine (sensor/speed.py), optional.
 */
#include "columns.h"
#include "core.h"

#include <stdlib.h>
#include <string.h>

#define INTERFACE 3 /* as in sensor/speed.py */

static int number(PyObject *mapping, const char *name, uint32_t *value)
{
	PyObject *item = PyMapping_GetItemString(mapping, name);
	unsigned long found = item ? PyLong_AsUnsignedLong(item) : 0;
	Py_XDECREF(item);
	if (PyErr_Occurred())
		return -1;
	if (found > UINT32_MAX) {
		PyErr_Format(PyExc_ValueError, "%s is too large", name);
		return -1;
	}
	*value = (uint32_t)found;
	return 0;
}

static int numbers(Core *core, PyObject *layout)
{
	Table *table = &core->table;
	const struct {
		const char *name;
		uint32_t *value;
	} wanted[] = {
		{"abi", &core->abi},
		{"open_type", &core->open_type},
		{"keep_flags", &core->keep_flags},
		{"truncated_flag", &core->truncated_flag},
		{"path", &core->path_offset},
		{"capacity", &table->capacity},
		{"ended_capacity", &table->ended_capacity},
		{"fork_type", &table->fork_type},
		{"exec_type", &table->exec_type},
		{"exit_type", &table->exit_type},
		{"credentials_type", &table->credentials_type},
		{"fork.child_pid", &table->fork.child_pid},
		{"fork.child_ns_pid", &table->fork.child_ns_pid},
		{"fork.child_start_ns", &table->fork.child_start_ns},
		{"fork.parent_pid", &table->fork.parent_pid},
		{"fork.parent_start_ns", &table->fork.parent_start_ns},
		{"exec.parent_pid", &table->exec.parent_pid},
		{"exec.ns_pid", &table->exec.ns_pid},
		{"exec.parent_start_ns", &table->exec.parent_start_ns},
		{"exec.session_pid", &table->exec.session_pid},
		{"exec.cgroup", &table->exec.cgroup},
	};
	for (size_t index = 0; index < sizeof(wanted) / sizeof(*wanted); index++)
		if (number(layout, wanted[index].name, wanted[index].value) < 0)
			return -1;
	return 0;
}

/* The event table: {type: (end of the fixed part, offsets of text words)}. */
static int events(Core *core, PyObject *rows)
{
	PyObject *key, *row;
	Py_ssize_t at = 0;
	while (PyDict_Next(rows, &at, &key, &row)) {
		unsigned long type = PyLong_AsUnsignedLong(key);
		unsigned int end;
		PyObject *texts;
		if (PyErr_Occurred() || !PyArg_ParseTuple(row, "IO!", &end, &PyTuple_Type, &texts))
			return -1;
		Py_ssize_t count = PyTuple_GET_SIZE(texts);
		if (type >= TYPES || count > TEXTS_MAX) {
			PyErr_SetString(PyExc_ValueError, "an event has too many texts, or too high a number");
			return -1;
		}
		Plan *plan = &core->plans[type];
		plan->known = true;
		plan->fixed_end = end;
		plan->text_count = (int)count;
		for (Py_ssize_t index = 0; index < count; index++) {
			unsigned long offset = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(texts, index));
			if (PyErr_Occurred())
				return -1;
			if (offset + 4 > end) {
				PyErr_SetString(PyExc_ValueError, "a text word lies outside of the fixed part");
				return -1;
			}
			plan->texts[index] = (uint32_t)offset;
		}
	}
	return 0;
}

/* Whether this is one of the text words that every record is checked for. */
static bool is_text(const Plan *plan, uint32_t offset)
{
	for (int index = 0; index < plan->text_count; index++)
		if (plan->texts[index] == offset)
			return true;
	return false;
}

static bool inside(const Plan *plan, uint32_t offset, uint32_t size)
{
	return offset >= 64 && offset <= plan->fixed_end && size <= plan->fixed_end - offset;
}

/* Whether all that is read by a fixed offset lies in the part that every record of its event has. */
static bool coherent(const Core *core)
{
	const Table *table = &core->table;
	if (core->open_type >= TYPES || table->fork_type >= TYPES || table->exec_type >= TYPES || table->capacity < 2 ||
	    !table->ended_capacity)
		return false;
	const Plan *fork = &core->plans[table->fork_type], *exec = &core->plans[table->exec_type];
	return is_text(&core->plans[core->open_type], core->path_offset) &&
	       is_text(exec, table->exec.cgroup) && inside(fork, table->fork.child_pid, 4) &&
	       inside(fork, table->fork.child_ns_pid, 4) && inside(fork, table->fork.child_start_ns, 8) &&
	       inside(fork, table->fork.parent_pid, 4) && inside(fork, table->fork.parent_start_ns, 8) &&
	       inside(exec, table->exec.parent_pid, 4) && inside(exec, table->exec.ns_pid, 4) &&
	       inside(exec, table->exec.parent_start_ns, 8) && inside(exec, table->exec.session_pid, 4);
}

static int core_init(PyObject *self, PyObject *args, PyObject *keywords)
{
	static char *names[] = {"hooks", "seed", "layout", "events", NULL};
	Core *core = (Core *)self;
	PyObject *hooks, *layout, *rows;
	unsigned long long seed;
	if (core->hooks) {
		PyErr_SetString(PyExc_TypeError, "a core is made once");
		return -1;
	}
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "OKO!O!", names, &hooks, &seed, &PyDict_Type, &layout,
					 &PyDict_Type, &rows))
		return -1;
	core->hooks = Py_NewRef(hooks);
	core->table.hooks = hooks;
	core->table.seed = seed;
	core->epoch = 1;
	memo_init(&core->classes, CLASSES, CLASS_BYTES);
	memo_init(&core->paths, PATHS, PATHS_BYTES);
	memo_init(&core->decisions, DECISIONS, DECISION_BYTES);
	memo_init(&core->watched, WATCHED, WATCHED_BYTES);
	core->verdicts = calloc(DECISIONS, sizeof(PyObject *));
	if (!core->verdicts) {
		PyErr_NoMemory();
		return -1;
	}
	for (int ring = 0; ring < RINGS; ring++)
		if (!(core->sequences[ring] = calloc(CPUS, sizeof(uint64_t)))) {
			PyErr_NoMemory();
			return -1;
		}
	if (table_init(&core->table) < 0 || numbers(core, layout) < 0 || events(core, rows) < 0)
		return -1;
	if (!coherent(core)) {
		PyErr_SetString(PyExc_ValueError, "the layout does not hold together");
		return -1;
	}
	core->ready = true;
	return 0;
}

static int part_texts(Part *part, PyObject *row, const Plan *plan)
{
	bool failed;
	Texts *texts = texts_make(row, &failed);
	if (!texts)
		return failed ? -1 : 0;
	if (!is_text(plan, texts->path) || (texts->base && !is_text(plan, texts->base)) ||
	    (texts->name && !is_text(plan, texts->name))) {
		texts_free(texts);
		PyErr_SetString(PyExc_ValueError, "a path is made of text words");
		return -1;
	}
	part->texts = texts;
	return 0;
}

static int part_of(Part *part, PyObject *row, const Plan *plan, uint32_t *slots)
{
	int kind;
	PyObject *fields, *texts;
	if (!PyTuple_Check(row) || !PyArg_ParseTuple(row, "iO!O", &kind, &PyTuple_Type, &fields, &texts)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "a part is a tuple");
		return -1;
	}
	Py_ssize_t count = PyTuple_GET_SIZE(fields);
	if (kind < 0 || kind >= KINDS || count > FIELDS_MAX) {
		PyErr_SetString(PyExc_ValueError, "no such kind of part, or too many fields");
		return -1;
	}
	part->kind = (enum Kind)kind;
	part->absent = 0;
	part->count = (int)count;
	part->slot = kind == OWN || kind == PARENT || kind == LEADER ? (*slots)++ : 0;
	for (Py_ssize_t index = 0; index < count; index++) {
		unsigned int offset, size;
		int text;
		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(fields, index), "IIp", &offset, &size, &text))
			return -1;
		if (offset > plan->fixed_end || size > plan->fixed_end - offset ||
		    (text && (size != 4 || !is_text(plan, offset)))) {
			PyErr_SetString(PyExc_ValueError, "a field lies outside of the fixed part");
			return -1;
		}
		part->fields[index] = (Field){offset, size, text};
	}
	return texts == Py_None ? 0 : part_texts(part, texts, plan);
}

static bool usable(Core *core)
{
	if (core->ready && !core->running)
		return true;
	PyErr_SetString(PyExc_RuntimeError, core->ready ? "the core is at work" : "the core was not made");
	return false;
}

static void use_nothing(Core *core)
{
	for (int type = 0; type < TYPES; type++) {
		Plan *plan = &core->plans[type];
		plan->wanted = plan->open = false;
		plan->part_count = 0;
		for (int index = 0; index < PARTS_MAX; index++) {
			texts_free(plan->parts[index].texts);
			plan->parts[index].texts = NULL;
		}
	}
	core_forget(core);
}

static int use(Core *core, PyObject *plans)
{
	PyObject *key, *row;
	Py_ssize_t at = 0;
	uint32_t slots = 0;
	while (PyDict_Next(plans, &at, &key, &row)) {
		unsigned long type = PyLong_AsUnsignedLong(key);
		int open;
		PyObject *parts;
		if (PyErr_Occurred() || !PyArg_ParseTuple(row, "pO!", &open, &PyTuple_Type, &parts))
			return -1;
		Py_ssize_t count = PyTuple_GET_SIZE(parts);
		if (type >= TYPES || !core->plans[type].known || count > PARTS_MAX) {
			PyErr_SetString(PyExc_ValueError, "no such event, or too many parts");
			return -1;
		}
		Plan *plan = &core->plans[type];
		for (Py_ssize_t index = 0; index < count; index++)
			if (part_of(&plan->parts[index], PyTuple_GET_ITEM(parts, index), plan, &slots) < 0)
				return -1;
		plan->part_count = (int)count;
		plan->wanted = true;
		plan->open = open;
	}
	core->slots = slots;
	return 0;
}

static PyObject *core_use(PyObject *self, PyObject *args)
{
	Core *core = (Core *)self;
	PyObject *plans;
	int watching;
	if (!usable(core) || !PyArg_ParseTuple(args, "O!p", &PyDict_Type, &plans, &watching))
		return NULL;
	core->watching = watching;
	use_nothing(core); /* also where what comes is refused */
	if (use(core, plans) < 0) {
		PyObject *type, *value, *traceback;
		PyErr_Fetch(&type, &value, &traceback);
		use_nothing(core);
		PyErr_Restore(type, value, traceback);
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyObject *core_run_method(PyObject *self, PyObject *batches)
{
	Core *core = (Core *)self;
	PyObject *result = NULL;
	if (!usable(core))
		return NULL;
	if (!PyTuple_Check(batches))
		return PyErr_Format(PyExc_TypeError, "batches are a tuple of lists");
	for (Py_ssize_t ring = 0; ring < PyTuple_GET_SIZE(batches); ring++)
		if (!PyList_Check(PyTuple_GET_ITEM(batches, ring)))
			return PyErr_Format(PyExc_TypeError, "batches are a tuple of lists");
	core->running = true;
	int failed = core_run(core, batches, &result);
	process_release(core->acting);
	core->acting = NULL;
	core->running = false;
	return failed ? NULL : result;
}

static PyObject *core_forget_method(PyObject *self, PyObject *unused)
{
	(void)unused;
	if (!usable((Core *)self))
		return NULL;
	core_forget((Core *)self);
	Py_RETURN_NONE;
}

static PyObject *core_seed(PyObject *self, PyObject *found)
{
	Core *core = (Core *)self;
	if (!usable(core))
		return NULL;
	if (!PyList_Check(found))
		return PyErr_Format(PyExc_TypeError, "found processes are a list");
	if (table_seed(&core->table, found) < 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *core_acting(PyObject *self, PyObject *unused)
{
	Core *core = (Core *)self;
	(void)unused;
	if (!core->acting || !core->hooks)
		Py_RETURN_NONE;
	return table_view(&core->table, core->acting);
}

static PyObject *core_current(PyObject *self, PyObject *pid)
{
	Core *core = (Core *)self;
	unsigned long number_ = PyLong_AsUnsignedLong(pid);
	if (PyErr_Occurred())
		return NULL;
	Process *process = core->ready && core->hooks && number_ <= UINT32_MAX ? table_current(&core->table, (uint32_t)number_) : NULL;
	if (!process)
		Py_RETURN_NONE;
	return table_view(&core->table, process);
}

/* What was counted since the last call: ([(type, received, filtered, truncated, quiet)], duplicate exits, faults). */
static PyObject *core_take(PyObject *self, PyObject *unused)
{
	Core *core = (Core *)self;
	(void)unused;
	PyObject *list = PyList_New(0);
	for (unsigned int type = 0; list && type < TYPES; type++) {
		Count *count = &core->counts[type];
		if (!count->received)
			continue;
		PyObject *row = Py_BuildValue("IKKKK", type, (unsigned long long)count->received,
					      (unsigned long long)count->filtered, (unsigned long long)count->truncated,
					      (unsigned long long)count->quiet);
		if (!row || PyList_Append(list, row) < 0)
			Py_CLEAR(list);
		Py_XDECREF(row);
		*count = (Count){0};
	}
	if (!list)
		return NULL;
	PyObject *result = Py_BuildValue("NK(KKK)", list, (unsigned long long)core->duplicates,
					 (unsigned long long)core->faults[FAULT_SHORT],
					 (unsigned long long)core->faults[FAULT_ABI],
					 (unsigned long long)core->faults[FAULT_TYPE]);
	core->duplicates = 0;
	memset(core->faults, 0, sizeof(core->faults));
	return result;
}

/* The table's numbers, in the order of model.TableCounters, then the number of processes. */
static PyObject *core_table(PyObject *self, PyObject *unused)
{
	Core *core = (Core *)self;
	const TableCounters *c = &core->table.counters;
	(void)unused;
	return Py_BuildValue("KKKKKKKKKI", (unsigned long long)c->hits, (unsigned long long)c->misses,
			     (unsigned long long)c->created, (unsigned long long)c->evicted_live,
			     (unsigned long long)c->evicted_ended, (unsigned long long)c->duplicate_exits,
			     (unsigned long long)c->missed_exits, (unsigned long long)c->seeded,
			     (unsigned long long)c->adopted, core->table.by_key.count);
}

/* How often each memory was emptied for want of room: classes, paths, decisions, watched paths, programs. */
static PyObject *core_forgotten(PyObject *self, PyObject *unused)
{
	Core *core = (Core *)self;
	(void)unused;
	return Py_BuildValue("KKKKK", (unsigned long long)core->classes.forgotten,
			     (unsigned long long)core->paths.forgotten, (unsigned long long)core->decisions.forgotten,
			     (unsigned long long)core->watched.forgotten,
			     (unsigned long long)core->table.images.forgotten);
}

static int core_traverse(PyObject *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(((Core *)self)->hooks);
	return 0;
}

static int core_clear(PyObject *self)
{
	((Core *)self)->ready = false;
	Py_CLEAR(((Core *)self)->hooks);
	return 0;
}

static void core_dealloc(PyObject *self)
{
	Core *core = (Core *)self;
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	process_release(core->acting);
	table_free(&core->table);
	for (int type_ = 0; type_ < TYPES; type_++)
		for (int index = 0; index < PARTS_MAX; index++)
			texts_free(core->plans[type_].parts[index].texts);
	for (uint32_t index = 0; core->verdicts && index < core->verdict_count; index++)
		Py_XDECREF(core->verdicts[index]);
	free(core->verdicts);
	for (int ring = 0; ring < RINGS; ring++)
		free(core->sequences[ring]);
	memo_free(&core->classes);
	memo_free(&core->paths);
	memo_free(&core->decisions);
	memo_free(&core->watched);
	Py_XDECREF(core->hooks);
	type->tp_free(self);
	Py_DECREF(type);
}

static PyMethodDef methods[] = {
	{"use", core_use, METH_VARARGS, "Go on with other rules, {type: (open, parts)}, and a watch list or none."},
	{"run", core_run_method, METH_O, "Judge records, a list of bytes for each ring."},
	{"forget", core_forget_method, METH_NOARGS, "Forget every class and decision."},
	{"seed", core_seed, METH_O, "Take in processes of /proc."},
	{"acting", core_acting, METH_NOARGS, "A view of the process of the record at hand."},
	{"current", core_current, METH_O, "A view of the process that has a pid now, or had it last."},
	{"take", core_take, METH_NOARGS, "What was counted since the last call."},
	{"table", core_table, METH_NOARGS, "Numbers of the process table."},
	{"forgotten", core_forgotten, METH_NOARGS, "How often memories were emptied."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "The hot path over one engine's records."},
	{Py_tp_init, core_init},
	{Py_tp_dealloc, core_dealloc},
	{Py_tp_traverse, core_traverse},
	{Py_tp_clear, core_clear},
	{Py_tp_methods, methods},
	{Py_tp_new, PyType_GenericNew},
	{0, NULL},
};

static PyType_Spec spec = {"sensor._speed.Core", sizeof(Core), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&spec);
	PyObject *finder = PyType_FromSpec(&finder_spec);
	int failed = !type || !finder || PyModule_AddObjectRef(module, "Core", type) < 0 ||
		     PyModule_AddObjectRef(module, "Finder", finder) < 0 ||
		     PyModule_AddIntConstant(module, "PARTS_MAX", PARTS_MAX) < 0 ||
		     PyModule_AddIntConstant(module, "SETS", finder_sets) < 0 ||
		     PyModule_AddIntConstant(module, "TYPES", TYPES) < 0 ||
		     PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0;
	Py_XDECREF(type);
	Py_XDECREF(finder);
	return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef definition = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "sensor._speed",
	.m_doc = "The hot path of the engine in C; sensor.speed is its other half.",
	.m_size = 0,
	.m_methods = rows_methods,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__speed(void);
PyMODINIT_FUNC PyInit__speed(void)
{
	return PyModuleDef_Init(&definition);
}
