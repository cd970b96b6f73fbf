// The position-embedding kernels.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/kernels/sums-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// y[c] = dropout(x[c] * x_scale + pos[c]); x alone where pos is null.
template <class Sum, class T, class Stride, class Arguments>
inline void embed_row(const Arguments& a, int64_t first, int64_t count, StridedRow<T, Stride> x,
                      double x_scale, StridedRow<T, Stride> pos) {
  T* y = static_cast<T*>(a.out) + first;
  const Rows one{1, 0, 0, 0};
  if (pos.first == nullptr && !a.dropout.drops()) {  // copied, even the bits of a NaN
    constexpr int N = kLineElements<T>;
    return write_row<N>(a.non_temporal, count, y,
                        [=](int64_t c, int64_t n) { return x.template elements<N>(c, n); });
  }
  if (pos.first == nullptr) return scale_row<Sum>(a.dropout, a.non_temporal, first, count, y, x, 1.0);
  if (x_scale == 1.0 && !a.dropout.drops()) {  // as core::plain_sum
    return add_rows<accumulator_t<T>>(a.dropout, a.non_temporal, one, first, count, y, x, 1.0, pos);
  }
  add_rows<Sum>(a.dropout, a.non_temporal, one, first, count, y, x, x_scale, pos);
}

// Token `token` of sample b, channels [c, c + count) at `x`.
template <class Sum, class T>
inline void embed_token(const AddPositionEmbedding& a, int64_t b, int64_t token, int64_t c, int64_t count,
                        const T* x, int64_t stride, double scale) {
  const int64_t first = b * a.out_batch_stride + token * a.out_token_stride + c;
  const T* pos = nullptr;
  if (token >= a.first_embedded) {
    pos = static_cast<const T*>(a.pos) + (token - a.first_embedded) * a.pos_token_stride +
          c * a.pos_channel_stride;
  }
  if (stride == 1 && a.pos_channel_stride == 1) {
    embed_row<Sum, T, Contiguous>(a, first, count, {x, {}}, scale, {pos, {}});
  } else {
    embed_row<Sum, T, int64_t>(a, first, count, {x, stride}, scale, {pos, a.pos_channel_stride});
  }
}

template <class T>
inline const T* token_of(const Tokens& tokens, int64_t b, int64_t token) {
  return static_cast<const T*>(tokens.data) + b * tokens.batch_stride + token * tokens.token_stride;
}

// Rows of kTokens tokens by kChannels channels. The rows are padded: at a distance of a power of two they
// would all fall into the same few places of the cache.
template <class T>
struct Square {
  static constexpr int64_t kTokens = 32, kGroup = 8;
  static constexpr int64_t kChannels = 65536 / (kTokens * static_cast<int64_t>(sizeof(T)));
  static constexpr int64_t kStride = kChannels + 64 / static_cast<int64_t>(sizeof(T));
  T value[kTokens * kStride];

  // Eight channels at a time, so that what is written is not single elements.
  template <class Step>
  void load(const T* x, int64_t channel_stride, int64_t channels, Step step, int64_t tokens) {
    int64_t c = 0;
    for (; c + kGroup <= channels; c += kGroup) {
      const T* from = x + c * channel_stride;
      for (int64_t t = 0; t < tokens; ++t) {
        T group[kGroup];
        for (int64_t i = 0; i < kGroup; ++i) group[i] = from[i * channel_stride + t * step];
        memcpy(value + t * kStride + c, group, sizeof(group));
      }
    }
    for (; c < channels; ++c) {
      for (int64_t t = 0; t < tokens; ++t) value[t * kStride + c] = x[c * channel_stride + t * step];
    }
  }
};

// Tokens [begin, end) of x, whose channels are further apart than its tokens (an image, channels first): read
// by way of squares, so that cache lines are used whole both where x is read and where the result is written.
template <class Sum, class T>
void embed_transposed(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  Square<T> square;
  for (int64_t t0 = begin; t0 < end; t0 += square.kTokens) {
    const int64_t tokens = min_of(square.kTokens, end - t0);
    for (int64_t c0 = 0; c0 < a.dim; c0 += square.kChannels) {
      const int64_t channels = min_of(square.kChannels, a.dim - c0);
      const T* x = token_of<T>(a.x, b, t0 - a.prefix_length) + c0 * a.x.channel_stride;
      if (a.x.token_stride == 1) {
        square.load(x, a.x.channel_stride, channels, Contiguous{}, tokens);
      } else {
        square.load(x, a.x.channel_stride, channels, a.x.token_stride, tokens);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        embed_token<Sum, T>(a, b, t0 + t, c0, channels, square.value + t * square.kStride, 1, a.x_scale);
      }
    }
  }
}

// Tokens [begin, end) of x of sample b.
template <class Sum, class T>
void embed_tokens(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  if (a.x.channel_stride > a.x.token_stride) return embed_transposed<Sum, T>(a, b, begin, end);
  for (int64_t token = begin; token < end; ++token) {
    embed_token<Sum, T>(a, b, token, 0, a.dim, token_of<T>(a.x, b, token - a.prefix_length),
                        a.x.channel_stride, a.x_scale);
  }
}

