/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of events that are made of a path: which literals of rules its texts hold says as much of it as Python would
 * find out, so that a path never seen before needs no look by Python.
 */
#ifndef SENSOR_TEXTS_H
#define SENSOR_TEXTS_H

#include "scan.h"
#include "table.h"

#define PATH_BYTES 1024 /* longer ones are left to Python */
#define SCANS_MAX 4
#define ATOMS_MAX 8192
#define HITS_MAX 64

/* What of a path a scan looks at; the numbers are those of sensor/speed.py. */
enum View { WHOLE, DIRECTORY, NAME, EXTENSION, VIEWS };

typedef struct {
	int view;
	uint16_t present; /* the atom of there being such a text */
	Automaton folded, cased;
	Trail folded_trail, cased_trail;
} Scan;

typedef struct {
	uint32_t path, base, name; /* offsets of text words; base and name 0 where the event has none */
	int count;
	Scan scans[SCANS_MAX];
	uint32_t atoms;
	bool *open; /* by atom: where it is true only Python can tell */
} Texts;

typedef struct {
	uint16_t atoms[HITS_MAX]; /* rising */
	int count;
	bool open; /* only Python can tell */
	const bool *opens; /* by atom, or NULL: all of them decide */
} Hits;

bool is_ascii(const unsigned char *text, size_t length);
/* Take an atom: what an automaton calls. */
void hits_add(void *to, uint16_t atom);
/* Of literals, rows of (bytes, relation, cased, atom), those that are cased or those that are not. 1: too many. */
int literals_build(Automaton *automaton, PyObject *rows, bool cased, uint32_t atoms);
/* From (path, base, name, scans, open): see sensor/speed.py. NULL with *failed, or where there is too much of it. */
Texts *texts_make(PyObject *row, bool *failed);
void texts_free(Texts *texts);
/* The atoms that are true of a record's path. hits->open: they do not decide. */
void texts_look(Texts *texts, const Record *record, Hits *hits);

#endif
