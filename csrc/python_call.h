// See python_call.cpp.
#pragma once

#include <Python.h>

namespace posenc_ext {

// Whether a tensor stands in Python's object where this build takes it from.
bool knows_tensors();

// Of the name of an op, such as "posenc_ext::window_bias": a function that calls its default overload, or
// returns NotImplemented where arguments are not plain.
PyObject* plain_call(PyObject* module, PyObject* name);

}  // namespace posenc_ext
