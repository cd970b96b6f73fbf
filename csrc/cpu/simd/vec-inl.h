// Vectors of a fixed number of elements, in as many registers as the level needs. Compiler vector extensions;
// intrinsics only where the compilers have no word for it. Bit for bit what core/ computes one by one, and a
// sum over lanes has the same order at every level.
#pragma once

#include <type_traits>
#include <utility>

#include "core/exp.h"
#include "core/scalar.h"
#include "core/sinusoid.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Next to the overloads for vectors below.
using core::bit_cast;
using core::exp_of_negative;
using core::fused_multiply_add;
using core::max_of;
using core::min_of;
using core::round_to;
using core::round_to_odd;
using core::to_double;
using core::widen;

template <class T>
struct LaneOf {
  using type = T;
};
template <>
struct LaneOf<Half> {
  using type = uint16_t;
};
template <>
struct LaneOf<BFloat16> {
  using type = uint16_t;
};

// Lambdas on native vectors are inlined, too: as functions they would have an ABI.
#define POSENC_LAMBDA __attribute__((always_inline))

#if POSENC_VECTOR_BYTES >= 32 || defined(__ARM_FEATURE_FMA)
constexpr bool kHasFma = true;
#else
constexpr bool kHasFma = false;
#endif

// What the level's registers hold in one.
template <class T, int N>
concept FitsRegister = N * sizeof(T) <= POSENC_VECTOR_BYTES;

// N elements, a power of two: one native vector, or two halves.
template <class T, int N>
struct Vec {
  using Lane = typename LaneOf<T>::type;
  typedef Lane Native __attribute__((vector_size(N * sizeof(T))));
  typedef Lane Unaligned __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
  Native v;
};

template <class T, int N>
  requires(!FitsRegister<T, N>)
struct Vec<T, N> {
  Vec<T, N / 2> low, high;
};

// A result of f(native vectors of x...), which have N elements of one size each.
template <class T, int N, class F, class... X>
POSENC_HD Vec<T, N> map(F f, const X&... x) {
  if constexpr (FitsRegister<T, N>) {
    return {f(x.v...)};
  } else {
    return {map<T, N / 2>(f, x.low...), map<T, N / 2>(f, x.high...)};
  }
}

// ---- Memory. Addresses are aligned to elements alone, except those of non-temporal stores.

template <int N, class T>
POSENC_HD Vec<T, N> load(const T* from) {
  if constexpr (FitsRegister<T, N>) {
    return {*reinterpret_cast<const typename Vec<T, N>::Unaligned*>(from)};
  } else {
    return {load<N / 2>(from), load<N / 2>(from + N / 2)};
  }
}

template <class T, int N>
POSENC_HD void store(T* to, Vec<T, N> x) {
  if constexpr (FitsRegister<T, N>) {
    *reinterpret_cast<typename Vec<T, N>::Unaligned*>(to) = x.v;
  } else {
    store(to, x.low);
    store(to + N / 2, x.high);
  }
}

// A non-temporal store, of 16 bytes or more; finish_streams() orders it. `to` is aligned to the vector, or to
// the level's registers.
template <class T, int N>
POSENC_HD void stream(T* to, Vec<T, N> x) {
#if defined(__x86_64__)
  if constexpr (!FitsRegister<T, N>) {
    stream(to, x.low);
    stream(to + N / 2, x.high);
#if POSENC_VECTOR_BYTES >= 64
  } else if constexpr (sizeof(x.v) == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)x.v);
#endif
#if POSENC_VECTOR_BYTES >= 32
  } else if constexpr (sizeof(x.v) == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)x.v);
#endif
  } else {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)x.v);
  }
#else
  store(to, x);
#endif
}

// The first `count` elements, at most N; zeros follow.
template <int N, class T>
POSENC_HD Vec<T, N> load_some(const T* from, int64_t count, int64_t stride = 1) {
  T all[N] = {};
  for (int64_t i = 0; i < count; ++i) all[i] = from[i * stride];
  return load<N>(all);
}

template <class T, int N>
POSENC_HD void store_some(T* to, Vec<T, N> x, int64_t count) {
  T all[N];
  store(all, x);
  memcpy(to, all, static_cast<size_t>(count) * sizeof(T));
}

