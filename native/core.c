/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 64u
#define TIME_OFFSET 16

typedef struct {
	uint64_t time_ns;
	uint32_t index; /* in the order of arrival, which stays among equal times */
	int ring;
	PyObject *bytes;
} Entry;

#define READ(member, offset) memcpy(&record->member, data + (offset), sizeof(record->member))

/* Check a record as kernel/decode.py does. Whatever passes can be read by any offset of its plan. */
static int check(const Core *core, PyObject *bytes)
{
	const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(bytes);
	size_t size = (size_t)PyBytes_GET_SIZE(bytes);
	uint32_t abi, word;
	uint16_t type;
	if (size < HEADER_BYTES)
		return FAULT_SHORT;
	memcpy(&abi, data, sizeof(abi));
	memcpy(&type, data + 4, sizeof(type));
	if (abi != core->abi)
		return FAULT_ABI;
	if (type >= TYPES || !core->plans[type].known)
		return FAULT_TYPE;
	const Plan *plan = &core->plans[type];
	if (size < plan->fixed_end)
		return FAULT_SHORT;
	for (int index = 0; index < plan->text_count; index++) {
		memcpy(&word, data + plan->texts[index], sizeof(word));
		if (word && (size_t)(word & 0xffff) + (word >> 16) > size)
			return FAULT_SHORT;
	}
	return FAULTS;
}

/* The header of a record that passed. */
static void read_header(PyObject *bytes, Record *record)
{
	const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(bytes);
	size_t size = (size_t)PyBytes_GET_SIZE(bytes);
	record->data = data;
	record->size = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
	record->bytes = bytes;
	READ(type, 4);
	READ(cpu, 6);
	READ(seq, 8);
	READ(time_ns, TIME_OFFSET);
	READ(start_ns, 24);
	READ(pid, 32);
	READ(tid, 36);
	READ(uid, 40);
	READ(gid, 44);
	READ(cgroup_id, 48);
	READ(mntns, 56);
	READ(flags, 60);
}

static int by_time(const void *left, const void *right)
{
	const Entry *a = left, *b = right;
	if (a->time_ns != b->time_ns)
		return a->time_ns < b->time_ns ? -1 : 1;
	return a->index < b->index ? -1 : 1;
}

/* The sound records of all rings in the order of their times; *count of them. */
static Entry *ordered(Core *core, PyObject *batches, uint32_t *count)
{
	Py_ssize_t room = 1;
	for (Py_ssize_t ring = 0; ring < PyTuple_GET_SIZE(batches); ring++)
		room += PyList_GET_SIZE(PyTuple_GET_ITEM(batches, ring));
	Entry *entries = room < INT32_MAX ? malloc(sizeof(*entries) * (size_t)room) : NULL;
	if (!entries) {
		PyErr_NoMemory();
		return NULL;
	}
	bool sorted = true;
	*count = 0;
	for (Py_ssize_t ring = 0; ring < PyTuple_GET_SIZE(batches); ring++) {
		PyObject *list = PyTuple_GET_ITEM(batches, ring);
		for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); index++) {
			PyObject *bytes = PyList_GET_ITEM(list, index);
			uint64_t time_ns;
			if (!PyBytes_Check(bytes)) {
				PyErr_SetString(PyExc_TypeError, "a record is bytes");
				while (*count)
					Py_DECREF(entries[--*count].bytes);
				free(entries);
				return NULL;
			}
			int fault = check(core, bytes);
			if (fault != FAULTS) {
				core->faults[fault]++;
				continue;
			}
			memcpy(&time_ns, PyBytes_AS_STRING(bytes) + TIME_OFFSET, sizeof(time_ns));
			if (*count && entries[*count - 1].time_ns > time_ns)
				sorted = false;
			Py_INCREF(bytes);
			entries[*count] = (Entry){time_ns, *count, (int)ring, bytes};
			++*count;
		}
	}
	if (!sorted)
		qsort(entries, *count, sizeof(*entries), by_time);
	return entries;
}

/* The number of a record: the next one is the rule, anything else is told to Python, which keeps the gaps. */
static int saw(Core *core, const Record *record)
{
	uint64_t *expected = record->ring < RINGS && record->cpu < CPUS && core->sequences[record->ring]
				     ? &core->sequences[record->ring][record->cpu]
				     : NULL;
	if (expected && *expected && *expected - 1 == record->seq && record->seq < UINT64_MAX - 2) {
		++*expected;
		return 0;
	}
	PyObject *known = expected && *expected ? PyLong_FromUnsignedLongLong(*expected - 1) : Py_NewRef(Py_None);
	PyObject *next = known ? PyObject_CallMethod(core->hooks, "saw", "iHKN", record->ring, record->cpu,
						     (unsigned long long)record->seq, known)
			       : NULL;
	if (!next)
		return -1;
	uint64_t value = PyLong_AsUnsignedLongLong(next);
	Py_DECREF(next);
	if (PyErr_Occurred()) /* a number that has no next one in 64 bits: Python goes on alone */
		PyErr_Clear();
	else if (expected && value < UINT64_MAX - 2) {
		*expected = value + 1;
		return 0;
	}
	if (expected)
		*expected = 0;
	return 0;
}

static int loud(Core *core, const Record *record, PyObject *found)
{
	Py_INCREF(found); /* what it does may make us forget */
	PyObject *done = PyObject_CallMethod(core->hooks, "loud", "OiO", record->bytes, record->ring, found);
	Py_DECREF(found);
	Py_XDECREF(done);
	return done ? 0 : -1;
}

static int judge(Core *core, const Record *record)
{
	Count *count = &core->counts[record->type];
	count->received++;
	if (saw(core, record) < 0)
		return -1;
	process_release(core->acting);
	core->acting = NULL;
	int state = table_apply(&core->table, record, &core->acting);
	if (state < 0)
		return -1;
	if (record->flags & core->truncated_flag)
		count->truncated++;
	if (!state) {
		core->duplicates++;
		return 0;
	}
	if (record->type == core->open_type) {
		int unwatched = core_unwatched(core, record);
		if (unwatched) {
			count->filtered += unwatched > 0;
			return unwatched < 0 ? -1 : 0;
		}
	}
	if (!core->plans[record->type].wanted)
		return 0;
	PyObject *found;
	int quiet = core_decide(core, record, &found);
	if (quiet < 0)
		return -1;
	count->quiet += quiet > 0;
	return quiet ? 0 : loud(core, record, found);
}

int core_run(Core *core, PyObject *batches, PyObject **result)
{
	uint32_t count = 0;
	Entry *entries = ordered(core, batches, &count);
	if (!entries)
		return -1;
	Record record = {0};
	uint64_t first_time = 0;
	unsigned int first_type = 0;
	int failed = 0;
	for (uint32_t index = 0; index < count && !failed; index++) {
		read_header(entries[index].bytes, &record);
		record.ring = entries[index].ring;
		if (!index) {
			first_time = record.time_ns;
			first_type = record.type;
		}
		failed = judge(core, &record) < 0;
	}
	if (!failed)
		*result = count ? Py_BuildValue("IKHKI", first_type, (unsigned long long)first_time, record.type,
						(unsigned long long)record.time_ns, count)
				: Py_NewRef(Py_None);
	for (uint32_t index = 0; index < count; index++)
		Py_DECREF(entries[index].bytes);
	free(entries);
	return failed || !*result ? -1 : 0;
}
