// Biases whose row depends on key - query alone (T5) as a source of rows, and their adjoint.
#pragma once

#include "cpu/kernels/bias_rows-inl.h"
#include "cpu/simd/lane_sum-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T, class Scheme>
struct TableStrip {
  const Scheme& scheme;
  const BiasForward& a;
  const T* table;  // of the head

  void set_head(int64_t head) { table = static_cast<const T*>(a.table) + head * a.head_stride; }

  void fill(int64_t first, int64_t last, T* to) const {
    scheme.for_each_range(first, last, [=, this](int64_t row, int64_t begin, int64_t end) {
      const T value = table[row * a.row_stride];
      for (int64_t i = begin; i < end; ++i) to[i] = value;
    });
  }
};

// Adds rows of queries in a strip. The order of sums is that of passes over kRowsPerPass queries, of which
// the sums are made first.
template <class T>
struct StripRows {
  using Sum = accumulator_t<T>;
  static constexpr int64_t kRowsPerPass = 4;

  const int64_t query_stride, stride, count;  // of a gradient of `count` keys, which are `stride` apart

  // Of the queries [first, last), that of the last one at `strip`.
  void add_rows(const T* grad, int64_t first, int64_t last, Sum* strip) const {
    int64_t query = first;
    for (; query + kRowsPerPass <= last; query += kRowsPerPass) {
      add_pass(grad + query * query_stride, strip + (last - 1 - query));
    }
    for (; query < last; ++query) {
      add_row(grad + query * query_stride, stride, count, strip + (last - 1 - query));
    }
  }

  // The sums of each row begin one place before those of the row before it.
  void add_pass(const T* first, Sum* sums) const {
    const int64_t common = count - (kRowsPerPass - 1);  // places that all rows reach
    const T* row[kRowsPerPass];
    for (int64_t n = 0; n < kRowsPerPass; ++n) {
      const T* from = first + n * query_stride;
      if (common <= 0) {
        add_row(from, stride, count, sums - n);
        continue;
      }
      add_row(from, stride, n, sums - n);
      row[n] = from + n * stride;
      add_row(row[n] + common * stride, stride, kRowsPerPass - 1 - n, sums + common);
    }
    if (common <= 0) return;
    if (stride == 1) return add_common(row, 1, common, sums, kRowsPerPass * query_stride);
    add_common(row, stride, common, sums, 0);
  }

  static POSENC_ALONE void add_common(const T* const (&row)[kRowsPerPass], int64_t stride, int64_t count,
                                      Sum* __restrict sums, int64_t next) {
    int64_t i = 0;
    constexpr int kWidth = 16;
    for (; stride == 1 && i + kWidth <= count; i += kWidth) {
      for (const T* from : row) __builtin_prefetch(from + i + next);  // the rows of the next pass
      const auto at = [&](int n) { return widen(load<kWidth>(row[n] + i)); };
      store(sums + i, load<kWidth>(sums + i) + ((at(0) + at(1)) + (at(2) + at(3))));
    }
    for (; i < count; ++i) {
      const auto at = [&](int n) { return widen(row[n][i * stride]); };
      sums[i] += (at(0) + at(1)) + (at(2) + at(3));
    }
  }
};

// The rows of a stretch of queries are added up in a strip, then the strip in the rows of the table.
template <class T, class Scheme>
struct StripSums : StripRows<T> {
  using Sum = accumulator_t<T>;
  static constexpr int64_t kMaxQueries = 512;
  static int64_t parts(const Scheme& scheme) { return scheme.queries(); }

  const Scheme& scheme;
  Scratch<Sum> scratch;
  Sum* sums;

  StripSums(const Scheme& scheme, const BiasBackward& a)
      : StripRows<T>{a.query_stride, a.key_stride, scheme.keys()},
        scheme(scheme),
        scratch(min_of(kMaxQueries, scheme.queries()) - 1 + scheme.keys()) {}

  void begin(Sum* to) { sums = to; }
  void finish() {}

  void add(const T* grad, int64_t first, int64_t last) {
    for (; first < last; first += kMaxQueries) add_strip(grad, first, min_of(last, first + kMaxQueries));
  }

  void add_strip(const T* grad, int64_t first, int64_t last) {
    Sum* strip = scratch.data();
    for (int64_t i = 0; i < last - first - 1 + scheme.keys(); ++i) strip[i] = Sum(0);
    this->add_rows(grad, first, last, strip);
    scheme.for_each_range(first, last, [=, this](int64_t row, int64_t begin, int64_t end) {
      sums[row] += lane_sum<Sum>(end - begin, [=](int64_t i) { return strip[begin + i]; });
    });
  }
};

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
