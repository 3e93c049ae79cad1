/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#define TICK_NS 10000000u      /* process/model.py */
#define LATE_NS 5000000000u    /* this and the next: process/table.py */
#define EVICT_SHARE 16u
#ifndef IMAGES
#define IMAGES 4096u
#endif
#define IMAGE_BYTES (4u << 20)
#define READABLE 131070u /* a text word reaches no further: 16 bits of offset and of length */

static uint32_t u32_at(const unsigned char *data, uint32_t offset)
{
	uint32_t value;
	memcpy(&value, data + offset, sizeof(value));
	return value;
}

static uint64_t u64_at(const unsigned char *data, uint32_t offset)
{
	uint64_t value;
	memcpy(&value, data + offset, sizeof(value));
	return value;
}

static bool after(uint64_t left, uint64_t right, uint64_t slack)
{
	return left > right && left - right > slack;
}

static bool near(uint64_t left, uint64_t right)
{
	return (left > right ? left - right : right - left) <= TICK_NS;
}

/* --- references ---------------------------------------------------------------------------------------- */

static void image_release(Image *image)
{
	if (!image || --image->refs)
		return;
	Py_XDECREF(image->facts);
	free(image->raw);
	free(image->classes);
	free(image);
}

static Image *image_keep(Image *image)
{
	if (image)
		image->refs++;
	return image;
}

static Image *image_new(Table *table)
{
	Image *image = calloc(1, sizeof(*image));
	if (!image) {
		PyErr_NoMemory();
		return NULL;
	}
	image->refs = 1;
	image->serial = ++table->serial;
	return image;
}

static void lineage_release(Lineage *lineage)
{
	if (!lineage || --lineage->refs)
		return;
	for (int index = 0; index < lineage->count; index++)
		image_release(lineage->images[index]);
	free(lineage);
}

static Process *process_keep(Process *process)
{
	if (process)
		process->refs++;
	return process;
}

/* Whoever is forgotten holds nobody, so this goes no deeper than a few steps but for chains of the living. */
void process_release(Process *process)
{
	while (process && !--process->refs) {
		Process *parent = process->parent;
		process_release(process->leader);
		process_release(process->before);
		image_release(process->image);
		lineage_release(process->lineage);
		Py_XDECREF(process->place);
		free(process);
		process = parent;
	}
}

static void set_process(Process **place, Process *process)
{
	Process *former = *place;
	*place = process_keep(process);
	process_release(former);
}

static void set_image(Process *process, Image *image) /* takes the reference */
{
	Image *former = process->image;
	process->image = image;
	image_release(former);
}

static void set_place(Process *process, PyObject *place) /* takes the reference */
{
	PyObject *former = process->place;
	process->place = place;
	Py_XDECREF(former);
}

/* --- the two maps -------------------------------------------------------------------------------------- */

static uint32_t pid_hash(const Table *table, uint32_t pid)
{
	return (uint32_t)hash_bytes(table->seed, &pid, sizeof(pid));
}

static uint32_t key_hash(const Table *table, uint32_t pid, uint64_t start_ns)
{
	uint64_t key[2] = {pid, start_ns};
	return (uint32_t)hash_bytes(table->seed, key, sizeof(key));
}

static int map_init(Map *map)
{
	map->mask = 255;
	map->count = 0;
	map->slots = calloc(map->mask + 1, sizeof(Process *));
	return map->slots ? 0 : -1;
}

static Process *by_key(const Table *table, uint32_t pid, uint64_t start_ns)
{
	Process *at = table->by_key.slots[key_hash(table, pid, start_ns) & table->by_key.mask];
	while (at && (at->pid != pid || at->start_ns != start_ns))
		at = at->key_next;
	return at;
}

static Process *by_pid(const Table *table, uint32_t pid)
{
	Process *at = table->by_pid.slots[pid_hash(table, pid) & table->by_pid.mask];
	while (at && at->pid != pid)
		at = at->pid_next;
	return at;
}

