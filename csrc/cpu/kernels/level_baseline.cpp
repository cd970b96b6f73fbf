// Kernels for any machine.
#include "cpu/kernels/kernels-inl.h"
