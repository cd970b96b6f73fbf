// Kernels for x86-64 with AVX2 and FMA (x86-64-v3).
#if defined(__x86_64__)

// Standard headers first: their inline functions must not be compiled for this level, other files share them.
#include <cmath>
#include <cstdint>
#include <cstring>

#include <immintrin.h>

#define POSENC_VECTOR_BYTES 32

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif

#include "cpu/kernels/add_sinusoidal.h"
#include "cpu/kernels/alibi_bias.h"
#include "cpu/kernels/gather_bias.h"
#include "cpu/kernels/position_embedding.h"
#include "cpu/kernels/relative_bias.h"
#include "cpu/kernels/sinusoidal.h"

namespace posenc_ext::cpu::avx2 {
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
}  // namespace posenc_ext::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