template <int N, class T>
POSENC_HD Vec<T, N> broadcast(T x) {
  if constexpr (FitsRegister<T, N>) {
    return {bit_cast<typename LaneOf<T>::type>(x) - typename Vec<T, N>::Native{}};  // x - 0 is x, -0 too
  } else {
    return {broadcast<N / 2>(x), broadcast<N / 2>(x)};
  }
}

// 0, 1, 2 and so on.
template <class T, int N>
POSENC_HD Vec<T, N> lanes() {
  T index[N];
  for (int i = 0; i < N; ++i) index[i] = static_cast<T>(i);
  return load<N>(index);
}

// Loaded values stay in registers where there are 32: g++ 12 would load them again for each use.
template <class... V>
POSENC_HD void stay_in_registers(V&... x) {
#if POSENC_VECTOR_BYTES >= 64
  const auto each = [](auto each, auto& x) -> void {
    if constexpr (requires { x.v; }) {
      asm("" : "+v"(x.v));
    } else {
      each(each, x.low), each(each, x.high);
    }
  };
  (each(each, x), ...);
#else
  ((void)x, ...);
#endif
}

// ---- Orders of elements

template <class T, int M, int N, class Index, int... I>
POSENC_HD Vec<T, M> shuffle(Vec<T, N> a, Vec<T, N> b, Index, std::integer_sequence<int, I...>) {
  return {__builtin_shufflevector(a.v, b.v, Index()(I)...)};
}

// Element i of the result is element index(i) of a and b, one after the other; all in single registers.
template <int M, class T, int N, class Index>
POSENC_HD Vec<T, M> shuffle(Vec<T, N> a, Vec<T, N> b, Index index) {
  return shuffle<T, M>(a, b, index, std::make_integer_sequence<int, M>());
}

template <class T, int N>
POSENC_HD Vec<T, N / 2> low_half(Vec<T, N> x) {
  if constexpr (FitsRegister<T, N>) {
    return shuffle<N / 2>(x, x, [](int i) { return i; });
  } else {
    return x.low;
  }
}

template <class T, int N>
POSENC_HD Vec<T, N / 2> high_half(Vec<T, N> x) {
  if constexpr (!FitsRegister<T, N>) {
    return x.high;
  } else {
    using V [[maybe_unused]] = typename Vec<T, N / 2>::Native;
    // As a shuffle of it g++ 12 makes a permutation across lanes, which takes longer.
#if POSENC_VECTOR_BYTES >= 64
    if constexpr (sizeof(x) == 64) return {(V)_mm512_extracti64x4_epi64((__m512i)x.v, 1)};
#endif
#if POSENC_VECTOR_BYTES >= 32
    if constexpr (sizeof(x) == 32) return {(V)_mm256_extracti128_si256((__m256i)x.v, 1)};
#endif
    return shuffle<N / 2>(x, x, [](int i) { return i + N / 2; });
  }
}

template <class T, int N>
POSENC_HD Vec<T, 2 * N> join(Vec<T, N> low, Vec<T, N> high) {
  if constexpr (!FitsRegister<T, 2 * N>) {
    return {low, high};
  } else {
    using V [[maybe_unused]] = typename Vec<T, 2 * N>::Native;
#if POSENC_VECTOR_BYTES >= 64
    if constexpr (sizeof(V) == 64) {
      return {(V)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low.v), (__m256i)high.v, 1)};
    }
#endif
#if POSENC_VECTOR_BYTES >= 32
    if constexpr (sizeof(V) == 32) return {(V)_mm256_set_m128i((__m128i)high.v, (__m128i)low.v)};
#endif
    return shuffle<2 * N>(low, high, [](int i) { return i; });
  }
}

// a0 b0 a1 b1 and so on.
template <class T, int N>
POSENC_HD Vec<T, 2 * N> interleave(Vec<T, N> a, Vec<T, N> b) {
  if constexpr (FitsRegister<T, N>) {
    return join(shuffle<N>(a, b, [](int i) { return i / 2 + i % 2 * N; }),
                shuffle<N>(a, b, [](int i) { return N / 2 + i / 2 + i % 2 * N; }));
  } else {
    return {interleave(a.low, b.low), interleave(a.high, b.high)};
  }
}

// ---- Arithmetic, and bits

