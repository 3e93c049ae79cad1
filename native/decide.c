/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
	unsigned char bytes[KEY_MAX];
	size_t used;
	bool over; /* too long to be remembered */
} Key;

static void add(Key *key, const void *data, size_t length)
{
	if (key->over || key->used + length > KEY_MAX) {
		key->over = true;
		return;
	}
	memcpy(key->bytes + key->used, data, length);
	key->used += length;
}

/* A text that was never written is another than an empty one. */
static void add_text(Key *key, const Record *record, uint32_t offset)
{
	uint32_t word;
	memcpy(&word, record->data + offset, sizeof(word));
	uint32_t length = word >> 16, told = word ? length + 1 : 0;
	add(key, &told, sizeof(told));
	if (word)
		add(key, record->data + (word & 0xffff), length);
}

static void begin(Key *key, const Record *record, int part)
{
	uint16_t head[2] = {record->type, (uint16_t)part};
	key->used = 0;
	key->over = false;
	add(key, head, sizeof(head));
}

/* Ask Python for a class; takes the reference of material. 0 with an exception. */
static uint32_t ask(Core *core, const Record *record, int part, PyObject *material)
{
	if (!material)
		return 0;
	PyObject *number = PyObject_CallMethod(core->hooks, "classify", "iiN", (int)record->type, part, material);
	unsigned long value = number ? PyLong_AsUnsignedLong(number) : 0;
	Py_XDECREF(number);
	if (PyErr_Occurred())
		return 0;
	if (!value || value > UINT32_MAX) {
		PyErr_SetString(PyExc_ValueError, "a class is a number from 1");
		return 0;
	}
	return (uint32_t)value;
}

static uint32_t remembered(Core *core, const Key *key, uint64_t *hash)
{
	*hash = hash_bytes(core->table.seed, key->bytes, key->used);
	return key->over ? 0 : memo_find(&core->classes, *hash, key->bytes, key->used);
}

static uint32_t remember_in(Memo *memo, const Key *key, uint64_t hash, uint32_t value)
{
	if (!value || key->over)
		return value;
	if (memo_full(memo, key->used))
		memo_clear(memo);
	memo_put(memo, hash, key->bytes, key->used, value); /* without memory it is asked for again */
	return value;
}

static uint32_t remember(Core *core, const Key *key, uint64_t hash, uint32_t value)
{
	return remember_in(&core->classes, key, hash, value);
}

/* By the literals that the path holds, however new it is. 0: only Python can tell, or an exception. */
static uint32_t class_of_texts(Core *core, const Record *record, const Part *part, int number)
{
	Key key;
	Hits hits;
	uint64_t hash;
	texts_look(part->texts, record, &hits);
	if (hits.open)
		return 0;
	begin(&key, record, number | HELD);
	add(&key, hits.atoms, sizeof(*hits.atoms) * (size_t)hits.count);
	uint32_t found = remembered(core, &key, &hash);
	if (found)
		return found;
	Py_INCREF(record->bytes);
	return remember(core, &key, hash, ask(core, record, number, record->bytes));
}

static uint32_t class_of_fields(Core *core, const Record *record, const Part *part, int number)
{
	/* Paths are forgotten apart from all else: a flood of new ones costs a look each, and Python nothing. */
	Memo *memo = part->texts ? &core->paths : &core->classes;
	Key key;
	begin(&key, record, number);
	for (int index = 0; index < part->count; index++) {
		const Field *field = &part->fields[index];
		if (field->text)
			add_text(&key, record, field->offset);
		else
			add(&key, record->data + field->offset, field->size);
	}
	uint64_t hash = hash_bytes(core->table.seed, key.bytes, key.used);
	uint32_t found = key.over ? 0 : memo_find(memo, hash, key.bytes, key.used);
	if (found)
		return found;
	if (part->texts) {
		found = class_of_texts(core, record, part, number);
		if (PyErr_Occurred())
			return 0;
	}
	if (!found) {
		Py_INCREF(record->bytes);
		found = ask(core, record, number, record->bytes);
	}
	return remember_in(memo, &key, hash, found);
}

static uint32_t class_of_number(Core *core, const Record *record, int number, int64_t value)
{
	Key key;
	uint64_t hash;
	begin(&key, record, number);
	add(&key, &value, sizeof(value));
	uint32_t found = remembered(core, &key, &hash);
	return found ? found : remember(core, &key, hash, ask(core, record, number, PyLong_FromLongLong(value)));
}

static uint32_t class_of_image(Core *core, const Record *record, Part *part, int number, Image *image)
{
	if (!image) {
		if (!part->absent)
			part->absent = ask(core, record, number, PyDict_New());
		return part->absent;
	}
	if (!image->classes || image->epoch != core->epoch) {
		uint32_t *classes = calloc(core->slots + 1, sizeof(uint32_t));
		if (!classes) {
			PyErr_NoMemory();
			return 0;
		}
		free(image->classes);
		image->classes = classes;
		image->epoch = core->epoch;
	}
	uint32_t *known = &image->classes[part->slot];
	if (!*known) {
		PyObject *facts = image_facts(&core->table, image);
		Py_XINCREF(facts);
		*known = ask(core, record, number, facts);
	}
	return *known;
}

static uint32_t class_of_ancestors(Core *core, const Record *record, int number)
{
	Image *images[ANCESTORS_MAX];
	int count = ancestors_of(core->acting, images);
	Key key;
	uint64_t hash;
	begin(&key, record, number);
	for (int index = 0; index < count; index++) {
		uint64_t serial = images[index] ? images[index]->serial : 0;
		add(&key, &serial, sizeof(serial));
	}
	uint32_t found = remembered(core, &key, &hash);
	if (found)
		return found;
	return remember(core, &key, hash, ask(core, record, number, facts_list(&core->table, images, count)));
}

