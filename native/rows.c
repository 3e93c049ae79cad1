/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of recordings told apart by what their columns' values come to: what sensor/arrow.py does with a dozen steps
 * of Arrow in one. All that comes in are buffers of Arrow; nothing of them is believed.
 */
#include "columns.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef CELLS
#define CELLS (1 << 22) /* of the table of one step: 16 MB; more is left to Arrow */
#endif

typedef struct {
	const int32_t *codes;
	Py_ssize_t count;
	const unsigned char *valid; /* a bit for each code, from bit `first` on, or NULL: none is null */
	Py_ssize_t first;
} Column;

typedef struct {
	const int64_t *at; /* NULL: every row, in order */
	Py_ssize_t count;
} Rows;

static bool aligned(const Py_buffer *buffer, size_t size)
{
	return (uintptr_t)buffer->buf % size == 0;
}

static int refuse(void)
{
	PyErr_SetString(PyExc_ValueError, "rows and columns do not hold together");
	return -1;
}

/* count codes from the one at first on, with their validity where there is a buffer of it. */
static int column_of(Column *column, const Py_buffer *codes, const Py_buffer *valid, Py_ssize_t first, Py_ssize_t count)
{
	if (first < 0 || count < 0 || first > PY_SSIZE_T_MAX / 16 || count > PY_SSIZE_T_MAX / 16 ||
	    codes->len / (Py_ssize_t)sizeof(int32_t) < first + count || !aligned(codes, sizeof(int32_t)) ||
	    (valid->buf && valid->len < (first + count + 7) / 8))
		return refuse();
	*column = (Column){(const int32_t *)codes->buf + first, count, valid->buf, first};
	return 0;
}

static int rows_of(Rows *rows, const Py_buffer *numbers, Py_ssize_t count)
{
	*rows = (Rows){(const int64_t *)numbers->buf, numbers->buf ? numbers->len / (Py_ssize_t)sizeof(int64_t) : count};
	if (!numbers->buf)
		return 0;
	if (!aligned(numbers, sizeof(int64_t)))
		return refuse();
	for (Py_ssize_t index = 0; index < rows->count; index++)
		if (rows->at[index] < 0 || rows->at[index] >= count)
			return refuse();
	return 0;
}

/* The code of a row, -1 where it is null. */
static inline int32_t code_at(const Column *column, const Rows *rows, Py_ssize_t index)
{
	Py_ssize_t row = rows->at ? (Py_ssize_t)rows->at[index] : index, bit = row + column->first;
	if (column->valid && !(column->valid[bit / 8] >> (bit % 8) & 1))
		return -1;
	return column->codes[row];
}

static void release(Py_buffer *buffers, int count)
{
	for (int index = 0; index < count; index++)
		PyBuffer_Release(&buffers[index]);
}

/* For each code below kinds the numbers of its rows, ascending, as bytes of int64; null rows are in none. */
static PyObject *deal(const Column *column, Py_ssize_t kinds)
{
	const Rows all = {NULL, column->count};
	Py_ssize_t *counts = calloc((size_t)kinds + 1, sizeof(*counts));
	PyObject *dealt = PyTuple_New(kinds);
	if (!counts || !dealt)
		goto failed;
	for (Py_ssize_t row = 0; row < column->count; row++) {
		int32_t code = code_at(column, &all, row);
		if (code >= kinds || code < -1) {
			refuse();
			goto failed;
		}
		if (code >= 0)
			counts[code]++;
	}
	for (Py_ssize_t kind = 0; kind < kinds; kind++) {
		PyObject *numbers = PyBytes_FromStringAndSize(NULL, counts[kind] * (Py_ssize_t)sizeof(int64_t));
		if (!numbers)
			goto failed;
		PyTuple_SET_ITEM(dealt, kind, numbers);
		counts[kind] = 0;
	}
	for (Py_ssize_t row = 0; row < column->count; row++) {
		int32_t code = code_at(column, &all, row);
		if (code < 0)
			continue;
		int64_t number = row;
		memcpy(PyBytes_AS_STRING(PyTuple_GET_ITEM(dealt, code)) + counts[code]++ * (Py_ssize_t)sizeof(number), &number,
		       sizeof(number));
	}
	free(counts);
	return dealt;
failed:
	if (!PyErr_Occurred())
		PyErr_NoMemory();
	free(counts);
	Py_XDECREF(dealt);
	return NULL;
}

