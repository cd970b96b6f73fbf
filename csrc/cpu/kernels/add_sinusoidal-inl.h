// The kernels that add the encoding to x, and that scale and drop.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/kernels/sums-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// The encodings of `count` positions from p on, one row after the other: where they are cached, or computed
// in `buffer`.
inline const double* rows_from(const AddSinusoidal& a, double p, int64_t count, double* buffer) {
  const int64_t dim = a.frequencies.spec.dim;
  if (p >= 0.0 && p + static_cast<double>(count) <= static_cast<double>(a.cached_positions)) {
    return a.cached_rows + static_cast<int64_t>(p) * dim;
  }
  for (int64_t i = 0; i < count; ++i) {
    double* row = buffer + i * dim;
    encode_row(a.frequencies, p + static_cast<double>(i), 0, [row](int64_t c, double v) { row[c] = v; });
  }
  return buffer;
}

// The same as numbers of type Sum: floats are made in `buffer`, once for all samples.
template <class Sum>
inline const Sum* encodings_as(const double* encoding, int64_t count, double* buffer) {
  if constexpr (std::is_same_v<Sum, double>) {
    return encoding;
  } else {
    Sum* to = reinterpret_cast<Sum*>(buffer);
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) store(to + i, convert<Sum>(load<8>(encoding + i)));
    if (i < count) store_some(to + i, convert<Sum>(load_some<8>(encoding + i, count - i)), count - i);
    return to;
  }
}

template <class Sum, class T>
void add_sinusoidal_typed(const AddSinusoidal& a, int64_t begin, int64_t end) {
  const int64_t dim = a.spec.dim, tile = a.tile_length(), chunks = a.chunks();
  double on_stack[AddSinusoidal::kTile];
  double* buffer = dim <= AddSinusoidal::kTile ? on_stack : new double[static_cast<size_t>(dim)];
  const auto x_at = [&](int64_t b, int64_t l) {
    return static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride;
  };
  const auto out_at = [&](int64_t b, int64_t l) { return b * a.out_batch_stride + l * a.out_length_stride; };
  T* const out = static_cast<T*>(a.out);
  const auto add_rows_at = [&](int64_t b, int64_t l, const Rows& rows, const Sum* encoding) {
    const int64_t first = out_at(b, l);
    const StridedRow<Sum, Contiguous> row{encoding, {}};
    if (a.x_channel_stride == 1) {
      add_rows<Sum>(a.dropout, a.non_temporal, rows, first, dim, out + first,
                    StridedRow<T, Contiguous>{x_at(b, l), {}}, a.x_scale, row);
    } else {
      add_rows<Sum>(a.dropout, a.non_temporal, rows, first, dim, out + first,
                    StridedRow<T, int64_t>{x_at(b, l), a.x_channel_stride}, a.x_scale, row);
    }
  };
  const bool grouped = a.x_channel_stride == 1 && can_group(a.dropout, a.non_temporal, dim, out);
  // `count` positions from l on of the samples [b, last), which have the same encodings.
  const auto add = [&](int64_t b, int64_t last, int64_t l, int64_t count, const double* exact) {
    const Sum* encoding = encodings_as<Sum>(exact, count * dim, buffer);
    if (a.length_first()) {
      return add_rows_at(b, l, {last - b, a.x_batch_stride, 0, a.out_batch_stride}, encoding);
    }
    for (; grouped && b + kGroup <= last; b += kGroup) {
      for (int64_t i = 0; i < count; ++i) {
        add_group<Sum>(a.non_temporal, dim, out + out_at(b, l + i), a.out_batch_stride, x_at(b, l + i),
                       a.x_batch_stride, a.x_scale, encoding + i * dim);
      }
    }
    const Rows rows{count, a.x_length_stride, dim, a.out_length_stride};
    for (; b < last; ++b) add_rows_at(b, l, rows, encoding);
  };
  for (int64_t item = begin; item < end; ++item) {
    const int64_t l = item / chunks * tile, count = min_of(tile, a.length - l);
    int64_t b = item % chunks * a.kBatchChunk;
    const int64_t last = min_of(a.batch, b + a.kBatchChunk);
    const double p = position_after(a.start, l);
    if (a.offsets == nullptr) {
      add(b, last, l, count, rows_from(a, p, count, buffer));
      continue;
    }
    for (; b < last; ++b) {
      const double offset = load_position(a.offsets, a.offset_type, b * a.offset_stride);
      add(b, b + 1, l, count, rows_from(a, p + offset, count, buffer));
    }
  }
  if (buffer != on_stack) delete[] buffer;
  if (a.non_temporal) finish_streams();
}

template <class Sum, class T, class Stride>
void scale_dropout_typed(const ScaleDropout& a, int64_t begin, int64_t end, Stride stride) {
  for (int64_t i = begin; i < end; ++i) {
    const StridedRow<T, Stride> x{static_cast<const T*>(a.x) + a.outer.offset(i), stride};
    const int64_t first = i * a.inner, count = min_of(a.inner, a.total - first);
    scale_row<Sum>(a.dropout, a.non_temporal, first, count, static_cast<T*>(a.out) + first, x, a.scale);
  }
  if (a.non_temporal) finish_streams();
}

void add_sinusoidal(const AddSinusoidal& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, with_sum_type<scalar_t>(a.x_scale, [&]<class Sum>(Sum) {
                          add_sinusoidal_typed<Sum, scalar_t>(a, begin, end);
                        }))
}

void scale_dropout(const ScaleDropout& a, int64_t begin, int64_t end) {
  const double scale = a.dropout.drops() ? a.scale * a.dropout.dropout.scale : a.scale;
  POSENC_DISPATCH_DTYPE(a.dtype, with_sum_type<scalar_t>(scale, [&]<class Sum>(Sum) {
                          if (a.inner_stride == 1) {
                            scale_dropout_typed<Sum, scalar_t>(a, begin, end, Contiguous{});
                          } else {
                            scale_dropout_typed<Sum, scalar_t>(a, begin, end, a.inner_stride);
                          }
                        }))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
