// Biases whose row depends on key - query alone, by strips of rows (core/schemes.h).
#pragma once

#include "cpu/kernels/row_sums-inl.h"
#include "cpu/kernels/window_bias-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Writes the strip of the queries [first, last); rows descend to `last_row`.
template <class T, class Scheme>
POSENC_ALONE void write_strip(const Scheme& scheme, int64_t first, int64_t last, const T* last_row,
                              T* values) {
  constexpr int64_t kShort = 32 / sizeof(T);  // one move, also of what the next run writes over
  const int64_t room = last - first - 1 + scheme.keys() - kShort;
  scheme.for_each_run(first, last, [=](int64_t place, int64_t count, int64_t row, int64_t step) {
    const T* from = last_row - row;
    T* to = values + place;
    if (step == -1) {
      if (count <= kShort && place <= room) {
        move_bytes<32>(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from));
      } else {
        copy_row(to, from, count);
      }
    } else if (step == 0) {
      for (int64_t i = 0; i < count; ++i) to[i] = *from;
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[-i];
    }
  });
}

template <class T, class Scheme>
void bias_forward_typed(const Scheme& scheme, const BiasForward& a, void* scratch, int64_t begin,
                        int64_t end) {
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const bool stream = a.past_caches && keys * static_cast<int64_t>(sizeof(T)) >= kMinStreamBytes;
  T* reversed = static_cast<T*>(scratch);
  const T* last_row = reversed + rows - 1;
  T* values = reversed + rows;
  int64_t head = begin / queries, first = begin - head * queries, reversed_head = -1;
  T* to = static_cast<T*>(a.out) + begin * keys;
  while (begin < end) {
    if (head != reversed_head) {
      reverse_heads(static_cast<const T*>(a.table) + head * a.head_stride, a.row_stride, a.head_stride, rows,
                    int64_t{1}, reversed);
      reversed_head = head;
    }
    const int64_t count = min_of(min_of(kStretchQueries, end - begin), queries - first);
    if (count == 1) {
      write_strip(scheme, first, first + 1, last_row, to);  // where it belongs
      to += keys;
    } else {
      write_strip(scheme, first, first + count, last_row, values);
      for (const T* from = values + count - 1; from >= values; --from, to += keys) {
        if (stream) {
          stream_row(to, from, keys);
        } else {
          copy_row(to, from, keys);
        }
      }
    }
    begin += count;
    first += count;
    if (first == queries) ++head, first = 0;
  }
  if (stream) finish_streams();
}

constexpr int kRowsPerPass = 4;

// Adds kRowsPerPass rows, `step` apart, in one pass over the sums: those of each row begin one before those
// of the row before it. Meanwhile the rows that follow are fetched.
template <class T, class Sum>
POSENC_ALONE void add_rows(const T* first, int64_t step, int64_t count, int64_t stride,
                           Sum* __restrict sums) {
  const int64_t common = count - (kRowsPerPass - 1);  // sums that all rows reach
  if (common <= 0) {
    for (int64_t n = 0; n < kRowsPerPass; ++n) add_row(first + n * step, stride, count, sums - n);
    return;
  }
  const T* row[kRowsPerPass];
#pragma GCC unroll 4
  for (int n = 0; n < kRowsPerPass; ++n) {
    const T* from = first + n * step;
    add_row(from, stride, int64_t{n}, sums - n);
    row[n] = from + n * stride;
    add_row(row[n] + common * stride, stride, int64_t{kRowsPerPass - 1 - n}, sums + common);
  }
  const auto sum_of = [&](int64_t i) {
    return (widen(row[0][i]) + widen(row[1][i])) + (widen(row[2][i]) + widen(row[3][i]));
  };
  const auto fetch = [&](int64_t begin, int64_t end) {
    for (int n = 0; n < kRowsPerPass; ++n) {
      for (int64_t k = begin; k < end; k += kLineElements<T>) {
        __builtin_prefetch(first + (kRowsPerPass + n) * step + k);
      }
    }
  };
  constexpr int64_t kStep = 128;
  int64_t i = 0;
  for (; stride == 1 && i + kStep <= common; i += kStep) {
    fetch(i, i + kStep);
    for (int64_t k = i; k < i + kStep; ++k) sums[k] += sum_of(k);
  }
  if (stride == 1) fetch(i, count);
  for (; i < common; ++i) sums[i] += sum_of(i * stride);
}

// Adds a run of a strip's sums to those of its rows; inside a run with step -1 or 1 all rows differ.
template <class Sum>
inline void add_run(const Sum* __restrict values, int64_t count, int64_t step, Sum* __restrict sum) {
  if (step == 0) {
    *sum += lane_sum<Sum>(count, [=](int64_t i) { return values[i]; });
  } else if (step == -1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
  } else {
    for (int64_t i = 0; i < count; ++i) sum[-i] += values[i];
  }
}

// The queries [first, last).
template <class T, class Scheme>
inline void sum_strip(const Scheme& scheme, const BiasBackward& a, const T* grad, int64_t first, int64_t last,
                      accumulator_t<T>* strip, accumulator_t<T>* sums) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), keys = scheme.keys(), stride = a.key_stride;
  for (int64_t i = 0; i < last - first - 1 + keys; ++i) strip[i] = Sum(0);
  int64_t query = first;
  for (; query + kRowsPerPass <= last; query += kRowsPerPass) {
    add_rows(grad + query * a.query_stride, a.query_stride, keys, stride, strip + last - 1 - query);
  }
  for (; query < last; ++query) {
    add_row(grad + query * a.query_stride, stride, keys, strip + last - 1 - query);
  }
  scheme.for_each_run(first, last, [=](int64_t place, int64_t count, int64_t row, int64_t step) {
    add_run(strip + place, count, step, sums + (rows - 1 - row));
  });
}

template <class T, class Scheme>
void bias_backward_typed(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin,
                         int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows();
  Sum* strip = static_cast<Sum*>(scratch) + rows;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / a.blocks;
    Sum* sums = clear_sums<Sum>(a, item, rows, scratch);
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    const int64_t begin_query = item % a.blocks * a.parts_per_block;
    const int64_t end_query = min_of(scheme.queries(), begin_query + a.parts_per_block);
    for (int64_t first = begin_query; first < end_query; first += kStretchQueries) {
      sum_strip(scheme, a, grad, first, min_of(end_query, first + kStretchQueries), strip, sums);
    }
    if (a.blocks == 1) write_sums(sums, rows, a.heads, static_cast<T*>(a.out) + head);
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