static void key_add(Table *table, Process *process)
{
	Map *map = &table->by_key;
	if (map->count > map->mask) {
		uint32_t mask = map->mask * 2 + 1;
		Process **slots = calloc((size_t)mask + 1, sizeof(Process *));
		if (slots) { /* else the chains get longer */
			for (uint32_t at = 0; at <= map->mask; at++)
				for (Process *each = map->slots[at], *next; each; each = next) {
					next = each->key_next;
					Process **head = &slots[key_hash(table, each->pid, each->start_ns) & mask];
					each->key_next = *head;
					*head = each;
				}
			free(map->slots);
			map->slots = slots;
			map->mask = mask;
		}
	}
	Process **head = &map->slots[key_hash(table, process->pid, process->start_ns) & map->mask];
	process->key_next = *head;
	*head = process;
	process->order = ++table->order;
	map->count++;
}

static void key_remove(Table *table, Process *process)
{
	Process **at = &table->by_key.slots[key_hash(table, process->pid, process->start_ns) & table->by_key.mask];
	while (*at && *at != process)
		at = &(*at)->key_next;
	if (*at) {
		*at = process->key_next;
		table->by_key.count--;
	}
	process->key_next = NULL;
}

static void pid_remove(Table *table, Process *process)
{
	Process **at = &table->by_pid.slots[pid_hash(table, process->pid) & table->by_pid.mask];
	while (*at && *at != process)
		at = &(*at)->pid_next;
	if (*at) {
		*at = process->pid_next;
		table->by_pid.count--;
	}
	process->pid_next = NULL;
}

static void pid_set(Table *table, Process *process)
{
	Process *former = by_pid(table, process->pid);
	if (former)
		pid_remove(table, former);
	Map *map = &table->by_pid;
	if (map->count > map->mask) {
		uint32_t mask = map->mask * 2 + 1;
		Process **slots = calloc((size_t)mask + 1, sizeof(Process *));
		if (slots) {
			for (uint32_t at = 0; at <= map->mask; at++)
				for (Process *each = map->slots[at], *next; each; each = next) {
					next = each->pid_next;
					Process **head = &slots[pid_hash(table, each->pid) & mask];
					each->pid_next = *head;
					*head = each;
				}
			free(map->slots);
			map->slots = slots;
			map->mask = mask;
		}
	}
	Process **head = &map->slots[pid_hash(table, process->pid) & map->mask];
	process->pid_next = *head;
	*head = process;
	map->count++;
}

/* --- ends and bounds ----------------------------------------------------------------------------------- */

static void ended_add(Table *table, Process *process)
{
	process->ended_before = table->ended_last;
	process->ended_next = NULL;
	*(table->ended_last ? &table->ended_last->ended_next : &table->ended_first) = process;
	table->ended_last = process;
	process->listed = true;
	table->ended++;
}

static void ended_remove(Table *table, Process *process)
{
	if (!process->listed)
		return;
	*(process->ended_before ? &process->ended_before->ended_next : &table->ended_first) = process->ended_next;
	*(process->ended_next ? &process->ended_next->ended_before : &table->ended_last) = process->ended_before;
	process->ended_before = process->ended_next = NULL;
	process->listed = false;
	table->ended--;
}

int ancestors_of(const Process *process, Image **found)
{
	int count = 0;
	const Process *last = process, *above = process->parent;
	for (int step = 0; step < ANCESTORS_MAX && above; step++) {
		found[count++] = above->image;
		last = above;
		above = above->parent;
	}
	for (int index = 0; last->lineage && index < last->lineage->count && count < ANCESTORS_MAX; index++)
		found[count++] = last->lineage->images[index];
	return count;
}

static void keep_lineage(Process *process)
{
	Image *found[ANCESTORS_MAX];
	int count = ancestors_of(process, found);
	Lineage *lineage = count ? calloc(1, sizeof(*lineage)) : NULL;
	if (lineage) { /* without memory the ancestors end here, as if the parent were unknown */
		lineage->refs = 1;
		lineage->count = count;
		for (int index = 0; index < count; index++)
			lineage->images[index] = image_keep(found[index]);
	}
	lineage_release(process->lineage);
	process->lineage = lineage;
}