// Prefix tokens [begin, end) of sample b.
template <class Sum, class T>
void embed_prefixes(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  for (int32_t i = 0; i < a.prefixes; ++i) {
    const int64_t start = i == 0 ? 0 : a.prefix_end[i - 1];
    for (; begin < min_of(end, a.prefix_end[i]); ++begin) {
      embed_token<Sum, T>(a, b, begin, 0, a.dim, token_of<T>(a.prefix[i], b, begin - start),
                          a.prefix[i].channel_stride, 1.0);
    }
  }
}

// Tokens [begin, end) of x of kGroup samples from b on.
template <class Sum, class T>
void embed_group(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    T* y = static_cast<T*>(a.out) + b * a.out_batch_stride + token * a.out_token_stride;
    const T* pos = static_cast<const T*>(a.pos) + (token - a.first_embedded) * a.pos_token_stride;
    add_group<Sum>(a.non_temporal, a.dim, y, a.out_batch_stride, token_of<T>(a.x, b, token - a.prefix_length),
                   a.x.batch_stride, a.x_scale, pos);
  }
}

template <class Sum, class T>
void add_position_embedding_typed(const AddPositionEmbedding& a, int64_t begin, int64_t end) {
  const bool grouped = a.x.channel_stride == 1 && a.pos_channel_stride == 1 && !a.whole_samples &&
                       can_group(a.dropout, a.non_temporal, a.dim, static_cast<const T*>(a.out));
  const int64_t inner = a.whole_samples ? a.token_blocks() : a.sample_blocks();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first_token = (a.whole_samples ? item % inner : item / inner) * a.item_tokens;
    const int64_t last_token = min_of(a.length, first_token + a.item_tokens);
    const int64_t first_sample = (a.whole_samples ? item / inner : item % inner) * a.item_samples;
    const int64_t last_sample = min_of(a.batch, first_sample + a.item_samples);
    const int64_t token = min_of(last_token, max_of(first_token, a.prefix_length));
    for (int64_t b = first_sample; b < last_sample; ++b) {
      embed_prefixes<Sum, T>(a, b, first_token, token);
    }
    int64_t b = first_sample;
    for (; grouped && b + kGroup <= last_sample; b += kGroup) {
      if (a.x_scale == 1.0) {  // as core::plain_sum
        embed_group<accumulator_t<T>, T>(a, b, token, last_token);
      } else {
        embed_group<Sum, T>(a, b, token, last_token);
      }
    }
    for (; b < last_sample; ++b) embed_tokens<Sum, T>(a, b, token, last_token);
  }
  if (a.non_temporal) finish_streams();
}

// sum[j] += row[0][j], then row[1][j] and so on, for all j < count. `sum` has room for whole vectors.
template <int rows, class T, class Stride, class Sum>
POSENC_ALONE POSENC_FLATTEN void add_to_sums(const StridedRow<T, Stride> (&row)[rows], int64_t count,
                                             Sum* sum) {
  constexpr int N = kLineElements<T>;
  for (int64_t j = 0; j < count; j += N) {
    const int64_t n = min_of<int64_t>(N, count - j);
    Vec<Sum, N> total = load<N>(sum + j);
    for (int r = 0; r < rows; ++r) {
      row[r].prefetch(j, 2048);
      total = total + row[r].template load<Sum, N>(j, n);
    }
    store(sum + j, total);
  }
}

// out[j] = the sum of elements j of row(0), row(1), ..., row(rows - 1), in this order, for all j < count, at
// most kBlock.
template <int kBlock, class T, class RowAt>
inline void sum_rows(int64_t rows, RowAt row, int64_t count, T* out, int64_t out_stride) {
  constexpr int N = kLineElements<T>;
  accumulator_t<T> sum[kBlock];
  memset(sum, 0, static_cast<size_t>((count + N - 1) / N * N) * sizeof(sum[0]));
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) add_to_sums({row(r), row(r + 1), row(r + 2), row(r + 3)}, count, sum);
  for (; r < rows; ++r) add_to_sums({row(r)}, count, sum);
  int64_t j = 0;
  if (out_stride == 1) {
    for (; j + N <= count; j += N) store(out + j, round_to<T>(load<N>(sum + j)));
  }
  for (; j < count; ++j) out[j * out_stride] = round_to<T>(sum[j]);
}

template <class T, class Stride>
void sum_batch_typed(const SumBatch& a, int64_t begin, int64_t end, Stride stride) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t i = item / a.blocks(), first = item % a.blocks() * a.kBlock;
    const T* grad = static_cast<const T*>(a.grad) + i * a.row_stride + first * stride;
    T* out = static_cast<T*>(a.out) + i * a.out_row_stride + first * a.out_column_stride;
    sum_rows<SumBatch::kBlock>(
        a.batch, [&](int64_t b) { return StridedRow<T, Stride>{grad + b * a.batch_stride, stride}; },
        min_of(a.kBlock, a.columns - first), out, a.out_column_stride);
  }
}

void add_position_embedding(const AddPositionEmbedding& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, with_sum_type<scalar_t>(a.x_scale, [&]<class Sum>(Sum) {
                          add_position_embedding_typed<Sum, scalar_t>(a, begin, end);
                        }))
}

void sum_batch(const SumBatch& a, int64_t begin, int64_t end) {
  if (a.column_stride == 1) {
    POSENC_DISPATCH_DTYPE(a.dtype, sum_batch_typed<scalar_t>(a, begin, end, Contiguous{}))
  } else {
    POSENC_DISPATCH_DTYPE(a.dtype, sum_batch_typed<scalar_t>(a, begin, end, a.column_stride))
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
