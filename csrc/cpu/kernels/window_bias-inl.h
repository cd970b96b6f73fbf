// The window bias as a source of rows, and its adjoint.
//
// Where the table's rows are in descending order, those of a query's keys are runs of window[2] of them: run
// (i, j), of the keys at (i, j) on the first axes, begins at place
//   ((s_0 - 1 - x + i) * (2 s_1 - 1) + s_1 - 1 - y + j) * (2 s_2 - 1) + s_2 - 1 - z
// for a query in the cell (x, y, z). Queries of one z use the same part of each line of 2 s_2 - 1 rows: with
// these parts next to each other, in a slab for z, runs of one j follow one another, and with s_1 = 1 all.
#pragma once

#include "cpu/kernels/bias_rows-inl.h"
#include "cpu/simd/lane_sum-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

struct WindowRuns {
  int64_t outer, inner, outer_step, inner_step, length;
  int64_t x_step, y_step, first;  // of the run (0, 0): first - x * x_step - y * y_step, without z

  // Of lines that are `width` elements apart.
  WindowRuns(const WindowScheme& s, int64_t width)
      : outer(s.window[0]),
        inner(s.window[1]),
        outer_step((2 * s.window[1] - 1) * width),
        inner_step(width),
        length(s.window[2]),
        x_step(outer_step),
        y_step(width),
        first((outer - 1) * outer_step + (inner - 1) * width) {
    if (inner_step == length) length *= inner, inner = 1;
    if (outer_step == length && inner == 1) length *= outer, outer = 1;
  }
  int64_t at(int64_t x, int64_t y) const { return first - x * x_step - y * y_step; }
};

inline int64_t window_lines(const WindowScheme& s) { return (2 * s.window[0] - 1) * (2 * s.window[1] - 1); }

// T is an unsigned integer.
template <class T>
struct WindowSource {
  static constexpr int64_t kMaxQueries = INT64_MAX;
  static constexpr int kMove = 32;            // bytes; the last move of a run may write beyond it
  static constexpr int64_t kMaxSlabRun = 64;  // bytes

  const WindowScheme& scheme;
  const BiasForward& a;
  const int64_t prefix, width;
  const bool has_slabs;
  const WindowRuns runs;
  Scratch<T> scratch;
  T* reversed;  // the table of a head, rows in descending order
  T* slabs;
  T* row;

  WindowSource(const WindowScheme& s, const BiasForward& a)
      : scheme(s),
        a(a),
        prefix(s.prefix_tokens),
        width(s.window[2]),
        has_slabs(width > 1 && width * static_cast<int64_t>(sizeof(T)) <= kMaxSlabRun),
        runs(s, has_slabs ? width : 2 * width - 1),
        scratch(s.rows() + (has_slabs ? width * width * window_lines(s) : 0) + s.keys() +
                3 * kMove / static_cast<int64_t>(sizeof(T))),
        reversed(scratch.data()),
        slabs(reversed + s.rows() + kMove / sizeof(T)),
        row(slabs + (has_slabs ? width * width * window_lines(s) : 0) + kMove / sizeof(T)) {}

  static T* copy_run(T* to, const T* from, int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    char* target = reinterpret_cast<char*>(to);
    const char* source = reinterpret_cast<const char*>(from);
    move_bytes<kMove>(target, source);
    for (int64_t b = kMove; b < bytes; b += kMove) move_bytes<kMove>(target + b, source + b);
    return to + count;
  }

  void set_head(int64_t head) {
    const T* table = static_cast<const T*>(a.table) + head * a.head_stride;
    const int64_t rows = scheme.rows(), stride = a.row_stride, lines = window_lines(scheme), run = width;
    for (int64_t r = 0; r < rows; ++r) reversed[rows - 1 - r] = table[r * stride];
    if (!has_slabs) return;
    T* to = slabs;
    for (int64_t z = 0; z < run; ++z) {
      const T* from = reversed + 3 * prefix + run - 1 - z;
      for (int64_t line = 0; line < lines; ++line, from += 2 * run - 1) to = copy_run(to, from, run);
    }
  }

  // A row that is no slice of a slab: its run (0, 0) begins at `from`.
  const T* row_at(const T* from) {
    T* to = row;
    if (prefix != 0) *to++ = reversed[1];
    for (int64_t i = 0; i < runs.outer; ++i) {
      for (int64_t j = 0; j < runs.inner; ++j) {
        to = copy_run(to, from + i * runs.outer_step + j * runs.inner_step, runs.length);
      }
    }
    return row;
  }

