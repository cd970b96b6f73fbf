// The adjoint of windows, line by line.
#pragma once

#include "cpu/kernels/row_sums-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Adds `rows` rows to the same sums. Theirs are short stretches of memory, which no hardware fetches ahead:
// what follows them is fetched here.
template <class T, class Sum>
POSENC_ALONE void add_alike(const T* row, int64_t rows, int64_t row_stride, int64_t count, int64_t stride,
                            Sum* sums) {
  constexpr int kOctets = 8;  // in registers
  int64_t i = 0;
  for (; stride == 1 && i + kOctets * kOctet <= count; i += kOctets * kOctet) {
    decltype(widen(Octet<Sum>::load(sums))) sum[kOctets];
#pragma GCC unroll 8
    for (int n = 0; n < kOctets; ++n) sum[n] = widen(Octet<Sum>::load(sums + i + n * kOctet));
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = row + r * row_stride + i;
#pragma GCC unroll 8
      for (int n = 0; n < kOctets; n += kLine / (kOctet * sizeof(T))) {
        __builtin_prefetch(from + rows * row_stride + n * kOctet);
      }
#pragma GCC unroll 8
      for (int n = 0; n < kOctets; ++n) sum[n] = sum[n] + widen(Octet<T>::load(from + n * kOctet));
    }
#pragma GCC unroll 8
    for (int n = 0; n < kOctets; ++n) Octet<Sum>::round(sum[n]).store(sums + i + n * kOctet);
  }
  for (; i < count; ++i) {
    for (int64_t r = 0; r < rows; ++r) sums[i] += widen(row[r * row_stride + i * stride]);
  }
}

// Adds up the queries of each cell of line (i, j), in the order in which they lie.
template <class T, class Sum>
inline void add_cells(const WindowScheme& s, const BiasBackward& a, int64_t i, int64_t j, const T* grad,
                      Sum* cell_sums, Sum* first_key_sum) {
  const int64_t prefix = s.prefix_tokens, width = s.window[2];
  const int64_t count = s.keys() - prefix, stride = a.key_stride;
  for (int64_t n = 0; n < width * count; ++n) cell_sums[n] = Sum(0);
  for (int64_t x = s.first_query(0, i); x < s.first_query(0, i + 1); ++x) {
    for (int64_t y = s.first_query(1, j); y < s.first_query(1, j + 1); ++y) {
      const T* row = grad + (prefix + (x * s.query[1] + y) * s.query[2]) * a.query_stride + prefix * stride;
      for (int64_t cell = 0, z = 0; cell < width; ++cell) {
        const int64_t next = s.first_query(2, cell + 1), queries = next - z;
        for (int64_t n = 0; prefix != 0 && n < queries; ++n) {
          *first_key_sum += widen(row[n * a.query_stride - stride]);
        }
        add_alike(row, queries, a.query_stride, count, stride, cell_sums + cell * count);
        row += queries * a.query_stride;
        z = next;
      }
    }
  }
}

// Adds the runs of a query's keys to sums, where runs lie as `any` says. Meanwhile what is read next is
// fetched: what lies in other pages the machine itself does not.
// kOctets: in a run, where that is known when this is compiled, else 0. kRest: whether the last one is not
// whole. It is filled up with zeros, and leaves what it adds them to as it is.
template <int kOctets, bool kRest, class T, class Sum>
POSENC_ALONE void add_runs(const WindowScheme::Runs& any, const T* row, Sum* sums) {
  constexpr int64_t kAhead = 4096 / static_cast<int64_t>(sizeof(T));
  const WindowScheme::Runs runs = any;
  const int64_t length = kOctets != 0 && !kRest ? kOctets * kOctet : runs.length;
  const int64_t whole = kOctets != 0 ? kOctets - kRest : length / kOctet, rest = length - whole * kOctet;
  const uint8_t kept = static_cast<uint8_t>((1 << rest) - 1);
  const auto add = [](Octet<T> octet, Sum* to) {
    Octet<Sum>::round(widen(Octet<Sum>::load(to)) + widen(octet)).store(to);
  };
  const auto add_whole = [&](Sum* to) {
    for (int64_t i = 0; i < (whole + kRest) * kOctet; i += kLineElements<T>) {
      __builtin_prefetch(row + kAhead + i);
    }
#pragma GCC unroll 4
    for (int64_t n = 0; n < whole; ++n) add(Octet<T>::load(row + n * kOctet), to + n * kOctet);
  };
  for (int64_t i = 0; i < runs.outer; ++i, sums += runs.outer_step) {
    // What follows the last run may be no memory of ours.
    const bool ends = kRest && i + 1 == runs.outer;
    Sum* to = sums;
    for (int64_t j = ends ? 1 : 0; j < runs.inner; ++j, row += length, to += runs.inner_step) {
      add_whole(to);
      if (kRest) add(Octet<T>::load(row + whole * kOctet).keep(kept), to + whole * kOctet);
    }
    if (!ends) continue;
    add_whole(to);
    for (int64_t n = whole * kOctet; n < length; ++n) to[n] += widen(row[n]);
  }
}

