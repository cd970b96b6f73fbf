// Where the sines and cosines of a row go; compiled once per CPU level by level_*.cpp, inside the
// level's namespace, after sixteen.h and sinusoidal_body.h.
#pragma once

#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/sixteen-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T, bool kInterleaved, bool kPastCaches>
struct RowWriter {
  Sinusoid spec;
  Places at;

  explicit RowWriter(const Sinusoid& s) : spec(s), at(places(s)) {}

  // Whether all of the pairs [j, j + 16) are there.
  bool holds(int64_t j) const { return j + kSixteen <= spec.pairs(); }

  void put(T* row, int64_t j, Sixteen<T> sines, Sixteen<T> cosines) const {
    if constexpr (kInterleaved) {
      write(row + 2 * j, in_turn(sines, cosines));
    } else {
      write(row + at.sine + j, sines);
      write(row + at.cosine + j, cosines);
    }
  }

  // The same where they may be fewer.
  void put_some(T* row, int64_t j, Sixteen<T> sines, Sixteen<T> cosines) const {
    holds(j) ? put(row, j, sines, cosines) : put_few(row, j, sines, cosines);
  }

  // Those that there are; the last one of an odd dim lacks its cosine.
  POSENC_ALONE void put_few(T* row, int64_t j, Sixteen<T> sines, Sixteen<T> cosines) const {
    T last[2 * kSixteen];
    const int64_t some_sines = spec.frequencies() - j, some_cosines = spec.pairs() - j;
    const auto copy = [](T* to, const T* from, int64_t count) {
      memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
    };
    if constexpr (kInterleaved) {
      RowWriter<T, true, false>(spec).put(last, 0, sines, cosines);
      copy(row + 2 * j, last, some_sines + some_cosines);
    } else {
      sines.store(last);
      cosines.store(last + kSixteen);
      copy(row + at.sine + j, last, some_sines);
      copy(row + at.cosine + j, last + kSixteen, some_cosines);
    }
  }

  // The zero of an odd dim in some rows.
  void put_zeros(T* row, int64_t row_stride, int64_t count) const {
    if (spec.dim % 2 == 0 || spec.odd != Odd::zero) return;
    for (int64_t i = 0; i < count; ++i) row[i * row_stride + at.extra] = T{};
  }

 private:
  template <class Values>
  static void write(T* to, const Values& values) {
    kPastCaches ? values.stream(to) : values.store(to);
  }
};

// Whether rows can be written past the caches: sines and cosines begin and end with whole lines.
template <class T>
inline bool has_whole_lines(const Sinusoid& s, const void* out, int64_t row_stride) {
  const Places at = places(s);
  const auto lines = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(T)) % kLine == 0; };
  if (reinterpret_cast<uintptr_t>(out) % kLine != 0 || !lines(row_stride)) return false;
  return at.step == 2 || (lines(at.sine) && lines(at.cosine));
}

// Calls f(writer) with the writer of the rows of a result.
template <class T, class F>
inline void with_writer(const Sinusoid& s, const void* out, int64_t row_stride, bool past_caches, F f) {
  const bool past = past_caches && has_whole_lines<T>(s, out, row_stride);
  if (s.layout == Layout::interleaved) {
    past ? f(RowWriter<T, true, true>(s)) : f(RowWriter<T, true, false>(s));
  } else {
    past ? f(RowWriter<T, false, true>(s)) : f(RowWriter<T, false, false>(s));
  }
  if (past) finish_streams();
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
