/* SPDX-License-Identifier: Apache-2.0
 *
 * Which literals of rules a text holds, in one pass (Aho-Corasick). Texts are ASCII: case is folded by a table.
 */
#ifndef SENSOR_SCAN_H
#define SENSOR_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CELLS_MAX (1u << 20) /* of one table: 2 MB; more literals than that are left to Python */

enum Relation { EQUALS, PREFIX, SUFFIX, CONTAINS, RELATIONS };

#define TOLD 0x8000u

/* What is true of a text where a literal ends. */
typedef struct {
	uint32_t length; /* of the literal */
	uint16_t atom;   /* its number */
	uint8_t relation;
	uint32_t next; /* index of another one of the same state, plus one */
} Output;

typedef struct {
	uint8_t class_of[256]; /* byte -> column; 0: in no literal */
	uint32_t columns, states, output_count, output_room, room;
	uint16_t *table;  /* state, column -> state, with TOLD where a literal ends there */
	uint32_t *first;  /* state -> index of its first output, plus one */
	uint32_t *suffix; /* state -> the longest shorter one that has outputs, or 0 */
	Output *outputs;
} Automaton;

/* Takes what was found: an atom may come more than once. */
typedef void Found(void *to, uint16_t atom);

#define TRAIL_BYTES 1024
#define TRAIL_FOUND 64

/*
 * The way that a text took, for the next one that begins alike: paths that follow one another share directories.
 * What was found is kept as far as it does not depend on where the text ends. All zero at first.
 */
typedef struct {
	uint32_t length, found;
	unsigned char text[TRAIL_BYTES];
	uint16_t states[TRAIL_BYTES]; /* after each byte */
	struct {
		uint16_t at, atom; /* the byte that completed it */
	} finds[TRAIL_FOUND];
} Trail;

void automaton_free(Automaton *automaton);
/* Room for literals of so many bytes in all; bytes that occur in one are marked in used. 1: too many, -1: no memory. */
int automaton_begin(Automaton *automaton, const bool used[256], size_t bytes, bool folded);
int automaton_add(Automaton *automaton, const unsigned char *literal, size_t length, uint8_t relation, uint16_t atom);
int automaton_seal(Automaton *automaton);
void automaton_find(const Automaton *automaton, const unsigned char *text, size_t length, Found *found, void *to);
/* The same, from where the text parts from the one before it. A trail belongs to one automaton. */
void automaton_follow(const Automaton *automaton, Trail *trail, const unsigned char *text, size_t length, Found *found,
		      void *to);

#endif
