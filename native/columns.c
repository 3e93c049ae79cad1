/* SPDX-License-Identifier: Apache-2.0
 *
 * sensor._speed.Finder: which literals of rules each text of an Arrow array holds, as a number for each set of
 * literals. What a set comes to Python finds out once, from the first text that has it.
 */
#include "columns.h"

#include <string.h>

#include "memo.h"
#include "texts.h"

#ifndef SETS
#define SETS 4096u
#endif
#define SETS_BYTES (1u << 20)
#define LEFT_OPEN (-1) /* a text that is left to Python */
#define FAILED (-2)

typedef struct {
	PyObject_HEAD
	Automaton folded, cased;
	Trail folded_trail, cased_trail;
	Memo sets; /* atoms -> number of the set, plus one */
} Finder;

static int finder_init(PyObject *self, PyObject *args, PyObject *keywords)
{
	static char *names[] = {"literals", NULL};
	Finder *finder = (Finder *)self;
	PyObject *rows;
	if (finder->sets.limit) {
		PyErr_SetString(PyExc_TypeError, "a finder is made once");
		return -1;
	}
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!", names, &PyTuple_Type, &rows))
		return -1;
	memo_init(&finder->sets, SETS, SETS_BYTES);
	int failed = literals_build(&finder->folded, rows, false, ATOMS_MAX);
	if (!failed)
		failed = literals_build(&finder->cased, rows, true, ATOMS_MAX);
	if (failed > 0)
		PyErr_SetString(PyExc_OverflowError, "too many literals");
	return failed ? -1 : 0;
}

/* The number of a text's set, LEFT_OPEN, or FAILED without memory. */
static int32_t number_of(Finder *finder, const unsigned char *text, size_t length)
{
	Hits hits = {.count = 0, .open = false, .opens = NULL};
	if (!length || !is_ascii(text, length))
		return LEFT_OPEN;
	if (finder->folded.table)
		automaton_follow(&finder->folded, &finder->folded_trail, text, length, hits_add, &hits);
	if (finder->cased.table)
		automaton_follow(&finder->cased, &finder->cased_trail, text, length, hits_add, &hits);
	if (hits.open)
		return LEFT_OPEN;
	size_t size = (size_t)hits.count * sizeof(*hits.atoms);
	uint64_t hash = hash_bytes(0, hits.atoms, size);
	uint32_t found = memo_find(&finder->sets, hash, hits.atoms, size);
	if (!found) {
		if (memo_full(&finder->sets, size))
			return LEFT_OPEN;
		found = finder->sets.count + 1;
		if (memo_put(&finder->sets, hash, hits.atoms, size, found) < 0)
			return FAILED;
	}
	return (int32_t)(found - 1);
}

/* Offsets as Arrow has them: count + 1 of int32, rising, within the data. */
static bool sound(const Py_buffer *offsets, Py_ssize_t first, Py_ssize_t count, const Py_buffer *data)
{
	if (first < 0 || count < 0 || first >= PY_SSIZE_T_MAX / 8 || count >= PY_SSIZE_T_MAX / 8 ||
	    offsets->len / (Py_ssize_t)sizeof(int32_t) < first + count + 1 || (uintptr_t)offsets->buf % sizeof(int32_t))
		return false;
	const int32_t *at = (const int32_t *)offsets->buf + first;
	for (Py_ssize_t index = 0; index < count; index++)
		if (at[index] > at[index + 1])
			return false;
	return at[0] >= 0 && at[count] <= data->len;
}

static int note(PyObject *list, Py_ssize_t index)
{
	PyObject *place = PyLong_FromSsize_t(index);
	int result = place ? PyList_Append(list, place) : -1;
	Py_XDECREF(place);
	return result;
}

/* used: a byte for each text, or without a buffer: whether it is asked for. The others have number 0. */
static PyObject *find(Finder *finder, const Py_buffer *offsets, const Py_buffer *data, Py_ssize_t first, Py_ssize_t count,
		      const Py_buffer *used)
{
	if (!sound(offsets, first, count, data) || (used->buf && used->len < count)) {
		PyErr_SetString(PyExc_ValueError, "the offsets of texts do not hold together");
		return NULL;
	}
	const int32_t *at = (const int32_t *)offsets->buf + first;
	PyObject *numbers = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(int32_t));
	PyObject *firsts = PyList_New(0), *opens = PyList_New(0);
	if (!numbers || !firsts || !opens)
		goto failed;
	char *to = PyBytes_AS_STRING(numbers);
	for (Py_ssize_t index = 0; index < count; index++) {
		uint32_t before = finder->sets.count;
		int32_t number = 0;
		if (!used->buf || ((const char *)used->buf)[index])
			number = number_of(finder, (const unsigned char *)data->buf + at[index],
					   (size_t)(at[index + 1] - at[index]));
		if (number == FAILED) {
			PyErr_NoMemory();
			goto failed;
		}
		if (finder->sets.count > before && note(firsts, index) < 0)
			goto failed;
		if (number == LEFT_OPEN) {
			number = (int32_t)(SETS + (uint32_t)PyList_GET_SIZE(opens));
			if (note(opens, index) < 0)
				goto failed;
		}
		memcpy(to + index * (Py_ssize_t)sizeof(number), &number, sizeof(number));
	}
	return Py_BuildValue("NNN", numbers, firsts, opens);
failed:
	Py_XDECREF(numbers);
	Py_XDECREF(firsts);
	Py_XDECREF(opens);
	return NULL;
}

static PyObject *finder_find(PyObject *self, PyObject *args)
{
	Py_buffer offsets, data, used;
	Py_ssize_t first, count;
	if (!PyArg_ParseTuple(args, "y*y*nnz*", &offsets, &data, &first, &count, &used))
		return NULL;
	PyObject *found = find((Finder *)self, &offsets, &data, first, count, &used);
	PyBuffer_Release(&offsets);
	PyBuffer_Release(&data);
	PyBuffer_Release(&used);
	return found;
}

static void finder_dealloc(PyObject *self)
{
	Finder *finder = (Finder *)self;
	PyTypeObject *type = Py_TYPE(self);
	automaton_free(&finder->folded);
	automaton_free(&finder->cased);
	memo_free(&finder->sets);
	type->tp_free(self);
	Py_DECREF(type);
}

static PyMethodDef methods[] = {
	{"find", finder_find, METH_VARARGS, "Numbers of the sets of texts, where each new one stands first, and texts left to Python."},
	{NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
	{Py_tp_doc, "Finds literals in columns of texts."},
	{Py_tp_init, finder_init},
	{Py_tp_dealloc, finder_dealloc},
	{Py_tp_methods, methods},
	{Py_tp_new, PyType_GenericNew},
	{0, NULL},
};

const int finder_sets = SETS;
PyType_Spec finder_spec = {"sensor._speed.Finder", sizeof(Finder), 0, Py_TPFLAGS_DEFAULT, slots};
