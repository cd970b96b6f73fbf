// What lets g++ and nvcc read the same maths.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define POSENC_HD __host__ __device__ __forceinline__
#else
// always_inline: an out-of-line copy would be shared by all CPU levels, and the linker might keep the AVX-512
// one.
#define POSENC_HD inline __attribute__((always_inline))
#endif

namespace posenc_ext::core {

template <class To, class From>
POSENC_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// Both builds switch contraction off (-ffp-contract=off, --fmad=false): a product is fused only where it says
// so.
POSENC_HD double fused_multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return fma(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

template <class T>
POSENC_HD T min_of(T a, T b) {
  return a < b ? a : b;
}

template <class T>
POSENC_HD T max_of(T a, T b) {
  return a > b ? a : b;
}

// NaN where one of them is.
template <class T>
POSENC_HD T max_or_nan(T a, T b) {
  return a > b || a != a ? a : b;
}

}  // namespace posenc_ext::core
