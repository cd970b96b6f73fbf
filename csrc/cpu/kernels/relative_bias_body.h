// Bodies of the relative-position bias kernels; compiled once per CPU level by level_*.cpp, inside the
// level's namespace.

namespace {

using namespace posenc_ext::core;

template <class T>
void reverse_table_typed(const ReverseTable& a, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; ++head) {
    const T* from = static_cast<const T*>(a.table) + head * a.head_stride;
    T* to = static_cast<T*>(a.reversed_table) + head * a.rows;
    for (int64_t row = 0; row < a.rows; ++row) to[a.rows - 1 - row] = from[row * a.row_stride];
  }
}

template <class T, class Scheme>
void bias_forward_typed(const Scheme& scheme, const BiasForward& a, int64_t begin, int64_t end) {
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  for (int64_t item = begin; item < end; ++item) {
    const T* last_row = static_cast<const T*>(a.reversed_table) + (item / queries + 1) * rows - 1;
    T* out = static_cast<T*>(a.out) + item * keys;
    scheme.for_each_run(item % queries, [=](int64_t key, int64_t count, int64_t row, int64_t step) {
      const T* from = last_row - row;
      T* to = out + key;
      if (step == -1) {
        for (int64_t i = 0; i < count; ++i) to[i] = from[i];
      } else if (step == 0) {
        for (int64_t i = 0; i < count; ++i) to[i] = *from;
      } else {
        for (int64_t i = 0; i < count; ++i) to[i] = from[-i];
      }
    });
  }
}

// Adds a run of the gradient to the sums of its rows; inside a run with step -1 or 1 all rows differ, so the
// loops vectorise.
template <class T, class Sum>
inline void add_run(const T* __restrict grad, int64_t stride, int64_t count, int64_t step,
                    Sum* __restrict sum) {
  if (step == 0) {
    *sum += stride == 1 ? lane_sum<Sum>(count, [=](int64_t i) { return widen(grad[i]); })
                        : lane_sum<Sum>(count, [=](int64_t i) { return widen(grad[i * stride]); });
  } else if (step == -1 && stride == 1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) sum[-step * i] += widen(grad[i * stride]);
  }
}

template <class T, class Scheme>
void bias_backward_typed(const Scheme& scheme, const BiasBackward& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), queries = scheme.queries();
  const int64_t block_size = BiasBackward::queries_per_block(scheme.keys());
  for (int64_t item = begin; item < end; ++item) {
    Sum* sums = static_cast<Sum*>(a.partial) + item * rows;
    for (int64_t row = 0; row < rows; ++row) sums[row] = Sum(0);
    const int64_t first = item % a.blocks * block_size;
    const int64_t last = min_of(queries, first + block_size);
    const T* head = static_cast<const T*>(a.grad) + item / a.blocks * a.head_stride;
    for (int64_t q = first; q < last; ++q) {
      const T* grad = head + q * a.query_stride;
      const int64_t stride = a.key_stride;
      scheme.for_each_run(q, [=](int64_t key, int64_t count, int64_t row, int64_t step) {
        add_run(grad + key * stride, stride, count, step, sums + (rows - 1 - row));
      });
    }
  }
}

template <class T>
void bias_reduce_typed(const BiasReduce& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  for (int64_t head = begin; head < end; ++head) {
    const Sum* partial = static_cast<const Sum*>(a.partial) + head * a.blocks * a.rows;
    T* out = static_cast<T*>(a.out) + head;
    for (int64_t row = 0; row < a.rows; ++row) {
      Sum sum = partial[a.rows - 1 - row];
      for (int64_t block = 1; block < a.blocks; ++block) sum += partial[block * a.rows + a.rows - 1 - row];
      out[row * a.heads] = round_to<T>(sum);
    }
  }
}

}  // namespace

void bias_reduce(const BiasReduce& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, bias_reduce_typed<scalar_t>(a, begin, end))
}

void reverse_table(const ReverseTable& a, int64_t begin, int64_t end) {
  if (a.element_size == 8) return reverse_table_typed<uint64_t>(a, begin, end);
  if (a.element_size == 4) return reverse_table_typed<uint32_t>(a, begin, end);
  reverse_table_typed<uint16_t>(a, begin, end);
}

#define POSENC_DEFINE(Scheme)                                                                   \
  void bias_forward(const Scheme& scheme, const BiasForward& a, int64_t begin, int64_t end) {   \
    if (a.element_size == 8) return bias_forward_typed<uint64_t>(scheme, a, begin, end);        \
    if (a.element_size == 4) return bias_forward_typed<uint32_t>(scheme, a, begin, end);        \
    bias_forward_typed<uint16_t>(scheme, a, begin, end);                                        \
  }                                                                                             \
  void bias_backward(const Scheme& scheme, const BiasBackward& a, int64_t begin, int64_t end) { \
    POSENC_DISPATCH_DTYPE(a.dtype, bias_backward_typed<scalar_t>(scheme, a, begin, end))        \
  }
POSENC_SCHEMES(POSENC_DEFINE)
#undef POSENC_DEFINE
