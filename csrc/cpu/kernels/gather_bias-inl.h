// Bodies of the kernels for the bias of any index.
#pragma once

#include "args/gather_bias.h"
#include "cpu/kernels/reversed_table-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/line-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// Calls visit(first value of a line, line) for lines [begin, end), whatever the index is stored as.
template <class Visit>
inline void for_each_line(const LinesOfIndex& index, int64_t begin, int64_t end, Visit visit) {
  for (int64_t line = begin; line < end; ++line) {
    const int64_t first = index.line.offset(line);
    if (index.wide) {
      visit(static_cast<const int64_t*>(index.data) + first, line);
    } else {
      visit(static_cast<const int32_t*>(index.data) + first, line);
    }
  }
}

// A row is out of range where it, or its distance from the last, is negative: sign bits are gathered, which
// needs no branch and no comparison of 64 bits.
template <class Index, class Stride>
inline bool any_out_of_range(const Index* index, Stride stride, int64_t count, int64_t rows) {
  const uint64_t last = static_cast<uint64_t>(rows) - 1;
  uint64_t signs = 0;
  for (int64_t k = 0; k < count; ++k) {
    const uint64_t row = static_cast<uint64_t>(int64_t{index[k * stride]});
    signs |= row | (last - row);
  }
  return static_cast<int64_t>(signs) < 0;
}

// Pairs whose rows are read at a time, for all heads: several lines of one sample, or part of a line.
template <class Row>
constexpr int64_t kGatherPairs = 16384 / sizeof(Row);

// to[i] = the place of index value i in a table whose rows are in descending order.
template <class Index, class Row>
inline void read_rows(const Index* index, int64_t stride, int64_t count, int64_t rows, Row* to) {
  const Row last = static_cast<Row>(rows - 1);
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = last - static_cast<Row>(index[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = last - static_cast<Row>(index[i * stride]);
  }
}

// Tables of so few rows are looked up in registers, where the level has them; a row then takes one byte.
constexpr int64_t kRegisterRows = 64;
template <class T>
constexpr bool kInRegisters = POSENC_VECTOR_BYTES >= 32 && sizeof(T) <= 4;

#if POSENC_VECTOR_BYTES == 64

template <bool kPastCaches>
inline void put(void* to, __m512i values) {
  if constexpr (kPastCaches) {
    _mm512_stream_si512(static_cast<__m512i*>(to), values);
  } else {
    _mm512_storeu_si512(to, values);
  }
}

// to[i] = table[row[i]] for as many i as registers do at a time; returns how many these are.
template <bool kPastCaches>
inline int64_t look_up(const uint32_t* table, int64_t rows, const uint8_t* row, int64_t count, uint32_t* to) {
  uint32_t padded[kRegisterRows] = {};
  memcpy(padded, table, static_cast<size_t>(rows) * sizeof(uint32_t));
  __m512i part[4];
  for (int p = 0; p < 4; ++p) part[p] = _mm512_loadu_si512(padded + 16 * p);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i)));
    const __m512i low = _mm512_permutex2var_epi32(part[0], at, part[1]);
    const __m512i high = _mm512_permutex2var_epi32(part[2], at, part[3]);
    const __mmask16 is_high = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
    put<kPastCaches>(to + i, _mm512_mask_mov_epi32(low, is_high, high));
  }
  return i;
}

template <bool kPastCaches>
inline int64_t look_up(const uint16_t* table, int64_t rows, const uint8_t* row, int64_t count, uint16_t* to) {
  uint16_t padded[kRegisterRows] = {};
  memcpy(padded, table, static_cast<size_t>(rows) * sizeof(uint16_t));
  const __m512i first = _mm512_loadu_si512(padded), second = _mm512_loadu_si512(padded + 32);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i)));
    put<kPastCaches>(to + i, _mm512_permutex2var_epi16(first, at, second));
  }
  return i;
}

#elif POSENC_VECTOR_BYTES == 32

template <bool kPastCaches, class T>
inline void put(T* to, __m256i low, __m256i high) {
  if constexpr (kPastCaches) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, high);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, high);
  }
}

// Byte b of sixteen values, for all b.
inline void split_bytes(const uint16_t* values, __m128i (&byte)[2]) {
  const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m128i first = _mm_shuffle_epi8(load_halves(values), apart);
  const __m128i second = _mm_shuffle_epi8(load_halves(values + 8), apart);
  byte[0] = _mm_unpacklo_epi64(first, second);
  byte[1] = _mm_unpackhi_epi64(first, second);
}

inline void split_bytes(const uint32_t* values, __m128i (&byte)[4]) {
  const __m128i apart = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m128i four[4];
  for (int i = 0; i < 4; ++i) four[i] = _mm_shuffle_epi8(load_halves(values + 4 * i), apart);
  const __m128i low0 = _mm_unpacklo_epi32(four[0], four[1]), low1 = _mm_unpacklo_epi32(four[2], four[3]);
  const __m128i high0 = _mm_unpackhi_epi32(four[0], four[1]), high1 = _mm_unpackhi_epi32(four[2], four[3]);
  byte[0] = _mm_unpacklo_epi64(low0, low1);
  byte[1] = _mm_unpackhi_epi64(low0, low1);
  byte[2] = _mm_unpacklo_epi64(high0, high1);
  byte[3] = _mm_unpackhi_epi64(high0, high1);
}

