// posenc_ext._C: what the build knows about itself, and calls of ops (python_call.cpp). The only files that
// know Python, and only the stable C API of it: one build serves every Python.
#include <Python.h>

#include <exception>
#include <string>

#include "posenc_ext.h"
#include "python_call.h"

namespace {

template <std::string (*function)()>
PyObject* text(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(function().c_str());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyMethodDef functions[] = {
    {"build_info", text<posenc_ext::build_info>, METH_NOARGS,
     "What the library was built with, as JSON text."},
    {"cpu_level", text<posenc_ext::cpu_level>, METH_NOARGS, "The CPU level whose kernels run here."},
    {"plain_call", posenc_ext::plain_call, METH_O,
     "The op of this name as a function of plain arguments; it returns NotImplemented for others."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, 0, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  if (posenc_ext::knows_tensors()) return PyModule_Create(&definition);
  if (!PyErr_Occurred()) {
    PyErr_SetString(PyExc_ImportError,
                    "tensors lie in Python's objects in another way than in the torch it was built for");
  }
  return nullptr;
}
