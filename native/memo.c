/* SPDX-License-Identifier: Apache-2.0 */
#include "memo.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SLOTS 256u
#define FIRST_ARENA 8192u

void memo_init(Memo *memo, uint32_t limit, size_t bytes)
{
	memset(memo, 0, sizeof(*memo));
	memo->limit = limit;
	memo->bytes = bytes;
}

void memo_free(Memo *memo)
{
	free(memo->slots);
	free(memo->arena);
	memo_init(memo, memo->limit, memo->bytes);
}

void memo_clear(Memo *memo)
{
	if (memo->slots)
		memset(memo->slots, 0, ((size_t)memo->mask + 1) * sizeof(Slot));
	memo->count = 0;
	memo->used = 0;
}

bool memo_full(Memo *memo, size_t length)
{
	if (memo->count < memo->limit && memo->used + length <= memo->bytes)
		return false;
	memo->forgotten++;
	return true;
}

uint32_t memo_find(const Memo *memo, uint64_t hash, const void *key, size_t length)
{
	if (!memo->slots)
		return 0;
	for (uint32_t at = (uint32_t)hash & memo->mask;; at = (at + 1) & memo->mask) {
		const Slot *slot = &memo->slots[at];
		if (!slot->value)
			return 0;
		if (slot->hash == hash && slot->length == length && !memcmp(memo->arena + slot->offset, key, length))
			return slot->value;
	}
}

static void place(Slot *slots, uint32_t mask, Slot slot)
{
	uint32_t at = (uint32_t)slot.hash & mask;
	while (slots[at].value)
		at = (at + 1) & mask;
	slots[at] = slot;
}

static int grow_slots(Memo *memo)
{
	uint32_t size = memo->slots ? (memo->mask + 1) * 2 : FIRST_SLOTS;
	Slot *slots = calloc(size, sizeof(Slot));
	if (!slots)
		return -1;
	for (uint32_t at = 0; memo->slots && at <= memo->mask; at++)
		if (memo->slots[at].value)
			place(slots, size - 1, memo->slots[at]);
	free(memo->slots);
	memo->slots = slots;
	memo->mask = size - 1;
	return 0;
}

static int grow_arena(Memo *memo, size_t need)
{
	size_t room = memo->room ? memo->room : FIRST_ARENA;
	while (room < need)
		room *= 2;
	unsigned char *arena = realloc(memo->arena, room);
	if (!arena)
		return -1;
	memo->arena = arena;
	memo->room = room;
	return 0;
}

int memo_put(Memo *memo, uint64_t hash, const void *key, size_t length, uint32_t value)
{
	if ((!memo->slots || (memo->count + 1) * 2 > memo->mask + 1) && grow_slots(memo) < 0)
		return -1;
	if ((!memo->arena || memo->used + length > memo->room) && grow_arena(memo, memo->used + length) < 0)
		return -1;
	Slot slot = {hash, (uint32_t)memo->used, (uint32_t)length, value};
	memcpy(memo->arena + memo->used, key, length);
	memo->used += length;
	memo->count++;
	place(memo->slots, memo->mask, slot);
	return 0;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t hash_bytes(uint64_t seed, const void *data, size_t length)
{
	static const uint64_t odd = 0x9e3779b97f4a7c15u;
	const unsigned char *at = data;
	uint64_t hash = fold(seed ^ length, odd), a, b;
	size_t left = length;
	for (; left >= 16; at += 16, left -= 16) {
		memcpy(&a, at, 8);
		memcpy(&b, at + 8, 8);
		hash = fold(a ^ seed, b ^ hash);
	}
	if (left) {
		unsigned char rest[16] = {0};
		memcpy(rest, at, left);
		memcpy(&a, rest, 8);
		memcpy(&b, rest + 8, 8);
		hash = fold(a ^ seed, b ^ hash);
	}
	return fold(hash ^ odd, seed | 1);
}
