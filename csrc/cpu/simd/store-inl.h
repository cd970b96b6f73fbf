// Rows of elements copied or written, with non-temporal stores where the result would displace the caches.
// Callers of the latter call finish_streams() before they return.
#pragma once

#include "cpu/simd/vec-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr int64_t kLine = 64;  // bytes of a cache line: non-temporal stores write whole ones

template <class T>
constexpr int kLineElements = kLine / sizeof(T);

// The next multiple of kLine.
template <class T>
inline T* to_line(T* p) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(p) + kLine - 1) / kLine * kLine);
}

// How many of `count` elements are before the first whole line of y.
template <class T>
inline int64_t elements_to_line(const T* y, int64_t count) {
  return min_of(count, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(y) % kLine / sizeof(T)));
}

inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Moves of a fixed size, in vectors as wide as the level's.
template <int kBytes>
inline void move_bytes(char* to, const char* from) {
  store(to, load<kBytes>(from));
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

// No loop over elements or single vectors: compilers would call memcpy, and rows are short. No moves that
// overlap: they took longer.
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
  const int64_t head = elements_to_line(target, bytes);
  if (head != 0) memcpy(target, source, static_cast<size_t>(head));
  target += head, source += head, bytes -= head;
  for (; bytes >= kLine; target += kLine, source += kLine, bytes -= kLine) {
    stream(target, load<kLine>(source));
  }
  if (bytes != 0) memcpy(target, source, static_cast<size_t>(bytes));
}

// y[c, c + n) = vec_at(c, n), a Vec<T, N>, for all c < count. It may read its own elements of y, no others.
template <int N, class T, class VecAt>
inline void write_row(bool non_temporal, int64_t count, T* y, VecAt vec_at) {
  const int64_t first = non_temporal ? elements_to_line(y, count) : count;
  const auto write = [y, vec_at](int64_t c, int64_t end) {
    for (; c + N <= end; c += N) store(y + c, vec_at(c, N));
    if (c < end) store_some(y + c, vec_at(c, end - c), end - c);
  };
  write(0, first);
  int64_t c = first;
  for (; c + kLineElements<T> <= count; c += kLineElements<T>) {
    for (int64_t i = 0; i < kLineElements<T>; i += N) stream(y + c + i, vec_at(c + i, N));
  }
  write(c, count);
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