static void forget(Table *table, Process *process)
{
	key_remove(table, process);
	if (by_pid(table, process->pid) == process)
		pid_remove(table, process);
	ended_remove(table, process);
	if (process->refs > 1)
		keep_lineage(process);
	set_process(&process->parent, NULL);
	set_process(&process->leader, NULL);
	set_process(&process->before, NULL);
	process_release(process);
}

static void evict_ended(Table *table)
{
	forget(table, table->ended_first);
	table->counters.evicted_ended++;
}

static int older(const void *left, const void *right)
{
	const Process *a = *(Process *const *)left, *b = *(Process *const *)right;
	if (a->last_ns != b->last_ns)
		return a->last_ns < b->last_ns ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

static int make_room(Table *table)
{
	if (table->ended_first) {
		evict_ended(table);
		return 0;
	}
	uint32_t count = table->capacity / EVICT_SHARE, all = 0;
	Process **list = malloc(sizeof(Process *) * (table->by_key.count + 1));
	if (!list) {
		PyErr_NoMemory();
		return -1;
	}
	for (uint32_t at = 0; at <= table->by_key.mask; at++)
		for (Process *each = table->by_key.slots[at]; each; each = each->key_next)
			list[all++] = each;
	qsort(list, all, sizeof(*list), older);
	count = count ? count : 1;
	for (uint32_t index = 0; index < count && index < all; index++) {
		forget(table, list[index]);
		table->counters.evicted_live++;
	}
	free(list);
	return 0;
}

static void end(Table *table, Process *process, uint64_t ended_ns)
{
	process->ended_ns = ended_ns ? ended_ns : 1;
	ended_add(table, process);
	if (table->ended > table->ended_capacity)
		evict_ended(table);
}

/* --- finding and making -------------------------------------------------------------------------------- */

static Process *adopt(Table *table, Process *process, uint64_t start_ns)
{
	Process *twin = by_key(table, process->pid, start_ns);
	if (twin && twin != process)
		forget(table, twin);
	key_remove(table, process);
	if (process->listed) {
		ended_remove(table, process);
		ended_add(table, process);
	}
	process->start_ns = start_ns;
	process->approximate = false;
	key_add(table, process);
	table->counters.adopted++;
	return process;
}

static Process *get(Table *table, uint32_t pid, uint64_t start_ns)
{
	Process *process = by_pid(table, pid);
	if (process) {
		if (process->start_ns == start_ns)
			return process;
		if (process->approximate && near(process->start_ns, start_ns))
			return adopt(table, process, start_ns);
	}
	return by_key(table, pid, start_ns);
}

/* A borrowed entry, which may have been thrown out again if it was old when it came: hold it. */
static Process *insert(Table *table, uint32_t pid, uint64_t start_ns)
{
	if (table->by_key.count >= table->capacity && make_room(table) < 0)
		return NULL;
	Process *process = calloc(1, sizeof(*process));
	if (!process) {
		PyErr_NoMemory();
		return NULL;
	}
	process->refs = 1;
	process->pid = pid;
	process->start_ns = process->named_ns = start_ns;
	process->uid = process->gid = -1;
	key_add(table, process);
	Process *former = by_pid(table, pid);
	if (!former || former->start_ns < start_ns) {
		if (former && !former->ended_ns) {
			process_keep(former);
			pid_set(table, process);
			table->counters.missed_exits++;
			end(table, former, start_ns);
			process_release(former);
		} else {
			pid_set(table, process);
		}
	} else {
		end(table, process, former->start_ns);
	}
	return process;
}

static Process *create(Table *table, uint32_t pid, uint64_t start_ns)
{
	table->counters.created++;
	return insert(table, pid, start_ns);
}

/* --- what records say ---------------------------------------------------------------------------------- */

static bool place_known(PyObject *place)
{
	return place && PyTuple_GET_SIZE(place) == 3 && PyTuple_GET_ITEM(place, 2) != Py_None;
}

static int checked_place(PyObject *place)
{
	if (PyTuple_Check(place) && PyTuple_GET_SIZE(place) == 3)
		return 0;
	PyErr_SetString(PyExc_TypeError, "a place has three parts");
	return -1;
}

static int take_header(Table *table, Process *process, const Record *record)
{
	if (record->cgroup_id != process->cgroup_id || !place_known(process->place)) {
		PyObject *fallback = process->cgroup_id || !process->place ? Py_None : process->place;
		PyObject *place = PyObject_CallMethod(table->hooks, "moved", "KO", (unsigned long long)record->cgroup_id,
						      fallback);
		if (!place)
			return -1;
		if (checked_place(place) < 0) {
			Py_DECREF(place);
			return -1;
		}
		process->cgroup_id = record->cgroup_id;
		set_place(process, place);
	}
	process->mntns = record->mntns;
	process->uid = record->uid;
	process->gid = record->gid;
	return 0;
}

/* A new reference: making room or telling of an end can throw out what is not held. */
static Process *find(Table *table, const Record *record)
{
	Process *process = get(table, record->pid, record->start_ns);
	if (!process) {
		process = process_keep(create(table, record->pid, record->start_ns));
		if (!process)
			return NULL;
		process->last_ns = record->time_ns;
		if (take_header(table, process, record) < 0) {
			process_release(process);
			return NULL;
		}
		return process;
	}
	table->counters.hits++;
	if (record->time_ns < process->last_ns)
		return process_keep(process->before && record->time_ns < process->image_ns ? process->before : process);
	process->last_ns = record->time_ns;
	process_keep(process);
	if ((record->uid != process->uid || record->cgroup_id != process->cgroup_id || record->mntns != process->mntns ||
	     record->gid != process->gid) &&
	    take_header(table, process, record) < 0) {
		process_release(process);
		return NULL;
	}
	if (process->before && after(record->time_ns, process->image_ns, LATE_NS))
		set_process(&process->before, NULL);
	return process;
}

/* -1 with an exception; *found is borrowed and may be NULL. */
static int named(Table *table, uint32_t pid, uint64_t start_ns, Process **found)
{
	*found = NULL;
	if (!pid)
		return 0;
	if (start_ns)
		*found = get(table, pid, start_ns);
	if (!*found) {
		table->counters.misses++;
		if (start_ns && !(*found = create(table, pid, start_ns)))
			return -1;
	}
	return 0;
}

static void set_parent(Process *child, Process *parent)
{
	if (!parent || parent == child || after(parent->start_ns, child->start_ns, child->approximate ? TICK_NS : 0))
		return;
	set_process(&child->parent, parent);
}

static void set_leader(Table *table, Process *process, Process *relative)
{
	uint32_t session = process->session_pid;
	Process *leader = NULL;
	if (session && session != process->pid) {
		if (relative && relative->session_pid == session)
			leader = relative->pid == session ? relative : relative->leader;
		if (!leader) {
			leader = by_pid(table, session);
			if (leader && (after(leader->start_ns, process->start_ns, TICK_NS) ||
				       (leader->ended_ns && leader->ended_ns < process->start_ns))) {
				leader = NULL;
				table->counters.misses++;
			}
		}
	}
	set_process(&process->leader, leader);
}

static int apply_fork(Table *table, Process *caller, const Record *record)
{
	const unsigned char *data = record->data;
	uint32_t pid = u32_at(data, table->fork.child_pid);
	uint64_t start_ns = u64_at(data, table->fork.child_start_ns);
	Process *child = get(table, pid, start_ns), *parent;
	if (!child && !(child = insert(table, pid, start_ns)))
		return -1;
	if (child->pid == caller->pid && child->start_ns == caller->start_ns)
		return 0;
	process_keep(child);
	if (!child->image) {
		set_image(child, image_keep(caller->image));
		child->kernel = caller->kernel;
		child->session_pid = caller->session_pid;
		child->ns_pid = u32_at(data, table->fork.child_ns_pid);
		set_leader(table, child, caller);
		if (!child->last_ns) {
			child->uid = record->uid;
			child->gid = record->gid;
			child->mntns = record->mntns;
			child->cgroup_id = caller->cgroup_id;
			Py_XINCREF(caller->place);
			set_place(child, caller->place);
			child->last_ns = record->time_ns;
		}
	}
	if (!child->parent) {
		uint32_t parent_pid = u32_at(data, table->fork.parent_pid);
		uint64_t parent_start = u64_at(data, table->fork.parent_start_ns);
		bool own = (!parent_pid && !parent_start) ||
			   (parent_pid == caller->pid && parent_start == caller->start_ns);
		if (own) {
			parent = get(table, caller->pid, caller->start_ns);
		} else if (named(table, parent_pid, parent_start, &parent) < 0) {
			process_release(child);
			return -1;
		}
		set_parent(child, parent);
	}
	process_release(child);
	return 0;
}

/* --- programs ------------------------------------------------------------------------------------------ */

PyObject *image_facts(Table *table, Image *image)
{
	if (!image->facts) {
		image->facts = PyObject_CallMethod(table->hooks, "facts", "y#", (const char *)image->raw,
						   (Py_ssize_t)image->length);
		if (image->facts && !PyDict_Check(image->facts)) {
			Py_CLEAR(image->facts);
			PyErr_SetString(PyExc_TypeError, "facts are a dict");
		}
	}
	return image->facts;
}

static void forget_images(Table *table)
{
	for (uint32_t index = 0; index < table->image_count; index++)
		image_release(table->image_list[index]);
	table->image_count = 0;
	memo_clear(&table->images);
}

/* The program of an exec record, a new reference: one object for records that say the same of it. */
static Image *image_of(Table *table, const Record *record)
{
	/* The header but for layout, type and flags, and four fields, speak of the process, not of its program. */
	unsigned char *masked = table->scratch;
	uint32_t size = record->size < READABLE ? record->size : READABLE;
	memcpy(masked, record->data, size);
	memset(masked + 6, 0, 54);
	memset(masked + table->exec.parent_pid, 0, 4);
	memset(masked + table->exec.ns_pid, 0, 4);
	memset(masked + table->exec.parent_start_ns, 0, 8);
	memset(masked + table->exec.session_pid, 0, 4);
	uint64_t hash = hash_bytes(table->seed, masked, size);
	uint32_t found = memo_find(&table->images, hash, masked, size);
	if (found)
		return image_keep(table->image_list[found - 1]);
	Image *image = image_new(table);
	if (!image)
		return NULL;
	image->raw = malloc(size);
	if (!image->raw) {
		image_release(image);
		PyErr_NoMemory();
		return NULL;
	}
	memcpy(image->raw, masked, size);
	image->length = size;
	if (memo_full(&table->images, size))
		forget_images(table);
	if (!memo_put(&table->images, hash, image->raw, size, table->image_count + 1))
		table->image_list[table->image_count++] = image_keep(image);
	return image;
}

static Image *image_from(Table *table, PyObject *facts) /* takes the reference of facts */
{
	Image *image = facts && PyDict_Check(facts) ? image_new(table) : NULL;
	if (!image) {
		Py_XDECREF(facts);
		image_release(image);
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "facts are a dict");
		return NULL;
	}
	image->facts = facts;
	return image;
}

