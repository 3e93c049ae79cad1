/* SPDX-License-Identifier: Apache-2.0
 *
 * The process table of sensor/process/table.py, in C: the same steps in the same order, so that a document made
 * from either is the same. What is dear (a program's facts, what a cgroup path says) stays Python's, and is
 * asked for only when a document or a new class needs it.
 */
#ifndef SENSOR_TABLE_H
#define SENSOR_TABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "memo.h"

#define ANCESTORS_MAX 16 /* process/fragment.py */
#define PLACES 256u      /* cgroups whose path was learned last, by id */

typedef struct {
	const unsigned char *data;
	uint32_t size;
	uint16_t type, cpu;
	int ring;
	uint64_t seq, time_ns, start_ns, cgroup_id;
	uint32_t pid, tid, uid, gid, mntns, flags;
	PyObject *bytes; /* borrowed */
} Record;

/* What one execution told of a program; shared by the process and those that it forked. */
typedef struct {
	int refs;
	uint64_t serial;
	PyObject *facts;    /* NULL until somebody asks */
	unsigned char *raw; /* the record, without what is the process's own; NULL where facts came first */
	uint32_t length;
	uint32_t epoch; /* of classes */
	uint32_t *classes;
} Image;

typedef struct {
	int refs, count;
	Image *images[ANCESTORS_MAX]; /* NULL where not known */
} Lineage;

typedef struct Process Process;
struct Process {
	int refs;
	uint32_t pid, ns_pid, mntns, session_pid;
	int64_t uid, gid; /* -1 until known */
	uint64_t start_ns, named_ns, cgroup_id, /* named_ns: its start when it came, which gave its id */
		 image_ns, last_ns, ended_ns, order;
	bool exit_seen, approximate, kernel, listed;
	Image *image;
	PyObject *place; /* (Place, cgroup, serial) of the hooks; NULL is an unknown one */
	Process *parent, *leader, *before;
	Lineage *lineage;
	Process *key_next, *pid_next;       /* of the two maps */
	Process *ended_before, *ended_next; /* in the order of their ends */
};

typedef struct {
	Process **slots;
	uint32_t mask, count;
} Map;

typedef struct {
	uint64_t hits, misses, created, evicted_live, evicted_ended, duplicate_exits, missed_exits, seeded, adopted;
} TableCounters;

/* Where the fields that the table reads lie, from the record's start. */
typedef struct {
	uint32_t child_pid, child_ns_pid, child_start_ns, parent_pid, parent_start_ns;
} ForkOffsets;
typedef struct {
	uint32_t parent_pid, ns_pid, parent_start_ns, session_pid, cgroup, end;
} ExecOffsets;

typedef struct {
	uint64_t id;
	uint32_t length;
	unsigned char *path;
	PyObject *place;
} KnownPlace;

typedef struct {
	PyObject *hooks; /* what asks Python; borrowed from the core */
	uint64_t seed, order, serial;
	uint32_t capacity, ended_capacity, ended, slots; /* slots: classes of an image */
	uint32_t fork_type, exec_type, exit_type, credentials_type;
	Map by_key, by_pid;
	Process *ended_first, *ended_last;
	TableCounters counters;
	ForkOffsets fork;
	ExecOffsets exec;
	KnownPlace places[PLACES];
	Memo images; /* masked exec record -> index into image_list + 1 */
	Image **image_list;
	uint32_t image_count;
	unsigned char *scratch;
} Table;

int table_init(Table *table);
void table_free(Table *table);

/* Take in a record. 1 and *acting (a new reference), 0 for a second exit of a process, -1 with an exception. */
int table_apply(Table *table, const Record *record, Process **acting);
/* Take in processes of /proc: a list of tuples in the order of their starts. -1 with an exception. */
int table_seed(Table *table, PyObject *found);
/* The process that has a pid now or had it last; borrowed, or NULL and counted. */
Process *table_current(Table *table, uint32_t pid);
/* What hooks.view makes of a process. */
PyObject *table_view(Table *table, const Process *process);

/* Images of the parent and those above it that have a name; how many. */
/* Programs of the processes above, the parent's first; NULL for those not known. */
int ancestors_of(const Process *process, Image **found);
/* A list of their facts, None for NULL. */
PyObject *facts_list(Table *table, Image *const *images, int count);
/* A program's facts, a borrowed dict; NULL with an exception. */
PyObject *image_facts(Table *table, Image *image);
void process_release(Process *process);

#endif
