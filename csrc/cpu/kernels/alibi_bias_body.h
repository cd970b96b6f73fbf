// Bodies of the ALiBi kernels; compiled once per CPU level by level_*.cpp, inside the level's namespace.

namespace {

using namespace posenc_ext::core;

template <class T>
void alibi_forward_typed(const AlibiForward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t q = item % a.queries;
    const double slope = to_double(static_cast<const T*>(a.slopes)[item / a.queries * a.slope_stride]);
    T* out = static_cast<T*>(a.out) + item * a.keys;
    const AlibiDistance distance = a.distance;
    for (int64_t k = 0; k < a.keys; ++k) out[k] = round_to<T>(core::alibi_bias(slope, distance(q, k)));
  }
}

template <class T>
void alibi_backward_typed(const AlibiBackward& a, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t q = item % a.queries, stride = a.key_stride;
    const T* grad = static_cast<const T*>(a.grad) + item / a.queries * a.head_stride + q * a.query_stride;
    const AlibiDistance distance = a.distance;
    const auto term = [=](int64_t k) { return -distance(q, k) * to_double(grad[k * stride]); };
    a.partial[item] = lane_sum<double>(a.keys, term);
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