/* Learn the cgroup's path and take it, if the record tells one. */
static int take_place(Table *table, Process *process, const Record *record)
{
	uint32_t word = u32_at(record->data, table->exec.cgroup), length = word >> 16;
	const unsigned char *path = record->data + (word & 0xffff);
	if (!word)
		return 0;
	KnownPlace *known = &table->places[record->cgroup_id % PLACES];
	bool same = known->place && known->id == record->cgroup_id && known->length == length &&
		    (!length || !memcmp(known->path, path, length));
	if (!same) {
		unsigned char *copy = malloc(length ? length : 1);
		PyObject *place = copy ? PyObject_CallMethod(table->hooks, "executed_in", "Ky#",
							     (unsigned long long)record->cgroup_id, (const char *)path,
							     (Py_ssize_t)length)
				       : PyErr_NoMemory();
		if (!place || checked_place(place) < 0) {
			Py_XDECREF(place);
			free(copy);
			return -1;
		}
		free(known->path);
		Py_XDECREF(known->place);
		memcpy(copy, path, length);
		*known = (KnownPlace){record->cgroup_id, length, copy, place};
	}
	process->cgroup_id = record->cgroup_id;
	Py_INCREF(known->place);
	set_place(process, known->place);
	return 0;
}

static Process *snapshot(const Process *process)
{
	Process *other = malloc(sizeof(*other));
	if (!other) {
		PyErr_NoMemory();
		return NULL;
	}
	*other = *process;
	other->refs = 1;
	other->ended_ns = 0;
	other->exit_seen = other->approximate = other->listed = false;
	other->before = other->key_next = other->pid_next = other->ended_before = other->ended_next = NULL;
	image_keep(other->image);
	process_keep(other->parent);
	process_keep(other->leader);
	if (other->lineage)
		other->lineage->refs++;
	Py_XINCREF(other->place);
	return other;
}

