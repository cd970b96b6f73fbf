// Bodies of the kernels for the bias of any index; compiled once per CPU level by level_*.cpp, inside the
// level's namespace.

namespace {

using namespace posenc_ext::core;

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

// Pairs whose rows are read at a time, for all heads: several lines of one sample, or part of a line.
constexpr int64_t kGatherPairs = 4096;

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

// to[i] = table[row[i]] for tables that fit into registers: false where this one does not.
template <class T, class Row>
inline bool look_up(const T*, int64_t, const Row*, int64_t, T*) {
  return false;
}

#if POSENC_VECTOR_BYTES == 64
constexpr int64_t kRegisterRows = 64;

inline bool look_up(const uint32_t* table, int64_t rows, const int32_t* row, int64_t count, uint32_t* to) {
  if (rows > kRegisterRows) return false;
  uint32_t padded[kRegisterRows] = {};
  memcpy(padded, table, static_cast<size_t>(rows) * sizeof(uint32_t));
  __m512i part[4];
  for (int p = 0; p < 4; ++p) part[p] = _mm512_loadu_si512(padded + 16 * p);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i at = _mm512_loadu_si512(row + i);
    const __m512i low = _mm512_permutex2var_epi32(part[0], at, part[1]);
    const __m512i high = _mm512_permutex2var_epi32(part[2], at, part[3]);
    const __mmask16 is_high = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
    _mm512_storeu_si512(to + i, _mm512_mask_mov_epi32(low, is_high, high));
  }
  for (; i < count; ++i) to[i] = table[row[i]];
  return true;
}

inline bool look_up(const uint16_t* table, int64_t rows, const int32_t* row, int64_t count, uint16_t* to) {
  if (rows > kRegisterRows) return false;
  uint16_t padded[kRegisterRows] = {};
  memcpy(padded, table, static_cast<size_t>(rows) * sizeof(uint16_t));
  const __m512i first = _mm512_loadu_si512(padded), second = _mm512_loadu_si512(padded + 32);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i at = _mm512_cvtepi32_epi16(_mm512_loadu_si512(row + i));
    const __m256i next = _mm512_cvtepi32_epi16(_mm512_loadu_si512(row + i + 16));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(at), next, 1);
    _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(first, both, second));
  }
  for (; i < count; ++i) to[i] = table[row[i]];
  return true;
}
#endif

template <class T, class Row>
inline void gather_heads(const GatherForward& a, const Row* row, int64_t count, T* out) {
  const int64_t plane = a.index.queries * a.index.keys;
  const T* table = static_cast<const T*>(a.reversed_table);
  int64_t head = 0;
  if (a.past_caches) {
    for (T values[kGatherPairs]; head < a.heads; ++head) {
      const T* __restrict from = table + head * a.rows;
      if (!look_up(from, a.rows, row, count, values)) {
        for (int64_t i = 0; i < count; ++i) values[i] = from[row[i]];
      }
      stream_row(out + head * plane, values, count);
    }
    return;
  }
  for (; head + 2 <= a.heads; head += 2) {  // two heads for one look at a row
    const T* __restrict from0 = table + head * a.rows;
    const T* __restrict from1 = from0 + a.rows;
    T* __restrict to0 = out + head * plane;
    T* __restrict to1 = to0 + plane;
    if (look_up(from0, a.rows, row, count, to0) && look_up(from1, a.rows, row, count, to1)) continue;
    for (int64_t i = 0; i < count; ++i) {
      to0[i] = from0[row[i]];
      to1[i] = from1[row[i]];
    }
  }
  if (head < a.heads) {
    const T* __restrict from = table + head * a.rows;
    T* __restrict to = out + head * plane;
    if (look_up(from, a.rows, row, count, to)) return;
    for (int64_t i = 0; i < count; ++i) to[i] = from[row[i]];
  }
}

template <class T, class Row>
void gather_forward_typed(const GatherForward& a, int64_t begin, int64_t end) {
  const int64_t queries = a.index.queries, keys = a.index.keys;
  const int64_t block_keys = min_of(keys, kGatherPairs), block_lines = kGatherPairs / block_keys;
  Row row[kGatherPairs];
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

}  // namespace

void find_out_of_range(const LinesOfIndex& a, int64_t rows, int64_t begin, int64_t end, int64_t* place) {
  *place = -1;
  for_each_line(a, begin, end, [&](const auto* index, int64_t line) {
    if (*place >= 0) return;
    bool outside = false;
    for (int64_t k = 0; k < a.keys; ++k) {
      const int64_t row = index[k * a.key_stride];
      outside |= static_cast<uint64_t>(row) >= static_cast<uint64_t>(rows);
    }
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