#define POSENC_OPERATOR(OP)                                                      \
  template <class T, int N>                                                      \
  POSENC_HD Vec<T, N> operator OP(Vec<T, N> a, Vec<T, N> b) {                    \
    return map<T, N>([](auto a, auto b) POSENC_LAMBDA { return a OP b; }, a, b); \
  }                                                                              \
  template <class T, int N>                                                      \
  POSENC_HD Vec<T, N> operator OP(Vec<T, N> a, std::type_identity_t<T> b) {      \
    return map<T, N>([b](auto a) POSENC_LAMBDA { return a OP b; }, a);           \
  }
POSENC_OPERATOR(+)
POSENC_OPERATOR(-)
POSENC_OPERATOR(*)
POSENC_OPERATOR(&)
POSENC_OPERATOR(|)
POSENC_OPERATOR(^)
POSENC_OPERATOR(<<)
POSENC_OPERATOR(>>)
#undef POSENC_OPERATOR

// The same bits as elements of another type of this size.
template <class U, class T, int N>
POSENC_HD Vec<U, N> cast_bits(Vec<T, N> x) {
  return map<U, N>([](auto x) POSENC_LAMBDA { return (typename Vec<U, sizeof(x) / sizeof(U)>::Native) x; },
                   x);
}

template <class T, int N>
POSENC_HD Vec<T, N> abs(Vec<T, N> x) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  return cast_bits<T>(cast_bits<Bits>(x) & (~Bits{} >> 1));
}

// a * b + c, rounded once. Without instructions for it, as at the baseline level of x86-64, this is a slow
// call for each element.
template <class T, int N>
POSENC_HD Vec<T, N> fused_multiply_add(Vec<T, N> a, Vec<T, N> b, Vec<T, N> c) {
  return map<T, N>(
      [](auto a, auto b, auto c) POSENC_LAMBDA {
        using V = decltype(a);
        constexpr bool kDouble = sizeof(T) == sizeof(double);
#if POSENC_VECTOR_BYTES >= 64
        if constexpr (sizeof(V) == 64 && kDouble)
          return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
        if constexpr (sizeof(V) == 64 && !kDouble) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
#if POSENC_VECTOR_BYTES >= 32
        if constexpr (sizeof(V) == 32 && kDouble)
          return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
        if constexpr (sizeof(V) == 32 && !kDouble) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
        V sum = c;
        for (size_t i = 0; i < sizeof(V) / sizeof(T); ++i) {
          sum[i] = kDouble ? __builtin_fma(a[i], b[i], c[i]) : __builtin_fmaf(a[i], b[i], c[i]);
        }
        return sum;
      },
      a, b, c);
}

// The same where all elements share one of them.
template <class T, int N>
POSENC_HD Vec<T, N> fused_multiply_add(Vec<T, N> a, Vec<T, N> b, std::type_identity_t<T> c) {
  return fused_multiply_add(a, b, broadcast<N>(c));
}
template <class T, int N>
POSENC_HD Vec<T, N> fused_multiply_add(Vec<T, N> a, std::type_identity_t<T> b, Vec<T, N> c) {
  return fused_multiply_add(a, broadcast<N>(b), c);
}
template <class T, int N>
POSENC_HD Vec<T, N> fused_multiply_add(Vec<T, N> a, std::type_identity_t<T> b, std::type_identity_t<T> c) {
  return fused_multiply_add(a, broadcast<N>(b), broadcast<N>(c));
}

// The same for a factor that all elements share: a product with one is exact and needs no such call.
template <class T, int N>
POSENC_HD Vec<T, N> multiply_add_by(Vec<T, N> a, std::type_identity_t<T> factor, Vec<T, N> c) {
  if (!kHasFma && factor == T{1}) return a + c;
  return fused_multiply_add(a, broadcast<N>(factor), c);
}

// a * b + c where the product is exact: one rounding is left, and fusing is only faster.
template <class T, int N>
POSENC_HD Vec<T, N> add_exact_product(Vec<T, N> a, Vec<T, N> b, Vec<T, N> c) {
  if constexpr (kHasFma) return fused_multiply_add(a, b, c);
  return a * b + c;
}

// The sum of all elements: the halves of the vector are added until one element is left.
template <class T, int N>
POSENC_HD T sum_of(Vec<T, N> x) {
  if constexpr (N > 2) {
    return sum_of(low_half(x) + high_half(x));
  } else {
    return x.v[0] + x.v[1];
  }
}