  template <class F>
  void for_each_row(int64_t query, int64_t last, F f) {
    const WindowScheme& s = scheme;
    if (query < prefix) {
      row[0] = reversed[0];
      for (int64_t k = 1; k < s.keys(); ++k) row[k] = reversed[2];
      f(row);
      ++query;
    }
    const bool expanded = s.is_expanded(), is_slice = prefix == 0 && runs.outer * runs.inner == 1;
    const int64_t queries = s.query[2];
    const T* first_cell = has_slabs ? slabs : reversed + 3 * prefix + width - 1;
    // From a cell to the next on the last axis.
    const int64_t step = has_slabs ? width * window_lines(s) : -1;
    const int64_t line = (query - prefix) / s.query[2];
    int64_t x = line / s.query[1], y = line - x * s.query[1], z = query - prefix - line * s.query[2];
    for (; query < last; z = 0) {
      const int64_t line_end = min_of(last, query - z + queries), before = query - z;
      int64_t cell = s.cell(2, z);
      const T* from = first_cell + runs.at(s.cell(0, x), s.cell(1, y)) + cell * step;
      for (; query < line_end; ++cell, from += step) {
        const T* values = is_slice ? from : row_at(from);
        const int64_t next = expanded ? min_of(line_end, before + s.first_query(2, cell + 1)) : query + 1;
        for (; query < next; ++query) f(values);
      }
      if (++y == s.query[1]) y = 0, ++x;
    }
  }
};

// How many sums beyond a run its last vector may reach; it adds zeros to them.
constexpr int kSumSlack = 8;

// The runs of a row added to sums where they are.
template <class T, class Sum>
POSENC_ALONE void add_runs(const WindowRuns& runs, const T* row, int64_t stride, Sum* sums) {
  const int64_t length = runs.length;
  int64_t left = runs.outer * runs.inner * length;  // nothing is read beyond the row
  for (int64_t i = 0; i < runs.outer; ++i) {
    Sum* to = sums + i * runs.outer_step;
    for (int64_t j = 0; j < runs.inner; ++j, to += runs.inner_step, row += length * stride, left -= length) {
      if (stride != 1) {
        add_row(row, stride, length, to);
        continue;
      }
      int64_t n = 0;
      for (; n + 16 <= length; n += 16) {
        __builtin_prefetch(row + n + kAhead<T>);
        store(to + n, load<16>(to + n) + widen(load<16>(row + n)));
      }
      for (; n + 8 <= length; n += 8) store(to + n, load<8>(to + n) + widen(load<8>(row + n)));
      if (n == length) continue;
      if (left - n >= 8) {
        const auto rest = keep(widen(load<8>(row + n)), (uint64_t{1} << (length - n)) - 1);
        store(to + n, load<8>(to + n) + rest);
      } else {
        for (; n < length; ++n) to[n] += widen(row[n]);
      }
    }
  }
}

// A part is a line of cells: those that differ on the last axis alone.
template <class T>
struct WindowSums {
  using Sum = accumulator_t<T>;
  static int64_t parts(const WindowScheme& s) { return s.window[0] * s.window[1]; }
  // Small windows are one block: all rows are added up in slabs, then the slabs in the table. Others: the
  // rows of a line, then the lines. So their orders of sums differ.
  static bool is_small(const WindowScheme& s) {
    return !s.is_expanded() && s.window[2] > 1 && s.window[2] <= 8 && s.keys() <= 256;
  }

  const WindowScheme& scheme;
  const BiasBackward& a;
  const int64_t prefix, width, lines;
  const WindowRuns table_runs;
  WindowRuns slab_runs;
  const bool in_slabs;
  Scratch<Sum> scratch;
  Sum* from_last;  // place p of the rows in descending order is from_last[-p]

  WindowSums(const WindowScheme& s, const BiasBackward& a) : WindowSums(s, a, is_small(s)) {}

  WindowSums(const WindowScheme& s, const BiasBackward& a, bool in_slabs)
      : scheme(s),
        a(a),
        prefix(s.prefix_tokens),
        width(s.window[2]),
        lines(window_lines(s)),
        table_runs(s, 2 * width - 1),
        slab_runs(s, width),
        in_slabs(in_slabs),
        scratch(in_slabs ? width * lines * width + lines * (2 * width - 1) + 2 * kSumSlack
                         : line_sums() + kSumSlack + 16 + (s.is_expanded() ? width * s.keys() : 0)) {}

  // Sums that the queries of a line of cells reach.
  int64_t line_sums() const { return scheme.window[0] * scheme.window[1] * (2 * width - 1); }

  void begin(Sum* sums) {
    from_last = sums + scheme.rows() - 1;
    if (!in_slabs) return;
    Sum* slabs = scratch.data();
    for (int64_t i = 0; i < width * lines * width; ++i) slabs[i] = Sum(0);
  }

  void add(const T* grad, int64_t first, int64_t last) {
    if (in_slabs) return add_to_slabs(grad, first, last);
    if (prefix != 0 && first == 0) add_first_query(grad);
    for (int64_t part = first; part < last; ++part) add_line(grad, part);
  }

