// Sixteen elements at a time, in one register where the level has such: two octets, converted, compared,
// taken in turn. Compiled once per CPU level by level_*.cpp, inside the level's namespace, after line.h.
#pragma once

#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr int64_t kSixteen = 2 * kOctet;

#if POSENC_VECTOR_BYTES == 64

struct Floats16 {
  __m512 v;
};

inline Floats16 join(Floats low, Floats high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low.v), high.v, 1)};
}
inline Floats16 load_floats(const float* from) { return {_mm512_loadu_ps(from)}; }
inline Floats16 all_of_floats(float x) { return {_mm512_set1_ps(x)}; }
inline Floats16 operator*(Floats16 a, Floats16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats16 largest(Floats16 a, Floats16 b) { return {_mm512_max_ps(a.v, b.v)}; }

// Of 32 bits each; of a test, the sign is what matters.
struct Bits16 {
  __m512i v;
};

inline Bits16 operator|(const Bits16& a, const Bits16& b) { return {_mm512_or_si512(a.v, b.v)}; }
inline bool any_sign(const Bits16& x) { return _mm512_movepi32_mask(x.v) != 0; }
inline Bits16 size_of(const Floats16& x) {
  return {_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff))};
}
inline Bits16 least(const Bits16& a, const Bits16& b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline Bits16 below(const Bits16& size, const Floats16& limit) {
  return {_mm512_sub_epi32(size.v, _mm512_castps_si512(limit.v))};
}
// In the low 16 bits of each: the lowest kCut bits of a float, moved up. Those of a middle, one, then zeros,
// are the least int16 then.
template <int kCut>
inline Bits16 cut_bits(const Floats16& x) {
  return {_mm512_slli_epi16(_mm512_castps_si512(x.v), 16 - kCut)};
}
inline Bits16 least_words(Bits16 a, Bits16 b) { return {_mm512_min_epi16(a.v, b.v)}; }
inline Bits16 middles(const Bits16& cut) { return {_mm512_abs_epi32(_mm512_slli_epi32(cut.v, 16))}; }

#else

struct Floats16 {
  Floats low, high;
};

inline Floats16 join(Floats low, Floats high) { return {low, high}; }

#if POSENC_VECTOR_BYTES == 32

inline Floats16 load_floats(const float* from) {
  return {{_mm256_loadu_ps(from)}, {_mm256_loadu_ps(from + kOctet)}};
}
inline Floats16 all_of_floats(float x) { return {{_mm256_set1_ps(x)}, {_mm256_set1_ps(x)}}; }
inline Floats16 operator*(Floats16 a, Floats16 b) {
  return {{_mm256_mul_ps(a.low.v, b.low.v)}, {_mm256_mul_ps(a.high.v, b.high.v)}};
}
inline Floats16 largest(Floats16 a, Floats16 b) {
  return {{_mm256_max_ps(a.low.v, b.low.v)}, {_mm256_max_ps(a.high.v, b.high.v)}};
}

struct Bits8 {
  __m256i v;
};

inline Bits8 operator|(Bits8 a, Bits8 b) { return {_mm256_or_si256(a.v, b.v)}; }
inline bool any_sign(Bits8 x) { return _mm256_movemask_ps(_mm256_castsi256_ps(x.v)) != 0; }
inline Bits8 size_of(Floats x) {
  return {_mm256_and_si256(_mm256_castps_si256(x.v), _mm256_set1_epi32(0x7fffffff))};
}
inline Bits8 least(Bits8 a, Bits8 b) { return {_mm256_min_epi32(a.v, b.v)}; }
inline Bits8 below(Bits8 size, Floats limit) {
  return {_mm256_sub_epi32(size.v, _mm256_castps_si256(limit.v))};
}
template <int kCut>
inline Bits8 cut_bits(Floats x) {
  return {_mm256_slli_epi16(_mm256_castps_si256(x.v), 16 - kCut)};
}
inline Bits8 least_words(Bits8 a, Bits8 b) { return {_mm256_min_epi16(a.v, b.v)}; }
inline Bits8 middles(Bits8 cut) { return {_mm256_abs_epi32(_mm256_slli_epi32(cut.v, 16))}; }

#else

inline Floats16 load_floats(const float* from) {
  return {widen(Octet<float>::load(from)), widen(Octet<float>::load(from + kOctet))};
}
inline Floats16 all_of_floats(float x) {
  const Floats all = each<Floats>([x](int64_t) { return x; });
  return {all, all};
}
inline Floats16 operator*(Floats16 a, Floats16 b) {
  return {each<Floats>([&](int64_t i) { return a.low.v[i] * b.low.v[i]; }),
          each<Floats>([&](int64_t i) { return a.high.v[i] * b.high.v[i]; })};
}
inline Floats16 largest(Floats16 a, Floats16 b) {
  return {each<Floats>([&](int64_t i) { return max_of(a.low.v[i], b.low.v[i]); }),
          each<Floats>([&](int64_t i) { return max_of(a.high.v[i], b.high.v[i]); })};
}

struct Bits8 {
  int32_t v[kOctet];
};

inline Bits8 operator|(Bits8 a, Bits8 b) {
  return each<Bits8>([&](int64_t i) { return a.v[i] | b.v[i]; });
}
inline bool any_sign(Bits8 x) {
  int32_t all = 0;
  for (int64_t i = 0; i < kOctet; ++i) all |= x.v[i];
  return all < 0;
}
inline Bits8 size_of(Floats x) {
  return each<Bits8>([&](int64_t i) { return bit_cast<int32_t>(x.v[i]) & 0x7fffffff; });
}
inline Bits8 least(Bits8 a, Bits8 b) {
  return each<Bits8>([&](int64_t i) { return min_of(a.v[i], b.v[i]); });
}
inline Bits8 below(Bits8 size, Floats limit) {
  return each<Bits8>([&](int64_t i) { return size.v[i] - bit_cast<int32_t>(limit.v[i]); });
}
template <int kCut>
inline Bits8 cut_bits(Floats x) {
  return each<Bits8>(
      [&](int64_t i) { return static_cast<int32_t>(bit_cast<uint32_t>(x.v[i]) << (32 - kCut)) >> 16; });
}
inline Bits8 least_words(Bits8 a, Bits8 b) { return least(a, b); }
inline Bits8 middles(Bits8 cut) {
  return each<Bits8>([&](int64_t i) { return static_cast<int16_t>(cut.v[i]) == -0x8000 ? -1 : 0; });
}

#endif

struct Bits16 {
  Bits8 low, high;
};

inline Bits16 operator|(const Bits16& a, const Bits16& b) { return {a.low | b.low, a.high | b.high}; }
inline bool any_sign(const Bits16& x) { return any_sign(x.low | x.high); }
inline Bits16 size_of(const Floats16& x) { return {size_of(x.low), size_of(x.high)}; }
inline Bits16 least(const Bits16& a, const Bits16& b) { return {least(a.low, b.low), least(a.high, b.high)}; }
inline Bits16 below(const Bits16& size, const Floats16& limit) {
  return {below(size.low, limit.low), below(size.high, limit.high)};
}
template <int kCut>
inline Bits16 cut_bits(const Floats16& x) {
  return {cut_bits<kCut>(x.low), cut_bits<kCut>(x.high)};
}
inline Bits16 least_words(const Bits16& a, const Bits16& b) {
  return {least_words(a.low, b.low), least_words(a.high, b.high)};
}
inline Bits16 middles(const Bits16& cut) { return {middles(cut.low), middles(cut.high)}; }

#endif

// Eight of a and eight of b: a0 b0 a1 b1 and so on.
template <class T>
inline void take_in_turn(Octet<T> a, Octet<T> b, Octet<T> (&turns)[2]) {
#if POSENC_VECTOR_BYTES >= 32
  if constexpr (sizeof(T) == 4) {
    const __m256 low = _mm256_unpacklo_ps(a.all.v, b.all.v), high = _mm256_unpackhi_ps(a.all.v, b.all.v);
    turns[0] = {{_mm256_permute2f128_ps(low, high, 0x20)}};
    turns[1] = {{_mm256_permute2f128_ps(low, high, 0x31)}};
    return;
  }
#endif
  T first[kOctet], second[kOctet], both[2 * kOctet];
  a.store(first);
  b.store(second);
  for (int64_t i = 0; i < kOctet; ++i) {
    both[2 * i] = first[i];
    both[2 * i + 1] = second[i];
  }
  for (int64_t i = 0; i < 2; ++i) turns[i] = Octet<T>::load(both + i * kOctet);
}

// Sixteen of each in turn, in whole lines.
template <class T>
struct Turns {
  static constexpr int64_t kLines = 2 * kSixteen / kLineElements<T>;
  Line<T> line[kLines];

  void store(T* to) const {
    for (int64_t i = 0; i < kLines; ++i) line[i].store(to + i * kLineElements<T>);
  }
  void stream(T* to) const {
    for (int64_t i = 0; i < kLines; ++i) line[i].stream(to + i * kLineElements<T>);
  }
};

template <class T>
struct Sixteen {
  Octet<T> octet[2];

#if POSENC_VECTOR_BYTES != 64
  static Sixteen round(Floats16 x) { return {{Octet<T>::round(x.low), Octet<T>::round(x.high)}}; }
#endif
  void store(T* to) const {
    for (int64_t i = 0; i < 2; ++i) octet[i].store(to + i * kOctet);
  }
  void stream(T* to) const {
    for (int64_t i = 0; i < 2; ++i) octet[i].stream(to + i * kOctet);
  }
};

template <class T>
inline Turns<T> in_turn(Sixteen<T> a, Sixteen<T> b) {
  union {
    Octet<T> pair[2][2];
    Octet<T> line[Turns<T>::kLines][kLineOctets<T>];
  } turns;
  for (int i = 0; i < 2; ++i) take_in_turn(a.octet[i], b.octet[i], turns.pair[i]);
  Turns<T> result;
  for (int64_t i = 0; i < Turns<T>::kLines; ++i) result.line[i] = Line<T>::of(turns.line[i]);
  return result;
}

#if POSENC_VECTOR_BYTES == 64

template <>
struct Sixteen<float> {
  __m512 all;

  static Sixteen round(Floats16 x) { return {x.v}; }
  void store(float* to) const { _mm512_storeu_ps(to, all); }
  void stream(float* to) const { _mm512_stream_ps(to, all); }
};

inline Turns<float> in_turn(Sixteen<float> a, Sixteen<float> b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  return {{{_mm512_castps_si512(_mm512_permutex2var_ps(a.all, low, b.all))},
           {_mm512_castps_si512(_mm512_permutex2var_ps(a.all, high, b.all))}}};
}

// As round_upper leaves them.
template <>
struct Sixteen<BFloat16> {
  __m512i upper;

  static Sixteen round(Floats16 x) { return {round_upper(x.v)}; }
  __m256i packed() const { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(upper, 16)); }
  void store(BFloat16* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed()); }
  void stream(BFloat16* to) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), packed()); }
};

