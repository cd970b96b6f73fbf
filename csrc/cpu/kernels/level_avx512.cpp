// Kernels for x86-64 with AVX-512 (x86-64-v4).
#if defined(__x86_64__)

// Standard headers first: their inline functions must not be compiled for this level, other files share them.
#include <cmath>
#include <cstdint>
#include <cstring>

// g++ 12's intrinsics leave undefined what they overwrite.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#define POSENC_VECTOR_BYTES 64

#if defined(__clang__)
#pragma clang attribute push(                                                             \
    __attribute__((target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 warns of its own intrinsics
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#include "cpu/kernels/add_sinusoidal.h"
#include "cpu/kernels/alibi_bias.h"
#include "cpu/kernels/gather_bias.h"
#include "cpu/kernels/position_embedding.h"
#include "cpu/kernels/relative_bias.h"
#include "cpu/kernels/sinusoidal.h"

namespace posenc_ext::cpu::avx512 {
// These before the bodies that use them, in this order.
#include "cpu/kernels/stores.h"
//
#include "cpu/kernels/octet.h"
//
#include "cpu/kernels/dropout_body.h"
#include "cpu/kernels/lane_sum.h"

#include "cpu/kernels/alibi_bias_body.h"
#include "cpu/kernels/gather_bias_body.h"
#include "cpu/kernels/position_embedding_body.h"
#include "cpu/kernels/reversed_table_body.h"
#include "cpu/kernels/row_sums_body.h"
//
#include "cpu/kernels/window_bias_body.h"  // before the body that calls it
//
#include "cpu/kernels/relative_bias_body.h"
#include "cpu/kernels/sinusoidal_body.h"  // before those that encode rows with it

#include "cpu/kernels/add_sinusoidal_body.h"
#include "cpu/kernels/sinusoidal_table_body.h"
}  // namespace posenc_ext::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
