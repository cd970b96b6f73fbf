// Eight elements at a time, in registers where the level has them: loads, conversions and stores. Bit
// for bit what core/ computes one by one.
#pragma once

#include "core/scalar.h"
#include "core/sinusoid.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr int64_t kOctet = 8;

template <class T>
struct Octet;

#if POSENC_VECTOR_BYTES >= 32

// The sum of the two halves, added again until one is left.
inline double sum_of(__m256d x) {
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

struct Floats {
  __m256 v;
};

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }

#if POSENC_VECTOR_BYTES == 64

struct Doubles {
  __m512d v;
};

inline Doubles all_of(double x) { return {_mm512_set1_pd(x)}; }
inline Doubles operator+(Doubles a, Doubles b) { return {_mm512_add_pd(a.v, b.v)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline Doubles fused_multiply_add(Doubles a, Doubles b, Doubles c) {
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
inline Doubles to_double(Floats x) { return {_mm512_cvtps_pd(x.v)}; }
inline double sum_of(Doubles x) {
  return sum_of(_mm256_add_pd(_mm512_castpd512_pd256(x.v), _mm512_extractf64x4_pd(x.v, 1)));
}
inline Floats to_floats(Doubles x) { return {_mm512_cvtpd_ps(x.v)}; }

inline Floats round_to_odd(Doubles x) {
  const __m512i bits = _mm512_castpd_si512(x.v), cut = _mm512_set1_epi64((int64_t{1} << 29) - 1);
  const __m512i kept = _mm512_andnot_si512(cut, bits);
  const __m512i odd = _mm512_mask_or_epi64(kept, _mm512_test_epi64_mask(bits, cut), kept,
                                           _mm512_set1_epi64(int64_t{1} << 29));
  return to_floats({_mm512_castsi512_pd(odd)});
}

template <>
struct Octet<double> {
  Doubles all;

  static Octet load(const double* from) { return {{_mm512_loadu_pd(from)}}; }
  static Octet round(Doubles x) { return {x}; }
  void store(double* to) const { _mm512_storeu_pd(to, all.v); }
  void stream(double* to) const { _mm512_stream_pd(to, all.v); }
  Octet keep(uint8_t bits) const { return {{_mm512_maskz_mov_pd(bits, all.v)}}; }
};

#else

struct Doubles {
  __m256d low, high;
};

inline Doubles all_of(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
inline Doubles operator+(Doubles a, Doubles b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
inline Doubles operator-(Doubles a, Doubles b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
inline Doubles operator*(Doubles a, Doubles b) {
  return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}
inline Doubles fused_multiply_add(Doubles a, Doubles b, Doubles c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
inline Doubles to_double(Floats x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.v)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1))};
}
inline double sum_of(Doubles x) { return sum_of(_mm256_add_pd(x.low, x.high)); }
inline Floats to_floats(Doubles x) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(x.high), _mm256_cvtpd_ps(x.low))};
}

inline __m256d cut_to_odd(__m256d x) {
  const __m256i bits = _mm256_castpd_si256(x), cut = _mm256_set1_epi64x((int64_t{1} << 29) - 1);
  const __m256i exact = _mm256_cmpeq_epi64(_mm256_and_si256(bits, cut), _mm256_setzero_si256());
  const __m256i sticky = _mm256_andnot_si256(exact, _mm256_set1_epi64x(int64_t{1} << 29));
  return _mm256_castsi256_pd(_mm256_or_si256(_mm256_andnot_si256(cut, bits), sticky));
}

inline Floats round_to_odd(Doubles x) { return to_floats({cut_to_odd(x.low), cut_to_odd(x.high)}); }

inline __m256d keep_four(__m256d x, uint8_t bits, int64_t first) {
  const __m256i own = _mm256_set_epi64x(first << 3, first << 2, first << 1, first);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(bits), own);
  return _mm256_and_pd(x, _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, own)));
}

