// posenc_ext._C: what the build knows about itself. The only file that knows Python.
#include <pybind11/pybind11.h>

#include "posenc_ext.h"

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &posenc_ext::build_info, "What the library was built with, as JSON text.");
  m.def("cpu_level", &posenc_ext::cpu_level, "The CPU level whose kernels run here.");
}
