// Bodies of the kernels that add the encoding to x, and that scale and drop; compiled once per CPU level by
// level_*.cpp, inside the level's namespace, after sinusoidal_body.h.

namespace {

// The encodings of `count` positions from p on, one row after the other.
inline void encode_tile(const Frequencies& f, double p, int64_t count, double* encoding) {
  for (int64_t i = 0; i < count; ++i, encoding += f.spec.dim) {
    encode_row(f, p + static_cast<double>(i), 0, [encoding](int64_t c, double v) { encoding[c] = v; });
  }
}

template <class T, class Stride>
inline void add_encoding(const AddSinusoidal& a, int64_t b, int64_t l, const double* encoding,
                         Stride stride) {
  const Row<T, Stride> x{static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride, stride};
  const Row<double, SideBySide> row{encoding, {}};
  const int64_t first = b * a.out_batch_stride + l * a.out_length_stride;
  const Doubles x_scale = all_of(a.x_scale);
  store_row(a.dropout, a.past_caches, first, a.frequencies.spec.dim, static_cast<T*>(a.out) + first,
            [=](int64_t c, int64_t n) {
              return scaled_sum(to_double(x.load(c, n)), x_scale, to_double(row.load(c, n)));
            });
}

template <class T>
void add_sinusoidal_typed(const AddSinusoidal& a, int64_t begin, int64_t end) {
  const int64_t dim = a.frequencies.spec.dim, tile = a.tile_length(), chunks = a.chunks();
  double on_stack[AddSinusoidal::kTile];
  double* encoding = dim <= AddSinusoidal::kTile ? on_stack : new double[static_cast<size_t>(dim)];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item / chunks * tile, chunk = item % chunks;
    const int64_t count = min_of(tile, a.length - first);
    const int64_t last = min_of(a.batch, (chunk + 1) * a.kBatchChunk);
    if (a.offsets == nullptr) encode_tile(a.frequencies, position_after(a.start, first), count, encoding);
    for (int64_t b = chunk * a.kBatchChunk; b < last; ++b) {
      if (a.offsets != nullptr) {
        const double offset = load_position(a.offsets, a.offset_type, b * a.offset_stride);
        encode_tile(a.frequencies, position_after(a.start, first) + offset, count, encoding);
      }
      for (int64_t i = 0; i < count; ++i) {
        if (a.x_channel_stride == 1) {
          add_encoding<T>(a, b, first + i, encoding + i * dim, SideBySide{});
        } else {
          add_encoding<T>(a, b, first + i, encoding + i * dim, a.x_channel_stride);
        }
      }
    }
  }
  if (encoding != on_stack) delete[] encoding;
  if (a.past_caches) finish_streams();
}

template <class T, class Stride>
void scale_dropout_typed(const ScaleDropout& a, int64_t begin, int64_t end, Stride stride) {
  const Doubles scale = all_of(a.scale);
  for (int64_t i = begin; i < end; ++i) {
    const Row<T, Stride> x{static_cast<const T*>(a.x) + a.outer.offset(i), stride};
    const int64_t first = i * a.inner;
    store_row(a.dropout, a.past_caches, first, min_of(a.inner, a.total - first),
              static_cast<T*>(a.out) + first,
              [=](int64_t c, int64_t n) { return to_double(x.load(c, n)) * scale; });
  }
  if (a.past_caches) finish_streams();
}

}  // namespace

void add_sinusoidal(const AddSinusoidal& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, add_sinusoidal_typed<scalar_t>(a, begin, end))
}

void scale_dropout(const ScaleDropout& a, int64_t begin, int64_t end) {
  if (a.inner_stride == 1) {
    POSENC_DISPATCH_DTYPE(a.dtype, scale_dropout_typed<scalar_t>(a, begin, end, SideBySide{}))
  } else {
    POSENC_DISPATCH_DTYPE(a.dtype, scale_dropout_typed<scalar_t>(a, begin, end, a.inner_stride))
  }
}