template <>
struct Octet<double> {
  Doubles all;

  static Octet load(const double* from) { return {{_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)}}; }
  static Octet round(Doubles x) { return {x}; }
  void store(double* to) const {
    _mm256_storeu_pd(to, all.low);
    _mm256_storeu_pd(to + 4, all.high);
  }
  void stream(double* to) const {
    _mm256_stream_pd(to, all.low);
    _mm256_stream_pd(to + 4, all.high);
  }
  Octet keep(uint8_t bits) const { return {{keep_four(all.low, bits, 1), keep_four(all.high, bits, 16)}}; }
};

#endif

template <>
struct Octet<float> {
  Floats all;

  static Octet load(const float* from) { return {{_mm256_loadu_ps(from)}}; }
  static Octet round(Floats x) { return {x}; }
  static Octet round(Doubles x) { return {to_floats(x)}; }
  void store(float* to) const { _mm256_storeu_ps(to, all.v); }
  void stream(float* to) const { _mm256_stream_ps(to, all.v); }
  Octet keep(uint8_t bits) const {
#if POSENC_VECTOR_BYTES == 64
    return {{ _mm256_maskz_mov_ps(bits, all.v) }};
#else
    const __m256i own = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(bits), own);
    return {{_mm256_and_ps(all.v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, own)))}};
#endif
  }
};

// What the two half types share.
template <class T>
struct HalfOctet {
  __m128i bits;

  void store(T* to) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bits); }
  void stream(T* to) const { _mm_stream_si128(reinterpret_cast<__m128i*>(to), bits); }
};

inline __m128i keep_halves(__m128i x, uint8_t bits) {
  const __m128i own = _mm_set_epi16(128, 64, 32, 16, 8, 4, 2, 1);
  return _mm_and_si128(x, _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16(bits), own), own));
}

// Rounded to BFloat16, each in the upper half of its 32 bits; the lower half is anything.
inline __m256i round_upper(__m256 x) {
  const __m256i all = _mm256_castps_si256(x);
  const __m256i last = _mm256_and_si256(_mm256_srli_epi32(all, 16), _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_add_epi32(all, half), _mm256_set1_epi32(0x7fc00000), is_nan);
}

#if POSENC_VECTOR_BYTES == 64
inline __m512i round_upper(__m512 x) {
  const __m512i all = _mm512_castps_si512(x);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(all, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(_mm512_add_epi32(all, half), is_nan, _mm512_set1_epi32(0x7fc00000));
}

// Rounded to Half; of a NaN the sign alone is kept.
inline __m256i round_halves(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0x80000000u)));
  const __m512i clean =
      _mm512_mask_or_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), sign, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtps_ph(_mm512_castsi512_ps(clean), _MM_FROUND_TO_NEAREST_INT);
}
#endif

inline __m128i load_halves(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

template <>
struct Octet<BFloat16> : HalfOctet<BFloat16> {
  static Octet load(const BFloat16* from) { return {load_halves(from)}; }
  static Octet round(Floats x) {
    const __m256i result = _mm256_srli_epi32(round_upper(x.v), 16);
    return {_mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1))};
  }
  static Octet round(Doubles x) { return round(round_to_odd(x)); }
  Octet keep(uint8_t kept) const { return {keep_halves(bits, kept)}; }
};

template <>
struct Octet<Half> : HalfOctet<Half> {
  static Octet load(const Half* from) { return {load_halves(from)}; }
  static Octet round(Floats x) {
    // Of a NaN the sign alone is kept.
    const __m256 sign = _mm256_and_ps(x.v, _mm256_set1_ps(-0.0f));
    const __m256 nan = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
    const __m256 clean = _mm256_blendv_ps(x.v, nan, _mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
    return {_mm256_cvtps_ph(clean, _MM_FROUND_TO_NEAREST_INT)};
  }
  static Octet round(Doubles x) { return round(round_to_odd(x)); }
  Octet keep(uint8_t kept) const { return {keep_halves(bits, kept)}; }
};

inline Floats widen(Octet<float> x) { return x.all; }
inline Floats widen(Octet<BFloat16> x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x.bits), 16))};
}
inline Floats widen(Octet<Half> x) { return {_mm256_cvtph_ps(x.bits)}; }
inline Doubles widen(Octet<double> x) { return x.all; }

