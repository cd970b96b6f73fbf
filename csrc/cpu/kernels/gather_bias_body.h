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

constexpr int64_t kLineBlock = 512;

template <class T>
void gather_forward_typed(const GatherForward& a, int64_t begin, int64_t end) {
  const int64_t queries = a.index.queries, keys = a.index.keys, stride = a.index.key_stride;
  const T* last_row = static_cast<const T*>(a.reversed_table) + a.rows - 1;
  for_each_line(a.index, begin, end, [&](const auto* index, int64_t line) {
    T* out = static_cast<T*>(a.out) + (line / queries * a.heads * queries + line % queries) * keys;
    int64_t row[kLineBlock];  // read once for all heads
    for (int64_t k0 = 0; k0 < keys; k0 += kLineBlock) {
      const int64_t count = min_of(kLineBlock, keys - k0);
      for (int64_t i = 0; i < count; ++i) row[i] = index[(k0 + i) * stride];
      for (int64_t head = 0; head < a.heads; ++head) {
        const T* from = last_row + head * a.rows;
        T* to = out + head * queries * keys + k0;
        for (int64_t i = 0; i < count; ++i) to[i] = from[-row[i]];
      }
    }
  });
}

template <class T>
void gather_backward_typed(const GatherBackward& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t queries = a.index.queries, keys = a.index.keys, index_stride = a.index.key_stride;
  for (int64_t item = begin; item < end; ++item) {
    Sum* sums = static_cast<Sum*>(a.partial) + item * a.rows;
    for (int64_t row = 0; row < a.rows; ++row) sums[row] = Sum(0);
    Sum* last_row = sums + a.rows - 1;
    const T* head = static_cast<const T*>(a.grad) + item / a.blocks * a.head_stride;
    const int64_t first = item % a.blocks * a.lines_per_block;
    for_each_line(
        a.index, first, min_of(a.lines, first + a.lines_per_block), [&](const auto* index, int64_t line) {
          const T* grad = head + a.sample.offset(line / queries) + line % queries * a.query_stride;
          for (int64_t k = 0; k < keys; ++k) {
            last_row[-static_cast<int64_t>(index[k * index_stride])] += widen(grad[k * a.key_stride]);
          }
        });
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
  if (a.element_size == 8) return gather_forward_typed<uint64_t>(a, begin, end);
  if (a.element_size == 4) return gather_forward_typed<uint32_t>(a, begin, end);
  gather_forward_typed<uint16_t>(a, begin, end);
}

void gather_backward(const GatherBackward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, gather_backward_typed<scalar_t>(a, begin, end))
}
