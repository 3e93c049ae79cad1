/* SPDX-License-Identifier: Apache-2.0
 *
 * Columns of recordings: literals of rules in their texts, and rows told apart by what their values come to.
 */
#ifndef SENSOR_COLUMNS_H
#define SENSOR_COLUMNS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyType_Spec finder_spec;
extern const int finder_sets; /* texts that are left to Python have numbers from here on */
extern PyMethodDef rows_methods[];

#endif