// Of a product that is exact one rounding is left, and fusing is but faster.
inline Doubles add_exact_product(Doubles sum, Doubles a, Doubles b) { return fused_multiply_add(a, b, sum); }

inline Doubles to_double(Doubles x) { return x; }
template <class T>
inline Doubles to_double(Octet<T> x) {
  return to_double(widen(x));
}

#else  // one by one

template <class F>
struct Eight {
  F v[kOctet];
};
using Floats = Eight<float>;
using Doubles = Eight<double>;

template <class R, class F>
inline R each(F f) {
  R result;
  for (int64_t i = 0; i < kOctet; ++i) result.v[i] = f(i);
  return result;
}

template <class F>
inline Eight<F> operator+(Eight<F> a, Eight<F> b) {
  return each<Eight<F>>([&](int64_t i) { return a.v[i] + b.v[i]; });
}
inline Doubles operator-(Doubles a, Doubles b) {
  return each<Doubles>([&](int64_t i) { return a.v[i] - b.v[i]; });
}
inline Doubles operator*(Doubles a, Doubles b) {
  return each<Doubles>([&](int64_t i) { return a.v[i] * b.v[i]; });
}
inline Floats to_floats(Doubles x) {
  return each<Floats>([&](int64_t i) { return static_cast<float>(x.v[i]); });
}
inline Floats round_to_odd(Doubles x) {
  return each<Floats>([&](int64_t i) { return core::round_to_odd(x.v[i]); });
}
inline double sum_of(Doubles x) {
  for (int64_t half = kOctet / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) x.v[i] += x.v[i + half];
  }
  return x.v[0];
}
inline Doubles all_of(double x) {
  return each<Doubles>([&](int64_t) { return x; });
}
// b is the same eight times. A product with one is exact: that needs no FMA, which here is a slow call.
inline Doubles fused_multiply_add(Doubles a, Doubles b, Doubles c) {
  if (b.v[0] == 1.0) return a + c;
  return each<Doubles>([&](int64_t i) { return core::fused_multiply_add(a.v[i], b.v[i], c.v[i]); });
}

inline Doubles add_exact_product(Doubles sum, Doubles a, Doubles b) { return sum + a * b; }

template <class T>
struct Octet {
  T v[kOctet];

  static Octet load(const T* from) {
    Octet result;
    memcpy(result.v, from, sizeof(result.v));
    return result;
  }
  template <class F>
  static Octet round(Eight<F> x) {
    return each<Octet>([&](int64_t i) { return round_to<T>(x.v[i]); });
  }
  void store(T* to) const { memcpy(to, v, sizeof(v)); }
  void stream(T* to) const {
#if defined(__x86_64__)
    __m128i part[sizeof(v) / 16];
    memcpy(part, v, sizeof(v));
    for (size_t i = 0; i < sizeof(v) / 16; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, part[i]);
#else
    store(to);
#endif
  }
  Octet keep(uint8_t bits) const {
    return each<Octet>([&](int64_t i) { return (bits >> i & 1) != 0 ? v[i] : T{}; });
  }
};

template <class T>
inline Eight<accumulator_t<T>> widen(Octet<T> x) {
  return each<Eight<accumulator_t<T>>>([&](int64_t i) { return core::widen(x.v[i]); });
}
template <class T>
inline Doubles to_double(Octet<T> x) {
  return each<Doubles>([&](int64_t i) { return core::to_double(x.v[i]); });
}

#endif

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
