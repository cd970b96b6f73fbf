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

template <class Sum, class T>
void add_sinusoidal_typed(const AddSinusoidal& a, int64_t begin, int64_t end) {
  const int64_t dim = a.frequencies.spec.dim, tile = a.tile_length(), chunks = a.chunks();
  double on_stack[AddSinusoidal::kTile];
  double* buffer = dim <= AddSinusoidal::kTile ? on_stack : new double[static_cast<size_t>(dim)];
  // The positions [first, first + count) of the samples [b, last), which have the same encodings.
  const bool grouped = a.x_channel_stride == 1 && !a.length_first() &&
                       can_group(a.dropout, a.non_temporal, dim, static_cast<const T*>(a.out));
  const auto add = [&](int64_t b, int64_t last, int64_t first, int64_t count, const double* encoding) {
    for (; grouped && b + kGroup <= last; b += kGroup) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t l = first + i;
        add_group<Sum>(
            a.non_temporal, dim, static_cast<T*>(a.out) + b * a.out_batch_stride + l * a.out_length_stride,
            a.out_batch_stride, static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride,
            a.x_batch_stride, a.x_scale, encoding + i * dim);
      }
    }
    for (; b < last; ++b) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t l = first + i, to = b * a.out_batch_stride + l * a.out_length_stride;
        const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride;
        T* y = static_cast<T*>(a.out) + to;
        const StridedRow<double, Contiguous> row{encoding + i * dim, {}};
        if (a.x_channel_stride == 1) {
          add_row<Sum>(a.dropout, a.non_temporal, to, dim, y, StridedRow<T, Contiguous>{x, {}}, a.x_scale,
                       row);
        } else {
          add_row<Sum>(a.dropout, a.non_temporal, to, dim, y, StridedRow<T, int64_t>{x, a.x_channel_stride},
                       a.x_scale, row);
        }
      }
    }
  };
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item / chunks * tile, count = min_of(tile, a.length - first);
    int64_t b = item % chunks * a.kBatchChunk;
    const int64_t last = min_of(a.batch, b + a.kBatchChunk);
    const double p = position_after(a.start, first);
    if (a.offsets == nullptr) {
      add(b, last, first, count, rows_from(a, p, count, buffer));
      continue;
    }
    for (; b < last; ++b) {
      const double offset = load_position(a.offsets, a.offset_type, b * a.offset_stride);
      add(b, b + 1, first, count, rows_from(a, p + offset, count, buffer));
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
