// Kernels for x86-64 with AVX2 and FMA (x86-64-v3).
#if defined(__x86_64__)

// Standard headers first: their inline functions are shared with other files, so they must not be compiled
// for this level.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <immintrin.h>

#define POSENC_LEVEL avx2
#define POSENC_VECTOR_BYTES 32

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif

#include "cpu/kernels/kernels-inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