// One byte of each of 32 values, from kParts times sixteen of the table, in both halves of a register.
template <int kParts>
inline __m256i look_up_byte(const __m256i* part, __m256i at) {
  if constexpr (kParts == 1) {
    return _mm256_shuffle_epi8(part[0], at);
  } else {
    const __m256i low = look_up_byte<kParts / 2>(part, at);
    const __m256i high = look_up_byte<kParts / 2>(part + kParts / 2, at);
    return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(at, kParts == 2 ? 3 : 2));
  }
}

// kParts times sixteen rows, of which a byte at a time is looked up.
template <int kParts, bool kPastCaches, class T>
inline int64_t look_up_bytes(const T* table, int64_t rows, const uint8_t* row, int64_t count, T* to) {
  constexpr int kBytes = sizeof(T);
  T padded[16 * kParts] = {};
  memcpy(padded, table, static_cast<size_t>(rows) * sizeof(T));
  __m256i part[kBytes][kParts];
  for (int p = 0; p < kParts; ++p) {
    __m128i byte[kBytes];
    split_bytes(padded + 16 * p, byte);
    for (int b = 0; b < kBytes; ++b) part[b][p] = _mm256_broadcastsi128_si256(byte[b]);
  }
  // Bytes are joined within halves of registers: in this order values come out side by side.
  const __m256i order =
      kBytes == 2 ? _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7) : _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i rows_of_32 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i));
    const __m256i ordered = _mm256_permutevar8x32_epi32(rows_of_32, order);
    __m256i byte[kBytes];
    for (int b = 0; b < kBytes; ++b) byte[b] = look_up_byte<kParts>(part[b], ordered);
    const __m256i low = _mm256_unpacklo_epi8(byte[0], byte[1]), high = _mm256_unpackhi_epi8(byte[0], byte[1]);
    if constexpr (kBytes == 2) {
      put<kPastCaches>(to + i, low, high);
    } else {
      const __m256i low2 = _mm256_unpacklo_epi8(byte[2], byte[3]);
      const __m256i high2 = _mm256_unpackhi_epi8(byte[2], byte[3]);
      put<kPastCaches>(to + i, _mm256_unpacklo_epi16(low, low2), _mm256_unpackhi_epi16(low, low2));
      put<kPastCaches>(to + i + 16, _mm256_unpacklo_epi16(high, high2), _mm256_unpackhi_epi16(high, high2));
    }
  }
  return i;
}

template <bool kPastCaches, class T>
inline int64_t look_up(const T* table, int64_t rows, const uint8_t* row, int64_t count, T* to) {
  if (rows <= 16) return look_up_bytes<1, kPastCaches>(table, rows, row, count, to);
  if (rows <= 32) return look_up_bytes<2, kPastCaches>(table, rows, row, count, to);
  return look_up_bytes<4, kPastCaches>(table, rows, row, count, to);
}

#endif

template <class T, class Row>
inline void look_up_one_by_one(const T* table, const Row* row, int64_t begin, int64_t end, T* to) {
  for (int64_t i = begin; i < end; ++i) to[i] = table[row[i]];
}

#if POSENC_VECTOR_BYTES >= 32
template <class T>
inline void gather_heads(const GatherForward& a, const uint8_t* row, int64_t count, T* out) {
  const T* table = static_cast<const T*>(a.reversed_table);
  for (int64_t head = 0; head < a.heads; ++head, table += a.rows, out += a.index.queries * a.index.keys) {
    int64_t done = 0;
    if (a.past_caches) {
      done = min_of(count, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) % kLine / sizeof(T)));
      look_up_one_by_one(table, row, 0, done, out);
      done += look_up<true>(table, a.rows, row + done, count - done, out + done);
    } else {
      done = look_up<false>(table, a.rows, row, count, out);
    }
    look_up_one_by_one(table, row, done, count, out);
  }
}
#endif

template <class T, class Row>
inline void gather_heads(const GatherForward& a, const Row* row, int64_t count, T* out) {
  const int64_t plane = a.index.queries * a.index.keys;
  const T* table = static_cast<const T*>(a.reversed_table);
  int64_t head = 0;
  if (a.past_caches) {
    for (T values[kGatherPairs<Row>]; head < a.heads; ++head) {
      look_up_one_by_one(table + head * a.rows, row, 0, count, values);
      stream_row(out + head * plane, values, count);
    }
    return;
  }
  for (; head + 2 <= a.heads; head += 2) {  // two heads for one look at a row
    const T* __restrict from0 = table + head * a.rows;
    const T* __restrict from1 = from0 + a.rows;
    T* __restrict to0 = out + head * plane;
    T* __restrict to1 = to0 + plane;
    for (int64_t i = 0; i < count; ++i) {
      to0[i] = from0[row[i]];
      to1[i] = from1[row[i]];
    }
  }
  if (head < a.heads) look_up_one_by_one(table + head * a.rows, row, 0, count, out + head * plane);
}