template <int kOctets, class T, class Sum>
inline void add_runs_of(const WindowScheme::Runs& runs, const T* row, Sum* sums) {
  if (runs.length % kOctet == 0) return add_runs<kOctets, false>(runs, row, sums);
  add_runs<kOctets, true>(runs, row, sums);
}

template <class T, class Sum>
inline void add_query(const WindowScheme::Runs& runs, const T* row, int64_t stride, Sum* sums) {
  if (stride != 1) {
    for (int64_t i = 0; i < runs.outer; ++i) {
      for (int64_t j = 0; j < runs.inner; ++j, row += runs.length * stride) {
        add_row(row, stride, runs.length, sums + i * runs.outer_step + j * runs.inner_step);
      }
    }
    return;
  }
  switch ((runs.length + kOctet - 1) / kOctet) {
    case 1:
      return add_runs_of<1>(runs, row, sums);
    case 2:
      return add_runs_of<2>(runs, row, sums);
    case 3:
      return add_runs_of<3>(runs, row, sums);
    case 4:
      return add_runs_of<4>(runs, row, sums);
    default:
      return add_runs_of<0>(runs, row, sums);
  }
}

// The adjoint of windows, whose gradient is read in the order in which it lies. A part is a line of cells,
// those that differ on the last axis alone: their sums begin one row of the table after the other. The
// queries of a cell that several share are added up first.
template <class T>
void lines_backward(const WindowScheme& s, const BiasBackward& a, void* scratch, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = s.rows(), prefix = s.prefix_tokens, count = s.keys() - prefix, stride = a.key_stride;
  const int64_t width = s.window[2], span = s.line_span();
  const WindowScheme::Runs table_runs = s.runs();
  WindowScheme::Runs runs = table_runs;  // of line_sums: what a line reaches, side by side
  runs.outer_step = span;
  Sum* line_sums = static_cast<Sum*>(scratch) + rows;
  static_assert(kLineSlack >= kOctet - 1);
  Sum* cell_sums = line_sums + runs.outer * span + kLineSlack;  // [width, count]
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / a.blocks, block = item % a.blocks;
    Sum* sums = clear_sums<Sum>(a, item, rows, scratch);
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    if (prefix != 0 && block == 0) {
      sums[0] += widen(grad[0]);
      sums[2] += lane_sum<Sum>(count, [=](int64_t i) { return widen(grad[(1 + i) * stride]); });
    }
    const int64_t first = block * a.parts_per_block;
    const int64_t last = min_of(s.window[0] * s.window[1], first + a.parts_per_block);
    for (int64_t part = first; part < last; ++part) {
      const int64_t i = part / s.window[1], j = part - i * s.window[1];
      for (int64_t n = 0; n < runs.outer * span; ++n) line_sums[n] = Sum(0);
      if (s.is_expanded()) {
        add_cells(s, a, i, j, grad, cell_sums, sums + 1);
        for (int64_t cell = 0; cell < width; ++cell) {
          add_query(runs, cell_sums + cell * count, int64_t{1}, line_sums + width - 1 - cell);
        }
      } else {
        const T* row = grad + (prefix + part * width) * a.query_stride + prefix * stride;
        for (int64_t cell = 0; cell < width; ++cell, row += a.query_stride) {
          if (prefix != 0) sums[1] += widen(row[-stride]);
          add_query(runs, row, stride, line_sums + width - 1 - cell);
        }
      }
      Sum* corner = sums + 3 * prefix + s.corner(i, j, width - 1);
      for (int64_t n = 0; n < runs.outer; ++n) {
        add_row(line_sums + n * span, int64_t{1}, span, corner + n * table_runs.outer_step);
      }
    }
    if (a.blocks == 1) write_sums(sums, rows, a.heads, static_cast<T*>(a.out) + head);
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
