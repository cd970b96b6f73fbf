// The kernels of the bias of any index.
#pragma once

#include "args/gather_bias.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Calls visit(first value of a line, line) for lines [begin, end), whatever the index is stored as.
template <class Visit>
inline void for_each_line(const Index& index, int64_t begin, int64_t end, Visit visit) {
  for (int64_t line = begin; line < end; ++line) {
    const int64_t first = index.at.offset(line * index.keys);
    if (index.is_int64) {
      visit(static_cast<const int64_t*>(index.data) + first, line);
    } else {
      visit(static_cast<const int32_t*>(index.data) + first, line);
    }
  }
}

// A row is out of range where it, or its distance from the last, is negative: sign bits are gathered, which
// needs no branch and no comparison of 64 bits.
template <class Value>
inline bool any_out_of_range(const Value* index, int64_t stride, int64_t count, int64_t rows) {
  const uint64_t last = static_cast<uint64_t>(rows) - 1;
  uint64_t signs = 0;
  const auto look = [&](int64_t i) {
    const uint64_t row = static_cast<uint64_t>(int64_t{index[i]});
    signs |= row | (last - row);
  };
  if (stride == 1) {
    for (int64_t k = 0; k < count; ++k) look(k);
  } else {
    for (int64_t k = 0; k < count; ++k) look(k * stride);
  }
  return static_cast<int64_t>(signs) < 0;
}

// The first place, counted through the lines, whose value is not in [0, rows), or -1.
void find_out_of_range(const Index& a, int64_t rows, int64_t begin, int64_t end, int64_t* place) {
  *place = -1;
  for_each_line(a, begin, end, [&](const auto* index, int64_t line) {
    if (*place >= 0 || !any_out_of_range(index, a.key_stride, a.keys, rows)) return;
    for (int64_t k = a.keys - 1; k >= 0; --k) {
      const int64_t row = index[k * a.key_stride];
      if (row < 0 || row >= rows) *place = line * a.keys + k;
    }
  });
}

// Small tables are looked up in registers: "any index 2x512x512" takes about half the time in float32, a
// quarter of it in bfloat16. (At AVX2 the same gained 6 %.) Returns how many values were looked up.
#if POSENC_VECTOR_BYTES == 64
constexpr int64_t kRegisterBytes = 128;

template <class T>
inline int64_t look_up_in_registers(const T* table, const int32_t* row, int64_t count, T* to) {
  constexpr int64_t kStep = 64 / sizeof(T);
  const __m512i low = _mm512_loadu_si512(table), high = _mm512_loadu_si512(table + kStep);
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const __m512i at = _mm512_loadu_si512(row + i);
    if constexpr (sizeof(T) == 4) {
      _mm512_storeu_si512(to + i, _mm512_permutex2var_epi32(low, at, high));
    } else {
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(at)),
                                              _mm512_cvtepi32_epi16(_mm512_loadu_si512(row + i + 16)), 1);
      _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(low, both, high));
    }
  }
  return i;
}
#else
constexpr int64_t kRegisterBytes = 0;

template <class T>
inline int64_t look_up_in_registers(const T*, const int32_t*, int64_t, T*) {
  return 0;
}
#endif

// to[i] = table[row[i]]
template <class T, class Row>
inline void look_up(const T* table, int64_t rows, const Row* row, int64_t count, T* to) {
  int64_t i = 0;
  if constexpr (sizeof(T) <= 4 && sizeof(Row) == sizeof(int32_t)) {
    if (rows * static_cast<int64_t>(sizeof(T)) <= kRegisterBytes) {
      T padded[128 / sizeof(T)] = {};
      memcpy(padded, table, static_cast<size_t>(rows) * sizeof(T));
      i = look_up_in_registers(padded, row, count, to);
    }
  }
  for (; i < count; ++i) to[i] = table[row[i]];
}

