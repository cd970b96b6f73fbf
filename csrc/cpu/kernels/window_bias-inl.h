// The window bias: its rows in order, each of runs of the reversed table.
#pragma once

#include "cpu/kernels/reversed_table-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// The rows of `count` queries that follow one another on the last axis; the runs of the first begin at
// `corner`. In moves of kMove bytes, one for a run or several: they may write beyond the end of a run, over
// what the next one writes, and so beyond the last row's.
// kSide: of a square window, where that is known when this is compiled; else 0.
template <int kMove, bool kOne, int kSide, class T>
POSENC_ALONE void copy_runs(const WindowScheme::Runs& any, const T* corner, int64_t count, int64_t prefix,
                            T front, T* to) {
  const WindowScheme::Runs runs = kSide != 0 ? WindowScheme::Runs{1, kSide, 0, 2 * kSide - 1, kSide} : any;
  const int64_t bytes = runs.length * static_cast<int64_t>(sizeof(T));
  const int64_t step = runs.inner_step * static_cast<int64_t>(sizeof(T));
  char* target = reinterpret_cast<char*>(to);
  for (; count > 0; --count, --corner) {
    if (prefix != 0) {
      memcpy(target, &front, sizeof(T));
      target += sizeof(T);
    }
    for (int64_t i = 0; i < runs.outer; ++i) {
      const char* source = reinterpret_cast<const char*>(corner + i * runs.outer_step);
#pragma GCC unroll 8
      for (int64_t j = 0; j < runs.inner; ++j, target += bytes, source += step) {
        move_bytes<kMove>(target, source);
        if constexpr (!kOne) {
          for (int64_t b = kMove; b < bytes; b += kMove) move_bytes<kMove>(target + b, source + b);
        }
      }
    }
  }
}

// The same, and nothing beyond.
template <class T>
inline void copy_runs_exactly(const WindowScheme::Runs runs, const T* corner, T* to) {
  for (int64_t i = 0; i < runs.outer; ++i) {
    const T* from = corner + i * runs.outer_step;
    for (int64_t j = 0; j < runs.inner; ++j, from += runs.inner_step, to += runs.length) {
      copy_row(to, from, runs.length);
    }
  }
}

// Shorter rows are gathered in the caches.
constexpr int64_t kMinStreamBytes = 256;

template <int kMove, bool kOne, int kSide, class T>
void window_forward(const WindowScheme& s, const BiasForward& a, void* scratch, int64_t begin, int64_t end) {
  const int64_t rows = s.rows(), queries = s.queries(), keys = s.keys(), prefix = s.prefix_tokens;
  const int64_t row_bytes = keys * static_cast<int64_t>(sizeof(T));
  const WindowScheme::Runs runs = s.runs();
  const bool shared = s.is_expanded();  // cells, by several queries
  const bool stream = a.past_caches && row_bytes >= kMinStreamBytes;
  const int64_t last_fast = end - 1 - kMove / row_bytes;  // from here on nothing may be written beyond a row
  T* tables = static_cast<T*>(scratch);
  // In whole lines, which are read again before they have left the store queue.
  T* row = to_line(tables + kHeadsAtOnce * rows);
  T* to = static_cast<T*>(a.out) + begin * keys;

  // The queries [z, last) of a line, which differ on the last axis alone; `corner` is that of its first cell.
  const auto write_line = [&](const T* corner, T front, int64_t z, int64_t last, int64_t fast) {
    if (!shared && !stream) {
      copy_runs<kMove, kOne, kSide>(runs, corner - z, fast, prefix, front, to);
      for (z += fast, to += fast * keys; z < last; ++z, to += keys) {
        if (prefix != 0) *to = front;
        copy_runs_exactly(runs, corner - z, to + prefix);
      }
      return;
    }
    for (int64_t cell = s.cell(2, z); z < last; ++cell) {
      copy_runs<kMove, kOne, kSide>(runs, corner - cell, int64_t{1}, prefix, front, row);
      for (const int64_t next = min_of(last, s.first_query(2, cell + 1)); z < next; ++z, to += keys) {
        if (stream) {
          stream_row(to, row, keys);
        } else {
          copy_row(to, row, keys);
        }
      }
    }
  };

  int64_t head = begin / queries, query = begin - head * queries, reversed_heads = 0;
  const int64_t place = max_of<int64_t>(0, query - prefix), line = place / s.query[2];
  int64_t x = line / s.query[1], y = line - x * s.query[1], z = place - line * s.query[2];
  const T* reversed = tables;
  for (int64_t item = begin; item < end; ++head, query = 0, x = 0, reversed += rows) {
    if (reversed_heads == 0) {
      reversed = tables;
      reversed_heads = min_of(kHeadsAtOnce, (end - item + query + queries - 1) / queries);
      reverse_heads(static_cast<const T*>(a.table) + head * a.head_stride, a.row_stride, a.head_stride, rows,
                    reversed_heads, tables);
    }
    --reversed_heads;
    if (query < prefix) {
      to[0] = reversed[0];
      for (int64_t k = 1; k < keys; ++k) to[k] = reversed[2];
      to += keys, ++item;
    }
    for (; x < s.query[0] && item < end; ++x, y = 0) {
      for (; y < s.query[1] && item < end; ++y, z = 0) {
        const int64_t count = min_of(s.query[2] - z, end - item);
        const int64_t fast = max_of<int64_t>(0, min_of(count, last_fast - item));
        write_line(reversed + 3 * prefix + s.corner(s.cell(0, x), s.cell(1, y), 0), reversed[prefix], z,
                   z + count, fast);
        item += count;
      }
    }
  }
  if (stream) finish_streams();
}

constexpr int kUsual = 7;  // Swin's windows

template <int kMove, class T>
void window_forward_moves(const WindowScheme& s, const BiasForward& a, void* scratch, int64_t begin,
                          int64_t end) {
  if (s.window[0] == kUsual && s.window[1] == 1 && s.window[2] == kUsual) {
    return window_forward<kMove, true, kUsual, T>(s, a, scratch, begin, end);
  }
  window_forward<kMove, true, 0, T>(s, a, scratch, begin, end);
}

template <class T>
void bias_forward_typed(const WindowScheme& s, const BiasForward& a, void* scratch, int64_t begin,
                        int64_t end) {
  const int64_t bytes = s.runs().length * static_cast<int64_t>(sizeof(T));
  if (bytes <= 16) return window_forward_moves<16, T>(s, a, scratch, begin, end);
  if (bytes <= 32) return window_forward_moves<32, T>(s, a, scratch, begin, end);
  if (bytes <= 64) return window_forward_moves<64, T>(s, a, scratch, begin, end);
  window_forward<64, false, 0, T>(s, a, scratch, begin, end);
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
