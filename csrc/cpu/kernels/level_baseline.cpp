// Kernels for any machine.
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC optimize("O1")  // compiles in two thirds of the time; few machines have no AVX2
#endif
#include "cpu/kernels/kernels-inl.h"