static uint32_t class_of_place(Core *core, const Record *record, int number)
{
	const Process *process = core->acting;
	PyObject *place = process->place ? process->place : Py_None;
	/* An event that was late for a move shows the cgroup of its own record. */
	int64_t same = process->cgroup_id == record->cgroup_id, serial = -1;
	if (place != Py_None && PyTuple_GET_ITEM(place, 2) != Py_None) {
		serial = PyLong_AsLongLong(PyTuple_GET_ITEM(place, 2));
		if (serial == -1 && PyErr_Occurred())
			return 0;
	}
	Key key;
	uint64_t hash;
	begin(&key, record, number);
	add(&key, &serial, sizeof(serial));
	add(&key, &same, sizeof(same));
	uint32_t found = remembered(core, &key, &hash);
	return found ? found
		     : remember(core, &key, hash, ask(core, record, number, Py_BuildValue("OO", place, same ? Py_True : Py_False)));
}

static uint32_t class_of(Core *core, const Record *record, Part *part, int number)
{
	const Process *process = core->acting;
	switch (part->kind) {
	case OWN:
		return class_of_image(core, record, part, number, process->image);
	case PARENT:
		return class_of_image(core, record, part, number, process->parent ? process->parent->image : NULL);
	case LEADER:
		if (process->session_pid == process->pid)
			return class_of_image(core, record, part, number, process->image);
		return class_of_image(core, record, part, number, process->leader ? process->leader->image : NULL);
	case ANCESTORS:
		return class_of_ancestors(core, record, number);
	case PARENT_UID:
		return class_of_number(core, record, number, process->parent ? process->parent->uid : -1);
	case PARENT_PID:
		return class_of_number(core, record, number, process->parent ? (int64_t)process->parent->pid : -1);
	case NS_PID:
		return class_of_number(core, record, number, process->ns_pid);
	case PLACE:
		return class_of_place(core, record, number);
	default:
		return class_of_fields(core, record, part, number);
	}
}

static PyObject *numbers(const uint32_t *ids, int count)
{
	PyObject *tuple = PyTuple_New(count);
	for (int index = 0; tuple && index < count; index++) {
		PyObject *number = PyLong_FromUnsignedLong(ids[index]);
		if (!number) {
			Py_CLEAR(tuple);
			break;
		}
		PyTuple_SET_ITEM(tuple, index, number);
	}
	return tuple;
}

static void forget_verdicts(Core *core)
{
	for (uint32_t index = 0; index < core->verdict_count; index++)
		Py_XDECREF(core->verdicts[index]);
	core->verdict_count = 0;
	memo_clear(&core->decisions);
}

void core_forget(Core *core)
{
	forget_verdicts(core);
	memo_clear(&core->classes);
	memo_clear(&core->paths);
	memo_clear(&core->watched);
	core->epoch++;
	for (int type = 0; type < TYPES; type++)
		for (int index = 0; index < core->plans[type].part_count; index++)
			core->plans[type].parts[index].absent = 0;
}

int core_decide(Core *core, const Record *record, PyObject **found)
{
	Plan *plan = &core->plans[record->type];
	*found = Py_None;
	if (plan->open)
		return 0;
	uint32_t ids[1 + PARTS_MAX] = {record->type};
	for (int index = 0; index < plan->part_count; index++)
		if (!(ids[index + 1] = class_of(core, record, &plan->parts[index], index)))
			return -1;
	size_t length = sizeof(uint32_t) * (size_t)(plan->part_count + 1);
	uint64_t hash = hash_bytes(core->table.seed, ids, length);
	uint32_t known = memo_find(&core->decisions, hash, ids, length);
	if (!known) {
		PyObject *tuple = numbers(ids + 1, plan->part_count);
		PyObject *verdict = tuple ? PyObject_CallMethod(core->hooks, "decide", "iN", (int)record->type, tuple) : NULL;
		if (!verdict)
			return -1;
		if (verdict == Py_None)
			Py_CLEAR(verdict);
		if (memo_full(&core->decisions, length) || core->verdict_count >= DECISIONS)
			forget_verdicts(core);
		core->verdicts[core->verdict_count++] = verdict;
		known = core->verdict_count;
		if (memo_put(&core->decisions, hash, ids, length, known) < 0) {
			PyErr_NoMemory();
			return -1;
		}
	}
	PyObject *verdict = core->verdicts[known - 1];
	if (!verdict)
		return 1;
	*found = verdict;
	return 0;
}

int core_unwatched(Core *core, const Record *record)
{
	if (!core->watching || record->flags & core->keep_flags)
		return 0;
	Key key;
	key.used = 0;
	key.over = false;
	add_text(&key, record, core->path_offset);
	uint64_t hash = hash_bytes(core->table.seed, key.bytes, key.used);
	uint32_t known = key.over ? 0 : memo_find(&core->watched, hash, key.bytes, key.used);
	if (!known) {
		PyObject *answer = PyObject_CallMethod(core->hooks, "watched", "O", record->bytes);
		int truth = answer ? PyObject_IsTrue(answer) : -1;
		Py_XDECREF(answer);
		if (truth < 0)
			return -1;
		known = truth ? 1 : 2;
		if (!key.over) {
			if (memo_full(&core->watched, key.used))
				memo_clear(&core->watched);
			memo_put(&core->watched, hash, key.bytes, key.used, known);
		}
	}
	return known == 2;
}
