// Rows written past the caches (non-temporal stores); compiled once per CPU level by level_*.cpp, inside
// the level's namespace. Who calls these calls finish_streams() before it returns.
#pragma once

#include "core/host_device.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// A hot loop: all that it calls is inlined, also where the compiler would find that too much.
#define POSENC_FLATTEN __attribute__((flatten))
// Not inlined: these loops are short, and alone they keep what they need in registers.
#define POSENC_ALONE __attribute__((noinline))

constexpr int64_t kLine = 64;  // bytes; whole lines alone go past the caches

// The next multiple of kLine.
template <class T>
inline T* to_line(T* p) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(p) + kLine - 1) / kLine * kLine);
}

// One line; `to` stands at a multiple of kLine.
inline void stream_line(void* to, const void* from) {
#if !defined(__x86_64__)
  memcpy(to, from, kLine);
#elif POSENC_VECTOR_BYTES == 64
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif POSENC_VECTOR_BYTES == 32
  const __m256i* source = static_cast<const __m256i*>(from);
  __m256i* target = static_cast<__m256i*>(to);
  const __m256i first = _mm256_loadu_si256(source), second = _mm256_loadu_si256(source + 1);
  _mm256_stream_si256(target, first);
  _mm256_stream_si256(target + 1, second);
#else
  const __m128i* source = static_cast<const __m128i*>(from);
  __m128i* target = static_cast<__m128i*>(to);
  for (int i = 0; i < 4; ++i) _mm_stream_si128(target + i, _mm_loadu_si128(source + i));
#endif
}

inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Moves of a fixed size, in vectors as wide as the level's.
template <int kBytes>
struct Unaligned {
  typedef char type __attribute__((vector_size(kBytes), aligned(1), may_alias));
};

template <int kBytes>
inline void move_bytes(char* to, const char* from) {
  if constexpr (kBytes > kLine) {
    move_bytes<kBytes / 2>(to, from);
    move_bytes<kBytes / 2>(to + kBytes / 2, from + kBytes / 2);
  } else {
    using Vector = typename Unaligned<kBytes>::type;
    *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(from);
  }
}

// The last `bytes` of a row, below 2 * kBytes.
template <int kBytes>
inline void move_rest(char* to, const char* from, int64_t bytes) {
  if ((bytes & kBytes) != 0) {
    move_bytes<kBytes>(to, from);
    to += kBytes, from += kBytes;
  }
  if constexpr (kBytes > 2) move_rest<kBytes / 2>(to, from, bytes);
}

// A row through the caches. No loop over elements or single vectors: compilers would call memcpy, and rows
// are short. No moves that overlap: they took longer.
template <class T>
inline void copy_row(T* __restrict to, const T* __restrict from, int64_t count) {
  constexpr int kStep = 256;
  char* target = reinterpret_cast<char*>(to);
  const char* source = reinterpret_cast<const char*>(from);
  int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  for (; bytes >= kStep; bytes -= kStep, target += kStep, source += kStep) move_bytes<kStep>(target, source);
  move_rest<kStep / 2>(target, source, bytes);
}

template <class T>
inline void stream_row(T* to, const T* from, int64_t count) {
  char* target = reinterpret_cast<char*>(to);
  const char* source = reinterpret_cast<const char*>(from);
  int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const int64_t head = min_of(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(target) % kLine));
  if (head != 0) memcpy(target, source, static_cast<size_t>(head));
  target += head, source += head, bytes -= head;
  for (; bytes >= kLine; target += kLine, source += kLine, bytes -= kLine) stream_line(target, source);
  if (bytes != 0) memcpy(target, source, static_cast<size_t>(bytes));
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
