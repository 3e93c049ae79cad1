/* SPDX-License-Identifier: Apache-2.0 */
#include "scan.h"

#include <stdlib.h>
#include <string.h>

static unsigned char lower(unsigned int byte)
{
	return (unsigned char)(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte);
}

void automaton_free(Automaton *automaton)
{
	free(automaton->table);
	free(automaton->first);
	free(automaton->suffix);
	free(automaton->outputs);
	memset(automaton, 0, sizeof(*automaton));
}

int automaton_begin(Automaton *automaton, const bool used[256], size_t bytes, bool folded)
{
	memset(automaton, 0, sizeof(*automaton));
	automaton->columns = 1;
	for (unsigned int byte = 0; byte < 256; byte++)
		if (used[byte])
			automaton->class_of[byte] = (uint8_t)automaton->columns++;
	for (unsigned int byte = 'A'; folded && byte <= 'Z'; byte++)
		automaton->class_of[byte] = automaton->class_of[lower(byte)];
	if (automaton->columns > 128 || bytes >= TOLD || bytes >= CELLS_MAX / automaton->columns)
		return 1;
	automaton->room = (uint32_t)bytes + 1;
	automaton->states = 1;
	automaton->table = calloc((size_t)automaton->room * automaton->columns, sizeof(uint16_t));
	automaton->first = calloc(automaton->room, sizeof(uint32_t));
	automaton->suffix = calloc(automaton->room, sizeof(uint32_t));
	return automaton->table && automaton->first && automaton->suffix ? 0 : -1;
}

int automaton_add(Automaton *automaton, const unsigned char *literal, size_t length, uint8_t relation, uint16_t atom)
{
	uint32_t state = 0;
	for (size_t index = 0; index < length; index++) {
		uint16_t *next = &automaton->table[(size_t)state * automaton->columns + automaton->class_of[literal[index]]];
		if (!*next) {
			if (automaton->states == automaton->room)
				return -1;
			*next = (uint16_t)automaton->states++;
		}
		state = *next;
	}
	if (automaton->output_count == automaton->output_room) {
		uint32_t room = automaton->output_room ? automaton->output_room * 2 : 64;
		Output *outputs = realloc(automaton->outputs, room * sizeof(Output));
		if (!outputs)
			return -1;
		automaton->outputs = outputs;
		automaton->output_room = room;
	}
	automaton->outputs[automaton->output_count] = (Output){(uint32_t)length, atom, relation, automaton->first[state]};
	automaton->first[state] = ++automaton->output_count;
	return 0;
}

/* From a trie to one step a byte: where a state has no edge it takes that of its longest suffix, level by level. */
int automaton_seal(Automaton *automaton)
{
	uint32_t *queue = malloc(automaton->states * sizeof(uint32_t)), *fail = calloc(automaton->states, sizeof(uint32_t));
	uint32_t head = 0, tail = 0;
	if (!queue || !fail) {
		free(queue);
		free(fail);
		return -1;
	}
	queue[tail++] = 0;
	while (head < tail) {
		uint32_t state = queue[head++];
		uint16_t *row = &automaton->table[(size_t)state * automaton->columns];
		const uint16_t *other = &automaton->table[(size_t)fail[state] * automaton->columns];
		automaton->suffix[state] = automaton->first[fail[state]] ? fail[state] : automaton->suffix[fail[state]];
		for (uint32_t column = 0; column < automaton->columns; column++) {
			if (row[column]) { /* an edge of the trie: no edge leads to the root */
				fail[row[column]] = state ? other[column] : 0;
				queue[tail++] = row[column];
			} else if (state) {
				row[column] = other[column];
			}
		}
	}
	free(queue);
	free(fail);
	size_t cells = (size_t)automaton->states * automaton->columns;
	for (size_t cell = 0; cell < cells; cell++) {
		uint32_t state = automaton->table[cell];
		if (automaton->first[state] || automaton->suffix[state])
			automaton->table[cell] |= TOLD;
	}
	return 0;
}

static bool holds(const Output *output, size_t end, size_t length)
{
	switch (output->relation) {
	case EQUALS:
		return end == length && output->length == length;
	case PREFIX:
		return end == output->length;
	case SUFFIX:
		return end == length;
	default:
		return true;
	}
}

/* What ends with a byte, at a state that was told. */
static void tell(const Automaton *automaton, uint32_t state, size_t end, size_t length, Found *found, void *to)
{
	uint32_t at = automaton->first[state] ? state : automaton->suffix[state];
	for (; at; at = automaton->suffix[at])
		for (uint32_t each = automaton->first[at]; each; each = automaton->outputs[each - 1].next)
			if (holds(&automaton->outputs[each - 1], end, length))
				found(to, automaton->outputs[each - 1].atom);
}

static uint32_t step(const Automaton *automaton, uint32_t state, unsigned char byte)
{
	return automaton->table[(size_t)state * automaton->columns + automaton->class_of[byte]];
}

void automaton_find(const Automaton *automaton, const unsigned char *text, size_t length, Found *found, void *to)
{
	uint32_t state = 0;
	for (size_t index = 0; index < length; index++) {
		state = step(automaton, state, text[index]);
		if (!(state & TOLD))
			continue;
		state &= ~TOLD;
		tell(automaton, state, index + 1, length, found, to);
	}
}

/* How many bytes of a text are those of the trail, and none of them the last of either. */
static size_t shared(const Trail *trail, const unsigned char *text, size_t length)
{
	size_t most = length < trail->length ? length : trail->length, at = 0;
	if (!most--)
		return 0;
	for (uint64_t ours, theirs; at + sizeof(ours) <= most; at += sizeof(ours)) {
		memcpy(&ours, trail->text + at, sizeof(ours));
		memcpy(&theirs, text + at, sizeof(theirs));
		if (ours != theirs)
			break;
	}
	while (at < most && trail->text[at] == text[at])
		at++;
	return at;
}

typedef struct {
	Trail *trail;
	size_t at;
	bool kept; /* whether the byte may be one of a longer text, too */
	Found *found;
	void *to;
} Step;

static void note(void *to, uint16_t atom)
{
	Step *step = to;
	Trail *trail = step->trail;
	if (step->kept && trail->found < TRAIL_FOUND) {
		trail->finds[trail->found].at = (uint16_t)step->at;
		trail->finds[trail->found].atom = atom;
	}
	trail->found += step->kept;
	step->found(step->to, atom);
}

void automaton_follow(const Automaton *automaton, Trail *trail, const unsigned char *text, size_t length, Found *found,
		      void *to)
{
	if (length > TRAIL_BYTES) {
		automaton_find(automaton, text, length, found, to);
		return; /* the trail stays that of the text before */
	}
	size_t begin = trail->found <= TRAIL_FOUND ? shared(trail, text, length) : 0;
	uint32_t state = begin ? trail->states[begin - 1] : 0, old = 0;
	for (; begin && old < trail->found && trail->finds[old].at < begin; old++)
		found(to, trail->finds[old].atom);
	trail->found = old;
	trail->length = (uint32_t)length;
	memcpy(trail->text + begin, text + begin, length - begin);
	for (size_t index = begin; index < length; index++) {
		state = step(automaton, state, text[index]);
		if (state & TOLD) {
			state &= ~TOLD;
			tell(automaton, state, index + 1, length, note, &(Step){trail, index, index + 1 < length, found, to});
		}
		trail->states[index] = (uint16_t)state;
	}
}
