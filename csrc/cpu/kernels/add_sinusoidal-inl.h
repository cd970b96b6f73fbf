// Bodies of the kernels that add the encoding to x, and that scale and drop; compiled once per CPU level
// by level_*.cpp, inside the level's namespace, after sinusoidal_body.h.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/kernels/sums-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// The encodings of `count` positions from p on, one row after the other: where they are kept, or else made in
// `buffer`.
inline const double* encodings(const AddSinusoidal& a, double p, int64_t count, double* buffer) {
  const int64_t dim = a.frequencies.spec.dim;
  if (p >= 0.0 && p + static_cast<double>(count) <= static_cast<double>(a.kept_positions)) {
    return a.kept + static_cast<int64_t>(p) * dim;
  }
  for (int64_t i = 0; i < count; ++i) {
    double* row = buffer + i * dim;
    encode_row(a.frequencies, p + static_cast<double>(i), 0, [row](int64_t c, double v) { row[c] = v; });
  }
  return buffer;
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

// Positions [first, first + count) of `samples` samples from b on, `apart` from each other; `together`: of
// kGroup.
template <class T, class Sum>
inline void add_lines(const AddSinusoidal& a, int64_t b, int64_t samples, int64_t apart, bool together,
                      int64_t first, int64_t count, typename Sum::Addend addend, const Sum& sum) {
  const int64_t dim = a.frequencies.spec.dim;
  const int64_t far = a.length_first() ? fetch_ahead<T>(8192, a.x_batch_stride, dim)
                                       : fetch_ahead<T>(2048, a.x_length_stride, dim);
  // What is in the caches comes sooner.
  const int64_t ahead = a.past_caches || together ? far : 1024 / static_cast<int64_t>(sizeof(T));
  const RowGroup group{samples,      apart * a.x_batch_stride, apart * a.out_batch_stride, together, ahead,
                       a.past_caches};
  for (int64_t l = first; l < first + count; ++l, addend = addend + dim) {
    const int64_t to = b * a.out_batch_stride + l * a.out_length_stride;
    write_rows(a.dropout, group, static_cast<const T*>(a.x) + b * a.x_batch_stride + l * a.x_length_stride,
               static_cast<T*>(a.out) + to, to, dim, sum, addend);
  }
}

// The same for rows that are no whole lines.
template <class T>
inline void add_encodings(const AddSinusoidal& a, int64_t b, int64_t samples, int64_t first, int64_t count,
                          const double* encoding) {
  for (int64_t l = first; l < first + count; ++l, encoding += a.frequencies.spec.dim) {
    for (int64_t r = b; r < b + samples; ++r) {
      if (a.x_channel_stride == 1) {
        add_encoding<T>(a, r, l, encoding, SideBySide{});
      } else {
        add_encoding<T>(a, r, l, encoding, a.x_channel_stride);
      }
    }
  }
}

// Samples [b, last), which have the same encodings.
template <class T, class Sum>
inline void add_to_samples(const AddSinusoidal& a, int64_t b, int64_t last, int64_t first, int64_t count,
                           const double* encoding, bool lines, const Sum& sum, double* room) {
  if (!lines) return add_encodings<T>(a, b, last - b, first, count, encoding);
  const auto addend = sum.prepared(encoding, count * a.frequencies.spec.dim, room);
  // Memory is walked in its order, or in four places at once that share encodings in registers.
  if (a.length_first()) return add_lines<T>(a, b, last - b, 1, false, first, count, addend, sum);
  const int64_t apart = (last - b) / kGroup;
  for (int64_t i = 0; i < apart; ++i) add_lines<T>(a, b + i, kGroup, apart, true, first, count, addend, sum);
  for (b += apart * kGroup; b < last; ++b) add_lines<T>(a, b, 1, 0, false, first, count, addend, sum);
}

template <class T>
void add_sinusoidal_typed(const AddSinusoidal& a, int64_t begin, int64_t end) {
  const int64_t dim = a.frequencies.spec.dim, tile = a.tile_length(), chunks = a.chunks();
  double on_stack[2 * AddSinusoidal::kTile];
  double* buffer = dim <= AddSinusoidal::kTile ? on_stack : new double[static_cast<size_t>(2 * dim)];
  double* room = buffer + tile * dim;
  const typename EncodingSum<T>::type sum(a.x_scale, a.dropout);
  const bool lines = in_lines<T>(dim, a.x_channel_stride, a.past_caches, a.out);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item / chunks * tile, count = min_of(tile, a.length - first);
    int64_t b = item % chunks * a.kBatchChunk;
    const int64_t last = min_of(a.batch, b + a.kBatchChunk);
    const double p = position_after(a.start, first);
    if (a.offsets == nullptr) {
      add_to_samples<T>(a, b, last, first, count, encodings(a, p, count, buffer), lines, sum, room);
      continue;
    }
    for (; b < last; ++b) {
      const double offset = load_position(a.offsets, a.offset_type, b * a.offset_stride);
      add_to_samples<T>(a, b, b + 1, first, count, encodings(a, p + offset, count, buffer), lines, sum, room);
    }
  }
  if (buffer != on_stack) delete[] buffer;
  if (a.past_caches) finish_streams();
}

template <class T, class Stride>
void scale_dropout_typed(const ScaleDropout& a, int64_t begin, int64_t end, Stride stride) {
  const Doubles scale = all_of(a.scale);
  const typename Scaling<T>::type product(a.scale, a.dropout);
  for (int64_t i = begin; i < end; ++i) {
    const Row<T, Stride> x{static_cast<const T*>(a.x) + a.outer.offset(i), stride};
    const int64_t first = i * a.inner, count = min_of(a.inner, a.total - first);
    T* out = static_cast<T*>(a.out) + first;
    if (in_lines<T>(count, stride, a.past_caches, out) && first % kDrawsPerCounter == 0) {
      write_rows(a.dropout, {1, 0, 0, false, 8192 / static_cast<int64_t>(sizeof(T)), a.past_caches}, x.first,
                 out, first, count, product, x.first);
      continue;
    }
    store_row(a.dropout, a.past_caches, first, count, out,
              [=](int64_t c, int64_t n) { return to_double(x.load(c, n)) * scale; });
  }
  if (a.past_caches) finish_streams();
}

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

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