// An item is a line. The rows of some pairs, several lines of one sample or part of a line, are read once for
// all heads. `table` is contiguous [heads, rows]; Row is an integer that its rows fit.
template <class T, class Row>
void gather_forward_typed(const GatherForward& a, bool non_temporal, int64_t begin, int64_t end) {
  constexpr int64_t kPairs = 2048;
  const int64_t queries = a.index.queries, keys = a.index.keys, plane = queries * keys;
  const int64_t block_keys = min_of(keys, kPairs), block_lines = kPairs / block_keys;
  Row row[kPairs];
  T values[kPairs];
  for (int64_t line = begin; line < end;) {
    const int64_t query = line % queries, lines = min_of(min_of(end - line, queries - query), block_lines);
    for (int64_t k0 = 0; k0 < keys; k0 += block_keys) {
      const int64_t count = min_of(block_keys, keys - k0), stride = a.index.key_stride;
      Row* next = row;
      for_each_line(a.index, line, line + lines, [&](const auto* index, int64_t) {
        index += k0 * stride;
        if (stride == 1) {
          for (int64_t k = 0; k < count; ++k) next[k] = static_cast<Row>(index[k]);
        } else {
          for (int64_t k = 0; k < count; ++k) next[k] = static_cast<Row>(index[k * stride]);
        }
        next += count;
      });
      T* to = static_cast<T*>(a.out) + (line / queries * a.heads * queries + query) * keys + k0;
      for (int64_t head = 0; head < a.heads; ++head, to += plane) {
        const T* table = static_cast<const T*>(a.table) + head * a.head_stride;
        if (non_temporal) {
          look_up(table, a.rows, row, lines * count, values);
          stream_row(to, values, lines * count);
        } else {
          look_up(table, a.rows, row, lines * count, to);
        }
      }
    }
    line += lines;
  }
  if (non_temporal) finish_streams();
}

void gather_forward(const GatherForward& a, bool non_temporal, int64_t begin, int64_t end) {
  const auto gather = [&]<class Row>(Row) {
    POSENC_DISPATCH_BITS(a.dtype, (gather_forward_typed<bits_t, Row>(a, non_temporal, begin, end)))
  };
  a.rows <= INT32_MAX ? gather(int32_t{}) : gather(int64_t{});
}

// Pairs next to each other often have the same row: sums of every fourth pair do not wait for one another.
constexpr int64_t kChains = 4, kMaxChainRows = 512;

template <class T, class Value, class Sum>
inline void add_chains(const T* grad, int64_t stride, const Value* index, int64_t index_stride, int64_t count,
                       Sum* const (&chain)[kChains]) {
  int64_t k = 0;
  for (; k + kChains <= count; k += kChains) {
    for (int64_t c = 0; c < kChains; ++c)
      chain[c][index[(k + c) * index_stride]] += widen(grad[(k + c) * stride]);
  }
  for (; k < count; ++k) chain[0][index[k * index_stride]] += widen(grad[k * stride]);
}

// Sums of one head over one block of lines, [heads, blocks, rows]; an item is such a block.
template <class T>
void gather_backward_typed(const GatherBackward& a, const Pieces& blocks, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const bool apart = a.rows <= kMaxChainRows;
  Sum others[(kChains - 1) * kMaxChainRows];
  for (int64_t item = begin; item < end; ++item) {
    Sum* sums = static_cast<Sum*>(a.partial) + item * a.rows;
    Sum* chain[kChains];
    for (int64_t c = 0; c < kChains; ++c) {
      chain[c] = apart && c > 0 ? others + (c - 1) * a.rows : sums;
      for (int64_t row = 0; row < a.rows; ++row) chain[c][row] = Sum(0);
    }
    const T* head = static_cast<const T*>(a.grad) + item / blocks.count * a.head_stride;
    const int64_t first = item % blocks.count * blocks.size;
    for_each_line(a.index, first, min_of(a.index.lines(), first + blocks.size),
                  [&](const auto* index, int64_t line) {
                    const T* grad = head + a.grad_at.offset(line * a.index.keys);
                    add_chains(grad, a.grad_key_stride, index, a.index.key_stride, a.index.keys, chain);
                  });
    for (int64_t c = 1; apart && c < kChains; ++c) {
      for (int64_t row = 0; row < a.rows; ++row) sums[row] += chain[c][row];
    }
  }
}

void gather_backward(const GatherBackward& a, const Pieces& blocks, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, gather_backward_typed<scalar_t>(a, blocks, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