inline Turns<BFloat16> in_turn(Sixteen<BFloat16> a, Sixteen<BFloat16> b) {
  return {{{_mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a.upper, 16), b.upper)}}};
}

template <>
struct Sixteen<Half> {
  __m256i bits;

  static Sixteen round(Floats16 x) { return {round_halves(x.v)}; }
  void store(Half* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits); }
  void stream(Half* to) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits); }
};

inline Turns<Half> in_turn(Sixteen<Half> a, Sixteen<Half> b) {
  const __m512i second = _mm512_slli_epi32(_mm512_cvtepu16_epi32(b.bits), 16);
  return {{{_mm512_or_si512(_mm512_cvtepu16_epi32(a.bits), second)}}};
}

#elif POSENC_VECTOR_BYTES == 32

// As round_upper leaves them.
template <>
struct Sixteen<BFloat16> {
  __m256i low, high;

  static Sixteen round(Floats16 x) { return {round_upper(x.low.v), round_upper(x.high.v)}; }
  __m256i packed() const {
    return _mm256_permute4x64_epi64(
        _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16)), 0xd8);
  }
  void store(BFloat16* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed()); }
  void stream(BFloat16* to) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), packed()); }
};

inline Turns<BFloat16> in_turn(Sixteen<BFloat16> a, Sixteen<BFloat16> b) {
  return {{{{_mm256_blend_epi16(_mm256_srli_epi32(a.low, 16), b.low, 0xaa),
             _mm256_blend_epi16(_mm256_srli_epi32(a.high, 16), b.high, 0xaa)}}}};
}