static int exec_into(Table *table, Process *process, const Record *record)
{
	const unsigned char *data = record->data;
	Process *before = process->image ? snapshot(process) : NULL, *parent;
	Image *image = process->image && !before ? NULL : image_of(table, record);
	if (!image) {
		process_release(before);
		return -1;
	}
	set_process(&process->before, NULL);
	process->before = before;
	set_image(process, image);
	if (record->time_ns > process->last_ns)
		process->last_ns = record->time_ns;
	process->image_ns = process->last_ns;
	process->ns_pid = u32_at(data, table->exec.ns_pid);
	process->kernel = false;
	if (u32_at(data, table->exec.cgroup)) {
		if (take_place(table, process, record) < 0)
			return -1;
		process->mntns = record->mntns;
		process->uid = record->uid;
		process->gid = record->gid;
	} else if (take_header(table, process, record) < 0) {
		return -1;
	}
	if (!process->parent) {
		if (named(table, u32_at(data, table->exec.parent_pid), u64_at(data, table->exec.parent_start_ns), &parent) < 0)
			return -1;
		set_parent(process, parent);
	}
	uint32_t session = u32_at(data, table->exec.session_pid);
	if (session != process->session_pid || !process->leader) {
		process->session_pid = session;
		set_leader(table, process, process->parent);
	}
	return 0;
}