static PyObject *rows_deal(PyObject *module, PyObject *args)
{
	Py_buffer codes[2] = {{0}, {0}};
	Py_ssize_t first, count, kinds;
	Column column;
	PyObject *found = NULL;
	(void)module;
	if (!PyArg_ParseTuple(args, "y*z*nnn", &codes[0], &codes[1], &first, &count, &kinds))
		return NULL;
	if (kinds < 0 || kinds > INT32_MAX)
		refuse();
	else if (!column_of(&column, &codes[0], &codes[1], first, count))
		found = deal(&column, kinds);
	release(codes, 2);
	return found;
}

/* A byte for each value below size: whether some row has it. */
static PyObject *rows_mark(PyObject *module, PyObject *args)
{
	Py_buffer in[3] = {{0}, {0}, {0}};
	Py_ssize_t first, count, size;
	Column column;
	Rows rows;
	PyObject *marks = NULL;
	(void)module;
	if (!PyArg_ParseTuple(args, "z*y*z*nnn", &in[0], &in[1], &in[2], &first, &count, &size))
		return NULL;
	if (size < 0)
		refuse();
	else if (!column_of(&column, &in[1], &in[2], first, count) && !rows_of(&rows, &in[0], count))
		marks = PyBytes_FromStringAndSize(NULL, size);
	if (marks) {
		char *to = PyBytes_AS_STRING(marks);
		memset(to, 0, (size_t)size);
		for (Py_ssize_t index = 0; index < rows.count; index++) {
			int32_t code = code_at(&column, &rows, index);
			if (code >= size || code < -1) {
				refuse();
				Py_CLEAR(marks);
				break;
			}
			if (code >= 0)
				to[code] = 1;
		}
	}
	release(in, 3);
	return marks;
}

/* Codes of rows told apart by one more column: what each of its values comes to, a class below `classes`. */
static PyObject *join(int32_t *codes, Py_ssize_t before, const Rows *rows, const Column *column, const int32_t *class_of,
		      Py_ssize_t values, int32_t null_class, Py_ssize_t classes)
{
	size_t cells = (size_t)before * (size_t)classes;
	int32_t *table = malloc(cells * sizeof(*table)), used = 0;
	PyObject *parts = PyList_New(0);
	if (!table || !parts)
		goto failed;
	memset(table, 0xff, cells * sizeof(*table));
	for (Py_ssize_t index = 0; index < rows->count; index++) {
		int32_t code = code_at(column, rows, index);
		if (code >= values || code < -1) {
			refuse();
			goto failed;
		}
		int32_t class = code < 0 ? null_class : class_of[code];
		if (class < 0 || class >= classes || codes[index] < 0 || codes[index] >= before) {
			refuse();
			goto failed;
		}
		int32_t *cell = &table[(size_t)codes[index] * (size_t)classes + (size_t)class];
		if (*cell < 0) {
			PyObject *part = Py_BuildValue("ii", codes[index], class);
			int result = part ? PyList_Append(parts, part) : -1;
			Py_XDECREF(part);
			if (result < 0)
				goto failed;
			*cell = used++;
		}
		codes[index] = *cell;
	}
	free(table);
	return parts;
failed:
	if (!PyErr_Occurred())
		PyErr_NoMemory();
	free(table);
	Py_XDECREF(parts);
	return NULL;
}

static PyObject *rows_join(PyObject *module, PyObject *args)
{
	Py_buffer in[5] = {{0}, {0}, {0}, {0}, {0}}; /* codes, rows, column, its validity, classes of its values */
	Py_ssize_t before, first, count, classes;
	int null_class;
	Column column;
	Rows rows;
	PyObject *parts = NULL;
	(void)module;
	if (!PyArg_ParseTuple(args, "w*nz*y*z*nny*in", &in[0], &before, &in[1], &in[2], &in[3], &first, &count, &in[4],
			      &null_class, &classes))
		return NULL;
	if (before < 1 || classes < 1 || before > CELLS || classes > CELLS || before * classes > CELLS)
		PyErr_SetString(PyExc_OverflowError, "too many classes");
	else if (!aligned(&in[0], sizeof(int32_t)) || !aligned(&in[4], sizeof(int32_t)))
		refuse();
	else if (!column_of(&column, &in[2], &in[3], first, count) && !rows_of(&rows, &in[1], count)) {
		if (in[0].len / (Py_ssize_t)sizeof(int32_t) < rows.count)
			refuse();
		else
			parts = join(in[0].buf, before, &rows, &column, in[4].buf, in[4].len / (Py_ssize_t)sizeof(int32_t),
				     null_class, classes);
	}
	release(in, 5);
	return parts;
}

PyMethodDef rows_methods[] = {
	{"deal", rows_deal, METH_VARARGS, "Numbers of the rows of each code."},
	{"mark", rows_mark, METH_VARARGS, "Which values rows have."},
	{"join", rows_join, METH_VARARGS, "Tell rows apart by one more column."},
	{NULL, NULL, 0, NULL},
};