// The 64-bit products of the low 32 bits of each element.
template <int N>
POSENC_HD Vec<uint64_t, N> multiply_low_words(Vec<uint64_t, N> a, Vec<uint64_t, N> b) {
  return map<uint64_t, N>(
      [](auto a, auto b) POSENC_LAMBDA {
        using V = decltype(a);
#if POSENC_VECTOR_BYTES >= 64
        if constexpr (sizeof(V) == 64) return (V)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#endif
#if POSENC_VECTOR_BYTES >= 32
        if constexpr (sizeof(V) == 32) return (V)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#endif
#if defined(__x86_64__)
        if constexpr (sizeof(V) == 16) return (V)_mm_mul_epu32((__m128i)a, (__m128i)b);
#endif
        return (a & 0xffffffffu) * (b & 0xffffffffu);
      },
      a, b);
}

// ---- Masks: all bits of an element, or none.

template <class T>
using MaskOf =
    std::conditional_t<sizeof(T) == 8, int64_t, std::conditional_t<sizeof(T) == 4, int32_t, int16_t>>;

#define POSENC_COMPARISON(OP)                                                                           \
  template <class T, int N>                                                                             \
  POSENC_HD Vec<MaskOf<T>, N> operator OP(Vec<T, N> a, Vec<T, N> b) {                                   \
    return map<MaskOf<T>, N>(                                                                           \
        [](auto a, auto b)                                                                              \
            POSENC_LAMBDA { return (typename Vec<MaskOf<T>, sizeof(a) / sizeof(T)>::Native)(a OP b); }, \
        a, b);                                                                                          \
  }
POSENC_COMPARISON(==)
POSENC_COMPARISON(!=)
POSENC_COMPARISON(<)
POSENC_COMPARISON(>=)
#undef POSENC_COMPARISON

template <class T, int N>
POSENC_HD Vec<T, N> select(Vec<MaskOf<T>, N> mask, Vec<T, N> a, Vec<T, N> b) {
  return map<T, N>([](auto mask, auto a, auto b) POSENC_LAMBDA { return mask ? a : b; }, mask, a, b);
}

// A bit for each element of a mask of 16 bits each; N <= 64.
template <int N>
POSENC_HD uint64_t mask_bits(Vec<int16_t, N> mask) {
#if POSENC_VECTOR_BYTES >= 64
  if constexpr (N == 32) return _mm512_movepi16_mask((__m512i)mask.v);
#endif
#if POSENC_VECTOR_BYTES == 32
  if constexpr (N == 32) {
    const __m256i bytes = _mm256_packs_epi16((__m256i)mask.low.v, (__m256i)mask.high.v);
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8)));
  }
#endif
#if defined(__x86_64__)
  if constexpr (N == 8) return _mm_movemask_epi8(_mm_packs_epi16((__m128i)mask.v, __m128i{}));
#endif
  if constexpr (N > 8) {
    return mask_bits(low_half(mask)) | mask_bits(high_half(mask)) << (N / 2);
  } else {
    uint64_t bits = 0;
    for (int i = 0; i < N; ++i) bits |= static_cast<uint64_t>(mask.v[i] & 1) << i;
    return bits;
  }
}

// Whether any element is negative, or any of a mask set.
template <int N>
POSENC_HD bool any_negative(Vec<int32_t, N> x) {
#if POSENC_VECTOR_BYTES >= 64
  if constexpr (N == 16) return _mm512_movepi32_mask((__m512i)x.v) != 0;
#endif
#if POSENC_VECTOR_BYTES >= 32
  if constexpr (N == 8) return _mm256_movemask_ps((__m256)x.v) != 0;
#endif
  if constexpr (N > 2) {
    return any_negative(low_half(x) | high_half(x));
  } else {
    return (x.v[0] | x.v[1]) < 0;
  }
}

template <class T, int N>
POSENC_HD Vec<T, N> min_of(Vec<T, N> a, Vec<T, N> b) {
  return map<T, N>([](auto a, auto b) POSENC_LAMBDA { return a < b ? a : b; }, a, b);
}

template <class T, int N>
POSENC_HD Vec<T, N> min_of(Vec<T, N> a, std::type_identity_t<T> b) {
  return min_of(a, broadcast<N>(b));
}

