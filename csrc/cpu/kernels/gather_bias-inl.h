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

// The values of one head of a small table, looked up by shuffles of registers: "any index 2x512x512" takes
// half the time in float32 and a fifth of it in bfloat16 at AVX-512, 0.7 and 0.4 of it at AVX2.
template <class T>
struct RegisterTable;

#if POSENC_VECTOR_BYTES == 64
template <class T>
constexpr int64_t kRegisterRows = sizeof(T) <= 4 ? 128 / sizeof(T) : 0;

template <class T>
struct RegisterTable {
  static constexpr int N = 64 / sizeof(T);
  __m512i low, high;

  explicit RegisterTable(const T* table)
      : low(_mm512_loadu_si512(table)), high(_mm512_loadu_si512(table + N)) {}
  POSENC_HD Vec<T, N> operator[](Vec<int32_t, N> row) const {
    const auto at = (__m512i)convert<T>(row).v;
    const auto values =
        sizeof(T) == 4 ? _mm512_permutex2var_epi32(low, at, high) : _mm512_permutex2var_epi16(low, at, high);
    return {(typename Vec<T, N>::Native)values};
  }
};
#elif POSENC_VECTOR_BYTES == 32
template <class T>
constexpr int64_t kRegisterRows = sizeof(T) <= 4 ? 32 : 0;

template <class T>
struct RegisterTable {
  static constexpr int N = 32 / sizeof(T);
  __m256 part[4];  // values of 16 bits in the upper halves

  explicit RegisterTable(const T* table) {
    uint32_t words[32];
    for (int i = 0; i < 32; ++i) words[i] = uint32_t{table[i]} << (32 - 8 * sizeof(T));
    for (int i = 0; i < 4; ++i) part[i] = (__m256)load<8>(words + 8 * i).v;
  }
  POSENC_HD Vec<uint32_t, 8> eight(Vec<int32_t, 8> row) const {
    const auto of = [&](int i) POSENC_LAMBDA { return _mm256_permutevar8x32_ps(part[i], (__m256i)row.v); };
    const __m256 bit3 = (__m256)(row << 28).v, bit4 = (__m256)(row << 27).v;  // blends look at signs
    const __m256 low = _mm256_blendv_ps(of(0), of(1), bit3), high = _mm256_blendv_ps(of(2), of(3), bit3);
    return {(typename Vec<uint32_t, 8>::Native)_mm256_blendv_ps(low, high, bit4)};
  }
  POSENC_HD Vec<T, N> operator[](Vec<int32_t, N> row) const {
    if constexpr (sizeof(T) == 4) {
      return eight(row);
    } else {
      return upper_halves(join(eight(row.low), eight(row.high)));
    }
  }
};
#else
template <class T>
constexpr int64_t kRegisterRows = 0;
#endif

// to[i] = table[row[i]]
template <class T>
inline void look_up_in_registers(const T* table, int64_t row_stride, int64_t rows, const int32_t* row,
                                 int64_t count, bool non_temporal, T* to) {
  T padded[kRegisterRows<T>] = {};
  for (int64_t i = 0; i < rows; ++i) padded[i] = table[i * row_stride];
  const RegisterTable<T> values(padded);
  constexpr int N = RegisterTable<T>::N;
  write_row<N>(non_temporal, count, to, [=](int64_t i, int64_t n) {
    return values[n == N ? load<N>(row + i) : load_some<N>(row + i, n)];
  });
}

// An item is a line. The rows of some pairs, several lines of one sample or part of a line, are read once for
// all heads. Row is an integer that offsets of rows fit.
template <class T, class Row>
void gather_forward_typed(const GatherForward& a, bool non_temporal, int64_t begin, int64_t end) {
  constexpr int64_t kPairs = 2048;
  const int64_t queries = a.index.queries, keys = a.index.keys, plane = queries * keys;
  const int64_t block_keys = min_of(keys, kPairs), block_lines = kPairs / block_keys;
  const bool in_registers = sizeof(Row) == sizeof(int32_t) && a.rows <= kRegisterRows<T>;
  const Row row_stride = in_registers ? 1 : static_cast<Row>(a.row_stride);
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
          for (int64_t k = 0; k < count; ++k) next[k] = static_cast<Row>(index[k]) * row_stride;
        } else {
          for (int64_t k = 0; k < count; ++k) next[k] = static_cast<Row>(index[k * stride]) * row_stride;
        }
        next += count;
      });
      T* to = static_cast<T*>(a.out) + (line / queries * a.heads * queries + query) * keys + k0;
      for (int64_t head = 0; head < a.heads; ++head, to += plane) {
        const T* table = static_cast<const T*>(a.table) + head * a.head_stride;
        if constexpr (kRegisterRows<T> > 0 && sizeof(Row) == sizeof(int32_t)) {
          if (in_registers) {
            look_up_in_registers(table, a.row_stride, a.rows, row, lines * count, non_temporal, to);
            continue;
          }
        }
        T* found = non_temporal ? values : to;
        for (int64_t i = 0; i < lines * count; ++i) found[i] = table[row[i]];
        if (non_temporal) stream_row(to, values, lines * count);
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
  const int64_t last = a.rows * a.row_stride;
  last <= INT32_MAX ? gather(int32_t{}) : gather(int64_t{});
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
void gather_backward_typed(const GatherBackward& a, const Chunks& blocks, int64_t begin, int64_t end) {
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

void gather_backward(const GatherBackward& a, const Chunks& blocks, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, gather_backward_typed<scalar_t>(a, blocks, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
