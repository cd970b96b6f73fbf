// The kernels on given positions.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/kernels/position_embedding-inl.h"
#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class Sum, class T, class Stride>
void add_positions_typed(const AddPositions& a, int64_t begin, int64_t end, Stride x_stride,
                         Stride table_stride) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = static_cast<int64_t>(position_of(a.positions, i));
    embed_row<Sum, T, Stride>(a, i * a.dim, a.dim, {static_cast<const T*>(a.x) + a.x_at.offset(i), x_stride},
                              a.x_scale,
                              {static_cast<const T*>(a.table) + row * a.table_row_stride, table_stride});
  }
  if (a.non_temporal) finish_streams();
}

template <class T, class Stride>
void sum_positions_typed(const SumPositions& a, int64_t begin, int64_t end, Stride stride) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / a.blocks(), c = item % a.blocks() * a.kBlock;
    const int64_t* terms = a.terms + a.first[row];
    const T* grad = static_cast<const T*>(a.grad) + c * stride;
    sum_rows<SumPositions::kBlock>(
        a.first[row + 1] - a.first[row],
        [&](int64_t i) { return StridedRow<T, Stride>{grad + terms[i], stride}; },
        min_of(a.kBlock, a.dim - c), static_cast<T*>(a.out) + row * a.dim + c, 1);
  }
}

void add_positions(const AddPositions& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, with_sum_type<scalar_t>(a.x_scale, [&]<class Sum>(Sum) {
                          if (a.x_channel_stride == 1 && a.table_channel_stride == 1) {
                            add_positions_typed<Sum, scalar_t>(a, begin, end, Contiguous{}, Contiguous{});
                          } else {
                            add_positions_typed<Sum, scalar_t>(a, begin, end, a.x_channel_stride,
                                                               a.table_channel_stride);
                          }
                        }))
}

void sum_positions(const SumPositions& a, int64_t begin, int64_t end) {
  if (a.channel_stride == 1) {
    POSENC_DISPATCH_DTYPE(a.dtype, sum_positions_typed<scalar_t>(a, begin, end, Contiguous{}))
  } else {
    POSENC_DISPATCH_DTYPE(a.dtype, sum_positions_typed<scalar_t>(a, begin, end, a.channel_stride))
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
