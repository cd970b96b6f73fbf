// Kernels for any machine.
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC optimize("O2")  // compiles in half the time; few machines have no AVX2
#endif
#include "cpu/kernels/kernels-inl.h"