static Process *apply_exec(Table *table, const Record *record)
{
	Process *process = get(table, record->pid, record->start_ns);
	if (process)
		table->counters.hits++;
	else if (!(process = create(table, record->pid, record->start_ns)))
		return NULL;
	process_keep(process);
	if (exec_into(table, process, record) < 0) {
		process_release(process);
		return NULL;
	}
	return process;
}

static int apply_exit(Table *table, Process *process, const Record *record)
{
	Process *owner = get(table, record->pid, record->start_ns);
	if (!owner)
		owner = process;
	if (owner->exit_seen) {
		table->counters.duplicate_exits++;
		return 0;
	}
	owner->exit_seen = true;
	if (!owner->ended_ns)
		end(table, owner, record->time_ns);
	return 1;
}

static int apply_credentials(Table *table, Process *process, const Record *record)
{
	PyObject *facts = process->image ? image_facts(table, process->image) : Py_None;
	if (!facts)
		return -1;
	Image *image = image_from(table, PyObject_CallMethod(table->hooks, "credentials", "OO", facts, record->bytes));
	if (!image)
		return -1;
	set_image(process, image);
	return 0;
}

int table_apply(Table *table, const Record *record, Process **acting)
{
	*acting = record->type == table->exec_type ? apply_exec(table, record) : find(table, record);
	if (!*acting)
		return -1;
	int result = 1;
	if (record->type == table->fork_type)
		result = apply_fork(table, *acting, record) < 0 ? -1 : 1;
	else if (record->type == table->exit_type)
		result = apply_exit(table, *acting, record);
	else if (record->type == table->credentials_type)
		result = apply_credentials(table, *acting, record) < 0 ? -1 : 1;
	if (result != 1) {
		process_release(*acting);
		*acting = NULL;
	}
	return result;
}