template <class T, class Row>
void gather_forward_typed(const GatherForward& a, int64_t begin, int64_t end) {
  const int64_t queries = a.index.queries, keys = a.index.keys;
  const int64_t block_keys = min_of(keys, kGatherPairs<Row>), block_lines = kGatherPairs<Row> / block_keys;
  Row row[kGatherPairs<Row>];
  for (int64_t line = begin; line < end;) {
    const int64_t query = line % queries, lines = min_of(min_of(end - line, queries - query), block_lines);
    T* out = static_cast<T*>(a.out) + (line / queries * a.heads * queries + query) * keys;
    for (int64_t k0 = 0; k0 < keys; k0 += block_keys) {
      const int64_t count = min_of(block_keys, keys - k0);
      for_each_line(a.index, line, line + lines, [&](const auto* index, int64_t at) {
        read_rows(index + k0 * a.index.key_stride, a.index.key_stride, count, a.rows,
                  row + (at - line) * count);
      });
      gather_heads(a, row, lines * count, out + k0);
    }
    line += lines;
  }
  if (a.past_caches) finish_streams();
}

template <class T>
void gather_forward_wide(const GatherForward& a, int64_t begin, int64_t end) {
  if constexpr (kInRegisters<T>) {
    if (a.rows <= kRegisterRows) return gather_forward_typed<T, uint8_t>(a, begin, end);
  }
  if (a.rows <= INT32_MAX) return gather_forward_typed<T, int32_t>(a, begin, end);
  gather_forward_typed<T, int64_t>(a, begin, end);
}

// Pairs next to each other often have the same row: sums of every fourth pair do not wait for one another.
constexpr int64_t kChains = 4, kMaxChainRows = 512;

template <class T, class Index, class Sum>
inline void add_chains(const T* grad, int64_t stride, const Index* index, int64_t index_stride, int64_t count,
                       Sum* (&chain)[kChains]) {
  int64_t k = 0;
  for (; k + kChains <= count; k += kChains) {
    for (int64_t c = 0; c < kChains; ++c) {
      chain[c][-static_cast<int64_t>(index[(k + c) * index_stride])] += widen(grad[(k + c) * stride]);
    }
  }
  for (; k < count; ++k) chain[0][-static_cast<int64_t>(index[k * index_stride])] += widen(grad[k * stride]);
}

template <class T>
void gather_backward_typed(const GatherBackward& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t queries = a.index.queries, keys = a.index.keys;
  const bool apart = a.rows <= kMaxChainRows;
  Sum others[(kChains - 1) * kMaxChainRows];
  for (int64_t item = begin; item < end; ++item) {
    Sum* sums = static_cast<Sum*>(a.partial) + item * a.rows;
    for (int64_t row = 0; row < a.rows; ++row) sums[row] = Sum(0);
    Sum* chain[kChains];
    for (int64_t c = 0; c < kChains; ++c)
      chain[c] = (apart && c > 0 ? others + (c - 1) * a.rows : sums) + a.rows - 1;
    if (apart) {
      for (int64_t i = 0; i < (kChains - 1) * a.rows; ++i) others[i] = Sum(0);
    }
    const T* head = static_cast<const T*>(a.grad) + item / a.blocks * a.head_stride;
    const int64_t first = item % a.blocks * a.lines_per_block;
    for_each_line(a.index, first, min_of(a.lines, first + a.lines_per_block),
                  [&](const auto* index, int64_t line) {
                    const T* grad = head + a.sample.offset(line / queries) + line % queries * a.query_stride;
                    add_chains(grad, a.key_stride, index, a.index.key_stride, keys, chain);
                  });
    if (!apart) continue;
    for (int64_t c = 0; c + 1 < kChains; ++c) {
      for (int64_t row = 0; row < a.rows; ++row) sums[row] += others[c * a.rows + row];
    }
  }
}

void find_out_of_range(const LinesOfIndex& a, int64_t rows, int64_t begin, int64_t end, int64_t* place) {
  *place = -1;
  for_each_line(a, begin, end, [&](const auto* index, int64_t line) {
    if (*place >= 0) return;
    const bool outside = a.key_stride == 1 ? any_out_of_range(index, SideBySide{}, a.keys, rows)
                                           : any_out_of_range(index, a.key_stride, a.keys, rows);
    if (!outside) return;
    for (int64_t k = a.keys - 1; k >= 0; --k) {
      const int64_t row = index[k * a.key_stride];
      if (row < 0 || row >= rows) *place = line * a.keys + k;
    }
  });
}

void gather_forward(const GatherForward& a, int64_t begin, int64_t end) {
  if (a.element_size == 8) return gather_forward_wide<uint64_t>(a, begin, end);
  if (a.element_size == 4) return gather_forward_wide<uint32_t>(a, begin, end);
  gather_forward_wide<uint16_t>(a, begin, end);
}

void gather_backward(const GatherBackward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, gather_backward_typed<scalar_t>(a, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
