/* SPDX-License-Identifier: Apache-2.0 */
#include "texts.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
	const unsigned char *at;
	size_t length;
} Span;

bool is_ascii(const unsigned char *text, size_t length)
{
	unsigned char all = 0;
	for (size_t index = 0; index < length; index++)
		all |= text[index];
	return all < 0x80;
}

void texts_free(Texts *texts)
{
	if (!texts)
		return;
	for (int index = 0; index < texts->count; index++) {
		automaton_free(&texts->scans[index].folded);
		automaton_free(&texts->scans[index].cased);
	}
	free(texts->open);
	free(texts);
}

/* --- made of what Python says ----------------------------------------------------------------------- */

typedef struct {
	const unsigned char *bytes;
	Py_ssize_t length;
	unsigned int relation, atom;
	int cased;
} Literal;

static int literal_of(Literal *literal, PyObject *row, uint32_t atoms)
{
	const char *bytes;
	if (!PyTuple_Check(row)) {
		PyErr_SetString(PyExc_TypeError, "a literal is a tuple");
		return -1;
	}
	if (!PyArg_ParseTuple(row, "y#IpI", &bytes, &literal->length, &literal->relation, &literal->cased, &literal->atom))
		return -1;
	literal->bytes = (const unsigned char *)bytes;
	if (literal->length > 0 && literal->relation < RELATIONS && literal->atom < atoms)
		return 0;
	PyErr_SetString(PyExc_ValueError, "no such literal");
	return -1;
}

int literals_build(Automaton *automaton, PyObject *rows, bool cased, uint32_t atoms)
{
	bool used[256] = {false};
	size_t bytes = 0;
	Literal literal;
	for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(rows); index++) {
		if (literal_of(&literal, PyTuple_GET_ITEM(rows, index), atoms) < 0)
			return -1;
		if (!literal.cased == cased)
			continue;
		bytes += (size_t)literal.length;
		for (Py_ssize_t at = 0; at < literal.length; at++)
			used[literal.bytes[at]] = true;
	}
	if (!bytes)
		return 0;
	int failed = automaton_begin(automaton, used, bytes, !cased);
	for (Py_ssize_t index = 0; !failed && index < PyTuple_GET_SIZE(rows); index++) {
		if (literal_of(&literal, PyTuple_GET_ITEM(rows, index), atoms) < 0)
			return -1;
		if (literal.cased == cased)
			failed = automaton_add(automaton, literal.bytes, (size_t)literal.length, (uint8_t)literal.relation,
					       (uint16_t)literal.atom);
	}
	if (!failed)
		failed = automaton_seal(automaton);
	if (failed < 0)
		PyErr_NoMemory();
	return failed;
}

static int scan_of(Scan *scan, PyObject *row, uint32_t atoms)
{
	unsigned int view, present;
	PyObject *rows;
	if (!PyTuple_Check(row)) {
		PyErr_SetString(PyExc_TypeError, "a scan is a tuple");
		return -1;
	}
	if (!PyArg_ParseTuple(row, "IIO!", &view, &present, &PyTuple_Type, &rows))
		return -1;
	if (view >= VIEWS || present >= atoms) {
		PyErr_SetString(PyExc_ValueError, "no such text of a path");
		return -1;
	}
	scan->view = (int)view;
	scan->present = (uint16_t)present;
	int failed = literals_build(&scan->folded, rows, false, atoms);
	return failed ? failed : literals_build(&scan->cased, rows, true, atoms);
}

Texts *texts_make(PyObject *row, bool *failed)
{
	Texts *texts = calloc(1, sizeof(*texts));
	PyObject *scans;
	const char *open;
	Py_ssize_t atoms;
	*failed = true;
	if (!texts) {
		PyErr_NoMemory();
		return NULL;
	}
	if (!PyTuple_Check(row) || !PyArg_ParseTuple(row, "IIIO!y#", &texts->path, &texts->base, &texts->name, &PyTuple_Type,
						     &scans, &open, &atoms)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "texts are a tuple");
		texts_free(texts);
		return NULL;
	}
	int result = PyTuple_GET_SIZE(scans) > SCANS_MAX || atoms > ATOMS_MAX || !atoms;
	texts->atoms = (uint32_t)atoms;
	if (!result && !(texts->open = malloc((size_t)atoms * sizeof(bool)))) {
		PyErr_NoMemory();
		result = -1;
	}
	for (Py_ssize_t atom = 0; !result && atom < atoms; atom++)
		texts->open[atom] = open[atom] != 0;
	for (Py_ssize_t index = 0; !result && index < PyTuple_GET_SIZE(scans); index++) {
		texts->count = (int)index + 1;
		result = scan_of(&texts->scans[index], PyTuple_GET_ITEM(scans, index), texts->atoms);
	}
	*failed = result < 0;
	if (!result)
		return texts;
	texts_free(texts);
	return NULL;
}

/* --- looked at --------------------------------------------------------------------------------------- */