template <class T, int N>
POSENC_HD Vec<T, N> max_of(Vec<T, N> a, Vec<T, N> b) {
  return map<T, N>([](auto a, auto b) POSENC_LAMBDA { return a < b ? b : a; }, a, b);
}

// The largest element.
template <class T, int N>
POSENC_HD T max_lane(Vec<T, N> x) {
  if constexpr (N > 2) {
    return max_lane(max_of(low_half(x), high_half(x)));
  } else {
    return x.v[0] < x.v[1] ? x.v[1] : x.v[0];
  }
}

// For core/exp.h.
template <class T, int N>
POSENC_HD Vec<T, N> times_power(Vec<T, N> x, Vec<T, N> rounded) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  return cast_bits<T>(cast_bits<Bits>(x) + (cast_bits<Bits>(rounded) << (sizeof(T) == 8 ? 52 : 23)));
}
template <class T, int N>
POSENC_HD Vec<T, N> zero_below(Vec<T, N> x, Vec<T, N> y, std::type_identity_t<T> least) {
  return select(y < broadcast<N>(least), broadcast<N>(T(0)), x);
}

// Elements whose bit is not set become zero.
template <class T, int N>
POSENC_HD Vec<T, N> keep(Vec<T, N> x, uint64_t bits) {
  constexpr int kBits = 8 * sizeof(T);
#if POSENC_VECTOR_BYTES >= 64
  if constexpr (sizeof(x) == 64 && kBits == 64)
    return {(decltype(x.v))_mm512_maskz_mov_epi64(static_cast<__mmask8>(bits), (__m512i)x.v)};
  if constexpr (sizeof(x) == 64 && kBits == 32)
    return {(decltype(x.v))_mm512_maskz_mov_epi32(static_cast<__mmask16>(bits), (__m512i)x.v)};
  if constexpr (sizeof(x) == 64 && kBits == 16)
    return {(decltype(x.v))_mm512_maskz_mov_epi16(static_cast<__mmask32>(bits), (__m512i)x.v)};
#endif
  if constexpr (N > kBits || !FitsRegister<T, N>) {
    return join(keep(low_half(x), bits), keep(high_half(x), bits >> (N / 2)));
  } else {
    using M = MaskOf<T>;
    const Vec<M, N> own = broadcast<N>(M{1}) << lanes<M, N>();
    return cast_bits<T>(cast_bits<M>(x) & ((broadcast<N>(static_cast<M>(bits)) & own) == own));
  }
}

// ---- Conversions

template <class U, class T, int N>
POSENC_HD Vec<U, N> convert(Vec<T, N> x) {
  if constexpr (!FitsRegister<T, N> || !FitsRegister<U, N>) {
    return join(convert<U>(low_half(x)), convert<U>(high_half(x)));
  } else {
    using V = typename Vec<U, N>::Native;
#if POSENC_VECTOR_BYTES >= 32  // g++ 12 widens to a register in two halves where one instruction does it
    constexpr bool kToDouble = std::is_same_v<T, float> && std::is_same_v<U, double>;
    constexpr bool kToWord = std::is_same_v<T, uint16_t> && std::is_same_v<U, uint32_t>;
    if constexpr (kToDouble && N == 4) return {(V)_mm256_cvtps_pd((__m128)x.v)};
    if constexpr (kToWord && N == 8) return {(V)_mm256_cvtepu16_epi32((__m128i)x.v)};
#if POSENC_VECTOR_BYTES >= 64
    if constexpr (kToDouble && N == 8) return {(V)_mm512_cvtps_pd((__m256)x.v)};
    if constexpr (kToWord && N == 16) return {(V)_mm512_cvtepu16_epi32((__m256i)x.v)};
#endif
#endif
    return {__builtin_convertvector(x.v, V)};
  }
}

// The upper 16 bits of each element.
template <int N>
POSENC_HD Vec<uint16_t, N> upper_halves(Vec<uint32_t, N> x) {
  const auto odd = [](int i) { return 2 * i + 1; };
  if constexpr (FitsRegister<uint32_t, N>) {
    const Vec<uint16_t, 2 * N> halves{(typename Vec<uint16_t, 2 * N>::Native) x.v};
    return shuffle<N>(halves, halves, odd);
  } else if constexpr (FitsRegister<uint32_t, N / 2>) {
    using V = typename Vec<uint16_t, N>::Native;
    return shuffle<N>(Vec<uint16_t, N>{(V)x.low.v}, Vec<uint16_t, N>{(V)x.high.v}, odd);
  } else {
    return {upper_halves(x.low), upper_halves(x.high)};
  }
}