/* --- /proc --------------------------------------------------------------------------------------------- */

/* 1 if the table learned something; *entry is held then. */
static int seed_one(Table *table, PyObject *item, Process **entry, unsigned int *parent_pid, unsigned int *session)
{
	unsigned int pid, ns_pid, mntns;
	unsigned long long start_ns, cgroup_id;
	long long uid, gid;
	int kernel;
	PyObject *facts, *path;
	if (!PyTuple_Check(item) ||
	    !PyArg_ParseTuple(item, "IKIpILLKIO!OI", &pid, &start_ns, parent_pid, &kernel, &ns_pid, &uid, &gid,
			      &cgroup_id, &mntns, &PyDict_Type, &facts, &path, session)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "a found process is a tuple");
		return -1;
	}
	Process *process = by_pid(table, pid);
	if (process) {
		if (!near(process->start_ns, start_ns)) {
			if (process->start_ns > start_ns)
				return 0;
			process = NULL;
		} else if (process->image) {
			return 0;
		}
	}
	if (!process) {
		process = insert(table, pid, start_ns);
		if (!process)
			return -1;
		process->approximate = true;
	}
	table->counters.seeded++;
	*entry = process_keep(process);
	Py_INCREF(facts);
	Image *image = image_from(table, facts);
	PyObject *place = image ? PyObject_CallMethod(table->hooks, "seeded_in", "KO", cgroup_id, path) : NULL;
	if (!place || checked_place(place) < 0) {
		Py_XDECREF(place);
		image_release(image);
		return -1;
	}
	set_image(process, image);
	process->kernel = kernel;
	if (!process->ns_pid)
		process->ns_pid = ns_pid;
	if (!process->last_ns) {
		process->uid = uid;
		process->gid = gid;
		process->mntns = mntns;
		process->cgroup_id = cgroup_id;
		set_place(process, place);
	} else {
		Py_DECREF(place);
	}
	return 1;
}

static void forget_places(Table *table)
{
	for (uint32_t index = 0; index < PLACES; index++) {
		free(table->places[index].path);
		Py_XDECREF(table->places[index].place);
		table->places[index] = (KnownPlace){0};
	}
}

int table_seed(Table *table, PyObject *found)
{
	Py_ssize_t count = PyList_GET_SIZE(found), fresh = 0;
	struct fresh {
		Process *process;
		unsigned int parent_pid, session;
	} *list = malloc(sizeof(*list) * (size_t)(count + 1));
	if (!list) {
		PyErr_NoMemory();
		return -1;
	}
	forget_places(table);
	int result = 0;
	for (Py_ssize_t index = 0; index < count && result >= 0; index++) {
		struct fresh *next = &list[fresh];
		next->process = NULL;
		result = seed_one(table, PyList_GET_ITEM(found, index), &next->process, &next->parent_pid, &next->session);
		if (next->process)
			fresh++;
	}
	for (Py_ssize_t index = 0; index < fresh; index++) {
		Process *process = list[index].process;
		if (result >= 0) {
			if (!process->parent)
				set_parent(process, by_pid(table, list[index].parent_pid));
			if (!process->session_pid)
				process->session_pid = list[index].session;
			set_leader(table, process, NULL);
		}
		process_release(process);
	}
	free(list);
	return result < 0 ? -1 : 0;
}

