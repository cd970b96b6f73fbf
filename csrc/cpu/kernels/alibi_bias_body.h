// Bodies of the ALiBi kernels; compiled once per CPU level by level_*.cpp, inside the level's namespace.

namespace {

using namespace posenc_ext::core;

// Calls f(distance of i keys after `rel`), in doubles where these hold it: they are faster than 64-bit
// integers.
template <class F>
inline auto with_distance(const AlibiDistance& d, int64_t rel, F f) {
  constexpr int64_t kExact = int64_t{1} << 52;
  if (-kExact < rel && rel < kExact) {
    return f([=, from = static_cast<double>(rel)](int32_t i) { return d.steps(from + i); });
  }
  return f([=](int32_t i) { return static_cast<double>(d.steps(rel + i)); });
}

// A query's row is that of the query before it, one key further: a strip of values serves some queries of a
// head, for some keys.
constexpr int64_t kStripQueries = 32, kStripKeys = 2048;

template <class T>
void alibi_block(const AlibiForward& a, double slope, int64_t q0, int64_t queries, T* out) {
  T strip[kStripQueries + kStripKeys];
  for (int64_t k0 = 0; k0 < a.keys; k0 += kStripKeys) {
    const int64_t count = min_of(kStripKeys, a.keys - k0), last = q0 + queries - 1;
    const int32_t values = static_cast<int32_t>(count + queries - 1);
    with_distance(a.distance, k0 - last - a.distance.q_offset, [&](auto distance) {
      for (int32_t i = 0; i < values; ++i) strip[i] = round_to<T>(core::alibi_bias(slope, distance(i)));
    });
    for (int64_t i = 0; i < queries; ++i) {
      const T* from = strip + (queries - 1 - i);
      T* to = out + i * a.keys + k0;
      if (a.past_caches) {
        stream_row(to, from, count);
      } else {
        copy_row(to, from, count);
      }
    }
  }
}

template <class T>
void alibi_forward_typed(const AlibiForward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end;) {
    const int64_t q = item % a.queries, queries = min_of(min_of(end - item, a.queries - q), kStripQueries);
    const double slope = to_double(static_cast<const T*>(a.slopes)[item / a.queries * a.slope_stride]);
    alibi_block(a, slope, q, queries, static_cast<T*>(a.out) + item * a.keys);
    item += queries;
  }
  if (a.past_caches) finish_streams();
}

constexpr int64_t kSumKeys = int64_t{1} << 20;

template <class T>
void alibi_backward_typed(const AlibiBackward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t q = item % a.queries, stride = a.key_stride;
    const T* grad = static_cast<const T*>(a.grad) + item / a.queries * a.head_stride + q * a.query_stride;
    double sum = 0.0;
    for (int64_t k0 = 0; k0 < a.keys; k0 += kSumKeys) {
      const int64_t count = min_of(kSumKeys, a.keys - k0);
      const T* from = grad + k0 * stride;
      sum += with_distance(a.distance, k0 - q - a.distance.q_offset, [=](auto distance) {
        if (stride == 1) {
          return lane_sum<double>(
              count, [=](int64_t i) { return -distance(static_cast<int32_t>(i)) * to_double(from[i]); });
        }
        return lane_sum<double>(count, [=](int64_t i) {
          return -distance(static_cast<int32_t>(i)) * to_double(from[i * stride]);
        });
      });
    }
    a.partial[item] = sum;
  }
}

}  // namespace

void alibi_forward(const AlibiForward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, alibi_forward_typed<scalar_t>(a, begin, end))
}

void alibi_backward(const AlibiBackward& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, alibi_backward_typed<scalar_t>(a, begin, end))
}

void alibi_reduce(const AlibiReduce& a, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; ++head) {
    const double* partial = a.partial + head * a.queries;
    const double sum = lane_sum<double>(a.queries, [partial](int64_t q) { return partial[q]; });
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[head] = round_to<scalar_t>(sum))
  }
}
