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

void automaton_find(const Automaton *automaton, const unsigned char *text, size_t length, Found *found, void *to)
{
	uint32_t state = 0;
	for (size_t index = 0; index < length; index++) {
		state = automaton->table[(size_t)state * automaton->columns + automaton->class_of[text[index]]];
		if (!(state & TOLD))
			continue;
		state &= ~TOLD;
		uint32_t at = automaton->first[state] ? state : automaton->suffix[state];
		for (; at; at = automaton->suffix[at])
			for (uint32_t each = automaton->first[at]; each; each = automaton->outputs[each - 1].next)
				if (holds(&automaton->outputs[each - 1], index + 1, length))
					found(to, automaton->outputs[each - 1].atom);
	}
}