// f of each element, where there is no instruction for more.
template <class U, class F, class T, int N>
POSENC_HD Vec<U, N> convert_each(F f, Vec<T, N> x) {
  T from[N];
  U to[N];
  store(from, x);
  for (int i = 0; i < N; ++i) to[i] = f(from[i]);
  return load<N>(to);
}

// To the type of sums.
template <class T, int N>
POSENC_HD Vec<accumulator_t<T>, N> widen(Vec<T, N> x) {
  if constexpr (sizeof(T) >= sizeof(float)) {
    return x;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return cast_bits<float>(convert<uint32_t>(cast_bits<uint16_t>(x)) << 16);
  } else {
#if POSENC_VECTOR_BYTES >= 64
    if constexpr (N == 16) return {(typename Vec<float, N>::Native)_mm512_cvtph_ps((__m256i)x.v)};
#endif
#if POSENC_VECTOR_BYTES >= 32
    if constexpr (N == 8) return {(typename Vec<float, N>::Native)_mm256_cvtph_ps((__m128i)x.v)};
#endif
    if constexpr (N > 8) return join(widen(low_half(x)), widen(high_half(x)));
    return convert_each<float>([](Half x) { return to_float(x); }, x);
  }
}

template <class T, int N>
POSENC_HD Vec<double, N> to_double(Vec<T, N> x) {
  return convert<double>(widen(x));
}

// As core::round_to_odd: the bits that a float lacks, ones added, carry into its last bit unless all are
// zero.
template <int N>
POSENC_HD Vec<float, N> round_to_odd(Vec<double, N> x) {
  constexpr uint64_t kCut = (uint64_t{1} << 29) - 1;
  const Vec<uint64_t, N> bits = cast_bits<uint64_t>(x);
  return convert<float>(cast_bits<double>((((bits & kCut) + kCut) | bits) & ~kCut));
}

// Rounds to a half type what is not a NaN.
template <class T, int N>
POSENC_HD Vec<T, N> round_number(Vec<float, N> x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Vec<uint32_t, N> bits = cast_bits<uint32_t>(x);
    return cast_bits<T>(upper_halves(bits + 0x7fffu + ((bits >> 16) & 1u)));
  } else if constexpr (N > (POSENC_VECTOR_BYTES >= 64 ? 16 : 8)) {
    return join(round_number<T>(low_half(x)), round_number<T>(high_half(x)));
  } else {
#if POSENC_VECTOR_BYTES >= 32
    using V = typename Vec<T, N>::Native;
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT;
    if constexpr (N == 8) return {(V)_mm256_cvtps_ph((__m256)x.v, kNearest)};
#if POSENC_VECTOR_BYTES >= 64
    if constexpr (N == 16) return {(V)_mm512_cvtps_ph((__m512)x.v, kNearest)};
#endif
#endif
    return convert_each<T>([](float x) { return core::round_to<T>(x); }, x);
  }
}

// Rounds once, as core::round_to. Of a NaN, float16 retains the sign, bfloat16 nothing.
template <class T, int N>
POSENC_HD Vec<T, N> round_to(Vec<float, N> x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, Half>) {
    // The conversion makes a NaN quiet; the rest of its payload is cleared here: half the work in 16 bits.
    const Vec<uint16_t, N> bits = cast_bits<uint16_t>(round_number<T>(x));
    const auto is_nan = broadcast<N>(int16_t{0x7c00}) < cast_bits<int16_t>(bits & uint16_t{0x7fff});
    return cast_bits<T>(select(is_nan, bits & uint16_t{0xfe00}, bits));
  } else {
    const Vec<uint32_t, N> bits = cast_bits<uint32_t>(x);
    return round_number<T>(cast_bits<float>(select(x != x, broadcast<N>(0x7fc00000u), bits)));
  }
}

template <class T, int N>
POSENC_HD Vec<T, N> round_to(Vec<double, N> x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else if constexpr (std::is_same_v<T, float>) {
    return convert<float>(x);
  } else {
    return round_to<T>(round_to_odd(x));
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
