// Bodies of the kernels that add the encoding to x, and that scale and drop; compiled once per CPU level by
// level_*.cpp, inside the level's namespace, after sinusoidal_body.h.

namespace {

template <class T>
void add_sinusoidal_typed(const AddSinusoidal& a, int64_t begin, int64_t end) {
  const int64_t dim = a.frequencies.spec.dim;
  constexpr int64_t kOnStack = 2048;
  double on_stack[kOnStack];
  double* encoding = dim <= kOnStack ? on_stack : new double[static_cast<size_t>(dim)];
  const auto put = [encoding](int64_t c, double v) { encoding[c] = v; };
  for (int64_t item = begin; item < end; ++item) {
    const int64_t l = item / a.chunks(), chunk = item % a.chunks();
    const int64_t last = min_of(a.batch, (chunk + 1) * a.kBatchChunk);
    if (a.offsets == nullptr) encode_row(a.frequencies, position_after(a.start, l), 0, put);
    for (int64_t b = chunk * a.kBatchChunk; b < last; ++b) {
      if (a.offsets != nullptr) {
        const double offset = load_position(a.offsets, a.offset_type, b * a.offset_stride);
        encode_row(a.frequencies, position_after(a.start, l) + offset, 0, put);
      }
      const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride;
      const int64_t first = b * a.out_batch_stride + l * a.out_length_stride;
      T* y = static_cast<T*>(a.out) + first;
      const double x_scale = a.x_scale;
      if (a.x_channel_stride == 1) {
        store_row<T>(a.dropout, first, dim, y, [x, x_scale, encoding](int64_t c) {
          return scaled_sum(to_double(x[c]), x_scale, encoding[c]);
        });
      } else {
        const int64_t stride = a.x_channel_stride;
        store_row<T>(a.dropout, first, dim, y, [x, x_scale, encoding, stride](int64_t c) {
          return scaled_sum(to_double(x[c * stride]), x_scale, encoding[c]);
        });
      }
    }
  }
  if (encoding != on_stack) delete[] encoding;
}

template <class T>
void scale_dropout_typed(const ScaleDropout& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(a.x) + a.outer.offset(i);
    const int64_t first = i * a.inner;
    const int64_t count = min_of(a.inner, a.total - first);
    const double scale = a.scale;
    T* y = static_cast<T*>(a.out) + first;
    if (a.inner_stride == 1) {
      store_row<T>(a.dropout, first, count, y, [x, scale](int64_t c) { return to_double(x[c]) * scale; });
    } else {
      const int64_t stride = a.inner_stride;
      store_row<T>(a.dropout, first, count, y,
                   [x, scale, stride](int64_t c) { return to_double(x[c * stride]) * scale; });
    }
  }
}

}  // namespace

void add_sinusoidal(const AddSinusoidal& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, add_sinusoidal_typed<scalar_t>(a, begin, end))
}

void scale_dropout(const ScaleDropout& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, scale_dropout_typed<scalar_t>(a, begin, end))
}
