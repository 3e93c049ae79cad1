/* SPDX-License-Identifier: Apache-2.0
 *
 * Records in, those that Python has to look at out. What C knows of rules is only what Python told it: the class
 * of a value (the set of predicates that are true of it, as a number) and what a tuple of classes came to. So
 * there is one meaning of rules, in Python, and a memory of it here.
 */
#ifndef SENSOR_CORE_H
#define SENSOR_CORE_H

#include "table.h"
#include "texts.h"

#define TYPES 100      /* events of the kernel: schema.EVENTS below 100 */
#define PARTS_MAX 24   /* of one event */
#define HELD 0x4000    /* of a part: its class by what its texts hold, not by their bytes */
#define FIELDS_MAX 8   /* of one part */
#define TEXTS_MAX 16   /* text words of one event */
#define KEY_MAX 1024   /* longer material is not remembered */
#define RINGS 8
#define CPUS 1024

typedef struct {
	uint32_t offset, size;
	bool text;
} Field;

/* What a part of an event's class is made of. */
enum Kind { FIELDS, OWN, PARENT, LEADER, ANCESTORS, PARENT_UID, PARENT_PID, NS_PID, PLACE, KINDS };

typedef struct {
	enum Kind kind;
	uint32_t slot;   /* among the classes of an image */
	uint32_t absent; /* class where there is no such image; 0 until asked */
	int count;
	Field fields[FIELDS_MAX];
	Texts *texts; /* of a path; NULL: Python is asked for each value */
} Part;

typedef struct {
	bool known;  /* a row of the event table */
	bool wanted; /* some rule looks at it */
	bool open;   /* Python looks at each */
	uint32_t fixed_end;
	int text_count;
	uint32_t texts[TEXTS_MAX]; /* offsets of text words */
	int part_count;
	Part parts[PARTS_MAX];
} Plan;

typedef struct {
	uint64_t received, filtered, truncated, quiet;
} Count;

enum Fault { FAULT_SHORT, FAULT_ABI, FAULT_TYPE, FAULTS };

typedef struct {
	PyObject_HEAD
	PyObject *hooks;
	Table table;
	uint32_t abi, epoch, slots, open_type, keep_flags, truncated_flag, path_offset;
	bool watching;
	Plan plans[TYPES];
	Count counts[TYPES];
	uint64_t faults[FAULTS], duplicates;
	uint64_t *sequences[RINGS]; /* by processor: the number expected next, plus one; 0 unknown */
	Memo classes, paths, decisions, watched;
	PyObject **verdicts; /* of decisions; NULL is "no rule" */
	uint32_t verdict_count;
	Process *acting;
	bool ready, running;
} Core;

/* core.c */
int core_run(Core *core, PyObject *batches, PyObject **result);
void core_forget(Core *core);
/* decide.c: 1 no rule can match, 0 with *found (borrowed; None: not decided), -1 with an exception. */
int core_decide(Core *core, const Record *record, PyObject **found);
/* decide.c: 1 if a file_open is of no interest for want of a watched path, 0 if it is, -1 with an exception. */
int core_unwatched(Core *core, const Record *record);

#ifndef DECISIONS /* a test builds with memories that are full at once */
#define DECISIONS 32768u
#define CLASSES 32768u
#define PATHS 16384u
#define WATCHED 8192u
#endif
#define DECISION_BYTES (4u << 20)
#define CLASS_BYTES (6u << 20)
#define PATHS_BYTES (2u << 20)
#define WATCHED_BYTES (1u << 20)

#endif
