// Lines of memory and rows of elements, made of octets.
#pragma once

#include "cpu/simd/level.h"
#include "cpu/simd/octet-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T>
constexpr int64_t kLineOctets = kLineElements<T> / kOctet;

// One line of memory, which is stored as a whole.
template <class T>
struct Line;

#if POSENC_VECTOR_BYTES >= 32

inline __m256i half_line(const Octet<float>* octets, int i) { return _mm256_castps_si256(octets[i].all.v); }
template <class T>
inline __m256i half_line(const HalfOctet<T>* octets, int i) {
  return _mm256_set_m128i(octets[2 * i + 1].bits, octets[2 * i].bits);
}

#endif

#if POSENC_VECTOR_BYTES == 64

inline __m512i whole_line(const Octet<double>* octets) { return _mm512_castpd_si512(octets->all.v); }
template <class Octets>
inline __m512i whole_line(const Octets* octets) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(half_line(octets, 0)), half_line(octets, 1), 1);
}

template <class T>
struct Line {
  __m512i all;

  static Line of(const Octet<T> (&octets)[kLineOctets<T>]) { return {whole_line(octets)}; }
  // Elements whose bit is not set become zero.
  Line keep(uint64_t bits) const {
    if constexpr (sizeof(T) == 8) return {_mm512_maskz_mov_epi64(static_cast<__mmask8>(bits), all)};
    if constexpr (sizeof(T) == 4) return {_mm512_maskz_mov_epi32(static_cast<__mmask16>(bits), all)};
    return {_mm512_maskz_mov_epi16(static_cast<__mmask32>(bits), all)};
  }
  void store(T* to) const { _mm512_storeu_si512(to, all); }
  void stream(T* to) const { _mm512_stream_si512(reinterpret_cast<__m512i*>(to), all); }
};

#elif POSENC_VECTOR_BYTES == 32

inline __m256i half_line(const Octet<double>* octets, int i) {
  return _mm256_castpd_si256(i == 0 ? octets->all.low : octets->all.high);
}

template <class T>
struct Line {
  __m256i half[2];

  static Line of(const Octet<T> (&octets)[kLineOctets<T>]) {
    return {{half_line(octets, 0), half_line(octets, 1)}};
  }
  // Elements whose bit is not set become zero.
  Line keep(uint64_t bits) const {
    return {{keep_half(half[0], bits), keep_half(half[1], bits >> kLineElements<T> / 2)}};
  }
  static __m256i keep_half(__m256i x, uint64_t bits) {
    if constexpr (sizeof(T) == 8) {
      const __m256i own = _mm256_set_epi64x(8, 4, 2, 1);
      const __m256i all = _mm256_set1_epi64x(static_cast<int64_t>(bits));
      return _mm256_and_si256(x, _mm256_cmpeq_epi64(_mm256_and_si256(all, own), own));
    } else if constexpr (sizeof(T) == 4) {
      const __m256i own = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
      const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(bits));
      return _mm256_and_si256(x, _mm256_cmpeq_epi32(_mm256_and_si256(all, own), own));
    } else {
      const __m256i own =
          _mm256_set_epi16(-32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1);
      const __m256i all = _mm256_set1_epi16(static_cast<int16_t>(bits));
      return _mm256_and_si256(x, _mm256_cmpeq_epi16(_mm256_and_si256(all, own), own));
    }
  }
  void store(T* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half[0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, half[1]);
  }
  void stream(T* to) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), half[0]);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, half[1]);
  }
};

#else

template <class T>
struct Line {
  Octet<T> octet[kLineOctets<T>];

  static Line of(const Octet<T> (&octets)[kLineOctets<T>]) {
    Line line;
    for (int64_t i = 0; i < kLineOctets<T>; ++i) line.octet[i] = octets[i];
    return line;
  }
  // Elements whose bit is not set become zero.
  Line keep(uint64_t bits) const {
    Line line;
    for (int64_t i = 0; i < kLineOctets<T>; ++i) {
      line.octet[i] = octet[i].keep(static_cast<uint8_t>(bits >> i * kOctet));
    }
    return line;
  }
  void store(T* to) const {
    for (int64_t i = 0; i < kLineOctets<T>; ++i) octet[i].store(to + i * kOctet);
  }
  void stream(T* to) const {
    for (int64_t i = 0; i < kLineOctets<T>; ++i) octet[i].stream(to + i * kOctet);
  }
};

#endif

// A row of elements in memory; Stride is a type that knows its value where that is one.
template <class T, class Stride>
struct Row {
  const T* first;
  Stride stride;

  // Elements [c, c + count) of it, count <= 8; what is beyond is zero.
  Octet<T> load(int64_t c, int64_t count) const {
    if (stride == 1 && count == kOctet) return Octet<T>::load(first + c);
    T part[kOctet] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = first[(c + i) * stride];
    return Octet<T>::load(part);
  }
};

// A stride of one, known when the loop is compiled.
struct SideBySide {
  constexpr operator int64_t() const { return 1; }
};

// y[c, c + n) = octet(c, n) for all c < count, n <= 8. An octet may read its own place in y, and no other.
template <class T, class OctetAt>
inline void write_octets(bool past_caches, int64_t count, T* y, OctetAt octet) {
  const auto write = [y, octet](int64_t begin, int64_t end) {
    int64_t c = begin;
    for (; c + kOctet <= end; c += kOctet) octet(c, kOctet).store(y + c);
    if (c == end) return;
    T part[kOctet];
    octet(c, end - c).store(part);
    memcpy(y + c, part, static_cast<size_t>(end - c) * sizeof(T));
  };
  if (!past_caches) return write(0, count);
  const uintptr_t address = reinterpret_cast<uintptr_t>(y);
  const int64_t first = min_of(count, static_cast<int64_t>(-address % kLine / sizeof(T)));
  const int64_t last = first + (count - first) / kLineElements<T> * kLineElements<T>;
  if (first != 0) write(0, first);
  for (int64_t c = first; c < last; c += kLineElements<T>) {
    Octet<T> octets[kLineOctets<T>];
    for (int64_t i = 0; i < kLineOctets<T>; ++i) octets[i] = octet(c + i * kOctet, kOctet);
    Line<T>::of(octets).stream(y + c);
  }
  if (last != count) write(last, count);
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
