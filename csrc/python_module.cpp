// posenc_ext._C: what the build knows about itself. The only file that knows Python, and only the stable C
// API of it: one build serves every Python, and two functions do not cost the time it takes to compile a
// binding library.
#include <Python.h>

#include <exception>
#include <string>

#include "posenc_ext.h"

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
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, 0, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
