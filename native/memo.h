/* SPDX-License-Identifier: Apache-2.0
 *
 * A bounded map from bytes to a number. When it is full everything is forgotten, as in rules/scan.py: events
 * repeat themselves, and a flood of new values must cost no more than having no memory at all.
 */
#ifndef SENSOR_MEMO_H
#define SENSOR_MEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
	uint64_t hash;
	uint32_t offset, length; /* of the key in the arena */
	uint32_t value;          /* 0: nothing here */
} Slot;

typedef struct {
	Slot *slots;
	unsigned char *arena;
	uint32_t mask, count, limit; /* limit: most keys */
	size_t used, room, bytes;    /* bytes: most that all keys may take */
	uint64_t forgotten;          /* times that it was emptied for want of room */
} Memo;

void memo_init(Memo *memo, uint32_t limit, size_t bytes);
void memo_free(Memo *memo);
void memo_clear(Memo *memo);
/* Whether one more key of this length needs memo_clear() first; counts that. */
bool memo_full(Memo *memo, size_t length);
/* The value of a key, or 0. */
uint32_t memo_find(const Memo *memo, uint64_t hash, const void *key, size_t length);
/* Remember a key that is not there; value is not 0. Returns -1 without memory. */
int memo_put(Memo *memo, uint64_t hash, const void *key, size_t length, uint32_t value);

/* Seeded, so that nobody outside can make keys that collide. */
uint64_t hash_bytes(uint64_t seed, const void *data, size_t length);

#endif