/* --- looking ------------------------------------------------------------------------------------------- */

Process *table_current(Table *table, uint32_t pid)
{
	Process *process = by_pid(table, pid);
	if (!process)
		table->counters.misses++;
	return process;
}

/* Facts of a program that may be unknown; borrowed. */
static PyObject *facts_or_none(Table *table, Image *image)
{
	return image ? image_facts(table, image) : Py_None;
}

PyObject *facts_list(Table *table, Image *const *images, int count)
{
	PyObject *list = PyList_New(count);
	for (int index = 0; list && index < count; index++) {
		PyObject *facts = facts_or_none(table, images[index]);
		if (!facts) {
			Py_CLEAR(list);
			break;
		}
		Py_INCREF(facts);
		PyList_SET_ITEM(list, index, facts);
	}
	return list;
}

static PyObject *lineage_facts(Table *table, const Process *process)
{
	const Lineage *lineage = process->lineage;
	return lineage ? facts_list(table, lineage->images, lineage->count) : PyList_New(0);
}

/* One process with as many parents above it as ancestors are shown. */
static PyObject *view(Table *table, const Process *process, int parents, bool with_leader)
{
	PyObject *facts = facts_or_none(table, process->image), *made = NULL;
	PyObject *parent = Py_None, *leader = Py_None, *lineage = NULL;
	Py_INCREF(Py_None);
	Py_INCREF(Py_None);
	if (!facts)
		goto out;
	if (process->parent && parents > 0) {
		Py_DECREF(parent);
		parent = view(table, process->parent, parents - 1, false);
	}
	if (parent && process->leader && with_leader) {
		Py_DECREF(leader);
		leader = view(table, process->leader, 0, false);
	}
	lineage = parent && leader ? lineage_facts(table, process) : NULL;
	if (lineage)
		made = PyObject_CallMethod(table->hooks, "view", "IKKILLIKIOOKOOOO", process->pid,
					   (unsigned long long)process->start_ns,
					   (unsigned long long)process->named_ns, process->ns_pid, (long long)process->uid,
					   (long long)process->gid, process->mntns, (unsigned long long)process->cgroup_id,
					   process->session_pid, facts, process->place ? process->place : Py_None,
					   (unsigned long long)process->last_ns, process->kernel ? Py_True : Py_False,
					   parent, leader, lineage);
out:
	Py_XDECREF(parent);
	Py_XDECREF(leader);
	Py_XDECREF(lineage);
	return made;
}

PyObject *table_view(Table *table, const Process *process)
{
	return view(table, process, ANCESTORS_MAX + 1, true);
}

/* --- beginning and end --------------------------------------------------------------------------------- */

int table_init(Table *table)
{
	memo_init(&table->images, IMAGES, IMAGE_BYTES);
	table->image_list = calloc(IMAGES, sizeof(Image *));
	table->scratch = malloc(READABLE);
	if (!table->image_list || !table->scratch || map_init(&table->by_key) < 0 || map_init(&table->by_pid) < 0) {
		PyErr_NoMemory();
		return -1;
	}
	return 0;
}

void table_free(Table *table)
{
	if (table->by_key.slots) {
		/* References among the living first: chains of them would be released by recursion, rings never. */
		for (uint32_t at = 0; at <= table->by_key.mask; at++)
			for (Process *each = table->by_key.slots[at]; each; each = each->key_next) {
				set_process(&each->parent, NULL);
				set_process(&each->leader, NULL);
				set_process(&each->before, NULL);
			}
		for (uint32_t at = 0; at <= table->by_key.mask; at++)
			for (Process *each = table->by_key.slots[at], *next; each; each = next) {
				next = each->key_next;
				process_release(each);
			}
	}
	if (table->image_list)
		forget_images(table);
	forget_places(table);
	memo_free(&table->images);
	free(table->image_list);
	free(table->scratch);
	free(table->by_key.slots);
	free(table->by_pid.slots);
	memset(table, 0, sizeof(*table));
}
