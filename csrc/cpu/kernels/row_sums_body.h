// Rows of a gradient added to sums that they share; compiled once per CPU level by level_*.cpp, inside the
// level's namespace.

namespace {

using namespace posenc_ext::core;

template <class T, class Sum>
inline void add_row(const T* __restrict grad, int64_t stride, int64_t count, Sum* __restrict sum) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i * stride]);
  }
}

template <int kFirst, int kCount, class T>
inline accumulator_t<T> sum_of_rows(const T* const* row, int64_t i) {
  if constexpr (kCount == 1) {
    return widen(row[kFirst][i]);
  } else {
    return sum_of_rows<kFirst, kCount / 2>(row, i) + sum_of_rows<kFirst + kCount / 2, kCount / 2>(row, i);
  }
}

// Adds kCount rows, `step` apart, in one pass over the sums: those of each row begin `shift` before those of
// the row before it. Meanwhile what lies `ahead` is fetched.
template <int kCount, class T, class Sum>
POSENC_ALONE void add_rows(const T* first, int64_t step, int64_t count, int64_t stride, int64_t shift,
                           int64_t ahead, Sum* __restrict sums) {
  const int64_t common = count - (kCount - 1) * shift;  // sums that all rows reach
  if (common <= 0) {
    for (int64_t n = 0; n < kCount; ++n) add_row(first + n * step, stride, count, sums - n * shift);
    return;
  }
  const T* row[kCount];
#pragma GCC unroll 8
  for (int n = 0; n < kCount; ++n) {
    const T* from = first + n * step;
    add_row(from, stride, n * shift, sums - n * shift);
    row[n] = from + n * shift * stride;
    add_row(row[n] + common * stride, stride, (kCount - 1 - n) * shift, sums + common);
  }
  constexpr int64_t kStep = 128;
  const auto fetch = [&](int64_t begin, int64_t end) {
    for (int n = 0; n < kCount; ++n) {
      for (int64_t k = begin; k < end; k += kLineElements<T>)
        __builtin_prefetch(first + n * step + ahead + k);
    }
  };
  int64_t i = 0;
  for (; stride == 1 && i + kStep <= common; i += kStep) {
    fetch(i, i + kStep);
    for (int64_t k = i; k < i + kStep; ++k) sums[k] += sum_of_rows<0, kCount>(row, k);
  }
  if (stride == 1) fetch(i, count);
  for (; i < common; ++i) sums[i] += sum_of_rows<0, kCount>(row, i * stride);
}

// One head's column of the table's gradient; `sums` has rows in descending order.
template <class T>
inline void write_sums(const accumulator_t<T>* sums, int64_t rows, int64_t heads, T* out) {
  for (int64_t row = 0; row < rows; ++row) out[row * heads] = round_to<T>(sums[rows - 1 - row]);
}

}  // namespace