inline Turns<Half> in_turn(Sixteen<Half> a, Sixteen<Half> b) {
  const auto take = [](Octet<Half> first, Octet<Half> second) {
    return _mm256_or_si256(_mm256_cvtepu16_epi32(first.bits),
                           _mm256_slli_epi32(_mm256_cvtepu16_epi32(second.bits), 16));
  };
  return {{{{take(a.octet[0], b.octet[0]), take(a.octet[1], b.octet[1])}}}};
}

#endif

// Rounds floats that are no middles between two T, and no NaN: up by half, and cut.
template <class T>
inline Sixteen<T> round_clear(Floats16 x) {
#if POSENC_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {_mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x8000))};
  }
  if constexpr (std::is_same_v<T, Half>) return {_mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT)};
#elif POSENC_VECTOR_BYTES == 32
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto up = [](Floats f) {
      return _mm256_add_epi32(_mm256_castps_si256(f.v), _mm256_set1_epi32(0x8000));
    };
    return {up(x.low), up(x.high)};
  }
  if constexpr (std::is_same_v<T, Half>) {
    return {{{{_mm256_cvtps_ph(x.low.v, _MM_FROUND_TO_NEAREST_INT)}},
             {{_mm256_cvtps_ph(x.high.v, _MM_FROUND_TO_NEAREST_INT)}}}};
  }
#endif
  return Sixteen<T>::round(x);
}

// Sixteen doubles, with all that rounding to T takes.
template <class T>
inline Floats16 before_rounding(Doubles low, Doubles high) {
  if constexpr (sizeof(T) < sizeof(float)) return join(round_to_odd(low), round_to_odd(high));
  return join(to_floats(low), to_floats(high));
}

template <class T>
inline Sixteen<T> round_sixteen(const double* from) {
  const auto load = [from](int64_t i) { return widen(Octet<double>::load(from + i)); };
  if constexpr (sizeof(T) == sizeof(double)) {
    return {{Octet<double>::load(from), Octet<double>::load(from + kOctet)}};
  } else {
    return Sixteen<T>::round(before_rounding<T>(load(0), load(kOctet)));
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