  void finish() {
    if (in_slabs) add_slabs();
  }

  void add_first_query(const T* grad) const {
    const int64_t stride = a.key_stride;
    from_last[0] += widen(grad[0]);
    from_last[-2] +=
        lane_sum<Sum>(scheme.keys() - 1, [=](int64_t i) { return widen(grad[(1 + i) * stride]); });
  }

  void add_to_slabs(const T* grad, int64_t first, int64_t last) {
    const int64_t slab_size = lines * width, query_stride = a.query_stride, length = slab_runs.length;
    const T* queries = grad + (prefix + first * width) * query_stride;
    const T* row = queries + prefix * a.key_stride;
    for (int64_t part = first; part < last; ++part) {
      const int64_t x = part / scheme.window[1], y = part - x * scheme.window[1];
      for (int64_t z = 0; z < width; ++z, row += query_stride) {
        Sum* to = scratch.data() + z * slab_size + slab_runs.at(x, y);
        for (int64_t i = 0; i < slab_runs.outer; ++i) {
          add_row(row + i * length * a.key_stride, a.key_stride, length, to + i * slab_runs.outer_step);
        }
      }
    }
    if (prefix == 0) return;
    if (first == 0) add_first_query(grad);
    from_last[-1] +=
        lane_sum<Sum>((last - first) * width, [=](int64_t i) { return widen(queries[i * query_stride]); });
  }

  void add_slabs() {
    Sum* slabs = scratch.data();
    Sum* places = slabs + width * lines * width + kSumSlack;  // the rows of patches in descending order
    for (int64_t i = 0; i < lines * (2 * width - 1); ++i) places[i] = Sum(0);
    for (int64_t z = 0; z < width; ++z) {
      Sum* to = places + width - 1 - z;
      for (int64_t line = 0; line < lines; ++line, slabs += width, to += 2 * width - 1) {
        if (width <= 8) {
          store(to, load<8>(to) + keep(load<8>(slabs), (uint64_t{1} << width) - 1));
        } else {
          add_row(slabs, 1, width, to);
        }
      }
    }
    for (int64_t i = 0; i < lines * (2 * width - 1); ++i) from_last[-3 * prefix - i] += places[i];
  }

  void add_line(const T* grad, int64_t part) {
    const int64_t i = part / scheme.window[1], j = part - i * scheme.window[1], stride = a.key_stride;
    const int64_t span = scheme.window[1] * (2 * width - 1);  // side by side for each i
    Sum* sums = scratch.data();
    for (int64_t n = 0; n < line_sums(); ++n) sums[n] = Sum(0);
    WindowRuns runs = table_runs;
    runs.outer_step = span;
    if (scheme.is_expanded()) {
      const int64_t keys = scheme.keys() - prefix;
      Sum* cells = to_line(sums + line_sums() + kSumSlack);
      add_cells(grad, i, j, cells);
      for (int64_t z = 0; z < width; ++z) add_runs(runs, cells + z * keys, 1, sums + width - 1 - z);
    } else {
      const T* row = grad + (prefix + part * width) * a.query_stride + prefix * stride;
      for (int64_t z = 0; z < width; ++z, row += a.query_stride) {
        if (prefix != 0) from_last[-1] += widen(row[-stride]);
        add_runs(runs, row, stride, sums + width - 1 - z);
      }
    }
    Sum* corner = from_last - 3 * prefix - table_runs.at(i, j);
    for (int64_t n = 0; n < scheme.window[0]; ++n, corner -= table_runs.x_step, sums += span) {
      for (int64_t m = 0; m < span; ++m) corner[-m] += sums[m];
    }
  }

  // Adds up the queries of each cell of the line (i, j), in order.
  void add_cells(const T* grad, int64_t i, int64_t j, Sum* cells) const {
    const WindowScheme& s = scheme;
    const int64_t keys = s.keys() - prefix, stride = a.key_stride;
    for (int64_t n = 0; n < width * keys; ++n) cells[n] = Sum(0);
    for (int64_t x = s.first_query(0, i); x < s.first_query(0, i + 1); ++x) {
      for (int64_t y = s.first_query(1, j); y < s.first_query(1, j + 1); ++y) {
        const T* row = grad + (prefix + (x * s.query[1] + y) * s.query[2]) * a.query_stride + prefix * stride;
        for (int64_t cell = 0, z = 0; cell < width; ++cell) {
          for (const int64_t next = s.first_query(2, cell + 1); z < next; ++z, row += a.query_stride) {
            if (prefix != 0) from_last[-1] += widen(row[-stride]);
            add_row(row, stride, keys, cells + cell * keys);
          }
        }
      }
    }
  }
};

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