void hits_add(void *to, uint16_t atom)
{
	Hits *hits = to;
	if (hits->opens && hits->opens[atom])
		hits->open = true;
	int at = hits->count;
	while (at && hits->atoms[at - 1] > atom)
		at--;
	if (at && hits->atoms[at - 1] == atom)
		return;
	if (hits->count == HITS_MAX) {
		hits->open = true;
		return;
	}
	memmove(hits->atoms + at + 1, hits->atoms + at, (size_t)(hits->count - at) * sizeof(*hits->atoms));
	hits->atoms[at] = atom;
	hits->count++;
}

/* A text word's bytes; false where it was never written. */
static bool text_at(const Record *record, uint32_t offset, Span *span)
{
	uint32_t word = 0;
	if (offset)
		memcpy(&word, record->data + offset, sizeof(word));
	*span = (Span){record->data + (word & 0xffff), word >> 16};
	return word != 0;
}

/* The components of a dentry walk come leaf first: each goes in front of those before it, as in kernel/decode.py. */
static unsigned char *walked(Span raw, const unsigned char *begin, unsigned char *end)
{
	unsigned char *to = end;
	size_t at = 0;
	while (at < raw.length) {
		const unsigned char *zero = memchr(raw.at + at, 0, raw.length - at);
		size_t length = zero ? (size_t)(zero - (raw.at + at)) : raw.length - at;
		if (length && !(length == 1 && raw.at[at] == '/')) {
			if (length + 1 > (size_t)(to - begin))
				return NULL;
			to -= length;
			memcpy(to, raw.at + at, length);
			*--to = '/';
		}
		at += length + 1;
	}
	if (to == end && to > begin)
		*--to = '/';
	return to;
}

/* Whether Python's normalise() would give the path back as it is, and each byte is a character. */
static bool plain(Span path, bool clean)
{
	if (!path.length || !is_ascii(path.at, path.length))
		return false;
	if (!clean)
		return true;
	const unsigned char *end = path.at + path.length, *slash = path.at;
	for (; (slash = memchr(slash, '/', (size_t)(end - slash))); slash++)
		if (slash + 1 == end || slash[1] == '/' || slash[1] == '.')
			return false;
	return path.at[0] == '/';
}

/* The record's path in buffer; false where Python has to make it. */
static bool path_of(const Texts *texts, const Record *record, unsigned char *buffer, Span *path)
{
	Span raw, base;
	unsigned char *end = buffer + PATH_BYTES;
	if (text_at(record, texts->path, &raw)) {
		unsigned char *begin = walked(raw, buffer, end);
		if (!begin)
			return false;
		*path = (Span){begin, (size_t)(end - begin)};
		return plain(*path, false);
	}
	if (!text_at(record, texts->name, &raw) || !raw.length)
		return false;
	if (!raw.at[raw.length - 1])
		raw.length--;
	if (!raw.length || raw.length > PATH_BYTES / 2)
		return false;
	end -= raw.length;
	memcpy(end, raw.at, raw.length);
	unsigned char *begin = end;
	if (*end != '/') {
		if (!text_at(record, texts->base, &base))
			return false;
		*--end = '/';
		begin = walked(base, buffer, end);
		if (!begin)
			return false;
	}
	*path = (Span){begin, (size_t)(buffer + PATH_BYTES - begin)};
	return plain(*path, true);
}

static size_t after_last(Span text, unsigned char byte)
{
	size_t at = text.length;
	while (at && text.at[at - 1] != byte)
		at--;
	return at;
}

/* As paths.split() does; an empty text is none. */
static Span view_of(Span path, int view)
{
	static const unsigned char root[] = "/";
	size_t slash = after_last(path, '/');
	Span name = {path.at + slash, path.length - slash};
	if (view == WHOLE)
		return path;
	if (view == NAME)
		return name;
	if (view == DIRECTORY)
		return slash > 1 ? (Span){path.at, slash - 1} : (Span){root, slash && name.length ? 1 : 0};
	size_t dot = after_last(name, '.'), dots = 0;
	while (dots + 1 < dot && name.at[dots] == '.')
		dots++;
	return dot > 1 && dots + 1 < dot ? (Span){name.at + dot, name.length - dot} : (Span){name.at, 0};
}

void texts_look(Texts *texts, const Record *record, Hits *hits)
{
	unsigned char buffer[PATH_BYTES];
	Span path;
	hits->count = 0;
	hits->opens = texts->open;
	hits->open = !path_of(texts, record, buffer, &path);
	for (int index = 0; !hits->open && index < texts->count; index++) {
		Scan *scan = &texts->scans[index];
		Span text = view_of(path, scan->view);
		if (!text.length)
			continue;
		hits_add(hits, scan->present);
		if (scan->folded.table)
			automaton_follow(&scan->folded, &scan->folded_trail, text.at, text.length, hits_add, hits);
		if (scan->cased.table)
			automaton_follow(&scan->cased, &scan->cased_trail, text.at, text.length, hits_add, hits);
	}
}
