// Bodies of the position-embedding kernels.
#pragma once

#include "cpu/kernels/arguments.h"
#include "cpu/kernels/sums-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <class T, class Stride, class PosStride, class Arguments>
inline void embed_row(const Arguments& a, int64_t first, int64_t count, Row<T, Stride> x, double x_scale,
                      Row<T, PosStride> pos) {
  T* y = static_cast<T*>(a.out) + first;
  const Doubles scale = all_of(x_scale);
  if (pos.first == nullptr) {
    if (!a.dropout.drops()) {
      write_row(a.past_caches, count, y, [=](int64_t c, int64_t n) { return x.load(c, n); });
    } else {
      store_row(a.dropout, a.past_caches, first, count, y,
                [=](int64_t c, int64_t n) { return to_double(x.load(c, n)); });
    }
  } else if (x_scale == 1.0 && !a.dropout.drops()) {
    write_row(a.past_caches, count, y,
              [=](int64_t c, int64_t n) { return Octet<T>::round(plain_sum(x.load(c, n), pos.load(c, n))); });
  } else {
    store_row(a.dropout, a.past_caches, first, count, y,
              [=](int64_t c, int64_t n) { return scaled_plus(x.load(c, n), scale, pos.load(c, n)); });
  }
}

// Token `token` of sample b, channels [c, c + count) at `x`.
template <class T>
inline void embed_token(const AddPositionEmbedding& a, int64_t b, int64_t token, int64_t c, int64_t count,
                        const T* x, int64_t stride, double scale) {
  const int64_t first = b * a.out_batch_stride + token * a.out_token_stride + c;
  const T* pos = nullptr;
  if (token >= a.first_embedded) {
    pos = static_cast<const T*>(a.pos) + (token - a.first_embedded) * a.pos_token_stride +
          c * a.pos_channel_stride;
  }
  if (stride == 1 && a.pos_channel_stride == 1) {
    embed_row<T, SideBySide, SideBySide>(a, first, count, {x, {}}, scale, {pos, {}});
  } else {
    embed_row<T, int64_t, int64_t>(a, first, count, {x, stride}, scale, {pos, a.pos_channel_stride});
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

// Tokens [begin, end) of x, whose channels lie further apart than its tokens (an image, channels first): read
// by way of squares, so that cache lines are used whole both where x is read and where the result is written.
template <class T>
void embed_transposed(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  Square<T> square;
  for (int64_t t0 = begin; t0 < end; t0 += square.kTokens) {
    const int64_t tokens = min_of(square.kTokens, end - t0);
    for (int64_t c0 = 0; c0 < a.dim; c0 += square.kChannels) {
      const int64_t channels = min_of(square.kChannels, a.dim - c0);
      const T* x = token_of<T>(a.x, b, t0 - a.prefix_length) + c0 * a.x.channel_stride;
      if (a.x.token_stride == 1) {
        square.load(x, a.x.channel_stride, channels, SideBySide{}, tokens);
      } else {
        square.load(x, a.x.channel_stride, channels, a.x.token_stride, tokens);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        embed_token<T>(a, b, t0 + t, c0, channels, square.value + t * square.kStride, 1, a.x_scale);
      }
    }
  }
}

// Tokens [begin, end) of x of samples that are `apart` from each other, one or kGroup of them from b on; all
// have a row of pos.
template <class T, class Sum>
void embed_lines(const AddPositionEmbedding& a, int64_t b, bool group, int64_t apart, int64_t begin,
                 int64_t end, const Sum& sum) {
  const int64_t ahead = a.item_tokens == 1 ? fetch_ahead<T>(8192, a.x.batch_stride, a.dim)
                                           : fetch_ahead<T>(2048, a.x.token_stride, a.dim);
  const RowGroup rows{group ? kGroup : 1, apart * a.x.batch_stride, apart * a.out_batch_stride, group, ahead,
                      a.past_caches};
  for (int64_t token = begin; token < end; ++token) {
    const int64_t first = b * a.out_batch_stride + token * a.out_token_stride;
    write_rows(a.dropout, rows, token_of<T>(a.x, b, token - a.prefix_length), static_cast<T*>(a.out) + first,
               first, a.dim, sum,
               static_cast<const T*>(a.pos) + (token - a.first_embedded) * a.pos_token_stride);
  }
}

// Tokens [begin, end) of x of sample b.
template <class T>
void embed_tokens(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  if (a.x.channel_stride > a.x.token_stride) return embed_transposed<T>(a, b, begin, end);
  for (int64_t token = begin; token < end; ++token) {
    embed_token(a, b, token, 0, a.dim, token_of<T>(a.x, b, token - a.prefix_length), a.x.channel_stride,
                a.x_scale);
  }
}

// Prefix tokens [begin, end) of sample b.
template <class T>
void embed_prefixes(const AddPositionEmbedding& a, int64_t b, int64_t begin, int64_t end) {
  for (int32_t i = 0; i < a.prefixes; ++i) {
    const int64_t start = i == 0 ? 0 : a.prefix_end[i - 1];
    for (; begin < min_of(end, a.prefix_end[i]); ++begin) {
      embed_token(a, b, begin, 0, a.dim, token_of<T>(a.prefix[i], b, begin - start),
                  a.prefix[i].channel_stride, 1.0);
    }
  }
}

template <class T>
void add_position_embedding_typed(const AddPositionEmbedding& a, int64_t begin, int64_t end) {
  const bool lines =
      a.pos_channel_stride == 1 && in_lines<T>(a.dim, a.x.channel_stride, a.past_caches, a.out);
  const int64_t inner = a.whole_samples ? a.token_blocks() : a.sample_blocks();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first_token = (a.whole_samples ? item % inner : item / inner) * a.item_tokens;
    const int64_t last_token = min_of(a.length, first_token + a.item_tokens);
    const int64_t first_sample = (a.whole_samples ? item / inner : item % inner) * a.item_samples;
    const int64_t last_sample = min_of(a.batch, first_sample + a.item_samples);
    const int64_t token = min_of(last_token, max_of(first_token, a.prefix_length));
    for (int64_t b = first_sample; b < last_sample; ++b) {
      embed_prefixes<T>(a, b, first_token, token);
      if (!lines) embed_tokens<T>(a, b, token, last_token);
    }
    if (!lines) continue;
    const auto embed = [&](const auto& sum) {
      // Memory is walked in its order, or in four places at once that share pos in registers.
      const int64_t apart = a.item_tokens == 1 ? 0 : (last_sample - first_sample) / kGroup;
      for (int64_t i = 0; i < apart; ++i) {
        embed_lines<T>(a, first_sample + i, true, apart, token, last_token, sum);
      }
      for (int64_t b = first_sample + apart * kGroup; b < last_sample; ++b) {
        embed_lines<T>(a, b, false, 0, token, last_token, sum);
      }
    };
    if (a.x_scale == 1.0 && !a.dropout.drops()) {
      embed(PlainSum<T>{});
    } else {
      embed(ScaledSum<T, T>(a.x_scale, a.dropout));
    }
  }
  if (a.past_caches) finish_streams();
}

// Four samples a pass: the sums are read and written once for four rows of the gradient. Added in the order
// of samples all the same.
template <class T, class Sum, class Stride>
inline void add_samples(const SumBatch& a, const T* grad, int64_t count, Stride stride, Sum* __restrict sum) {
  // The next pass reads elsewhere. Pieces of half types are too short for the machine to see that by itself.
  constexpr int64_t kStep = sizeof(T) < sizeof(float) ? kLineElements<T> : SumBatch::kBlock;
  int64_t b = 0;
  for (; b + 4 <= a.batch; b += 4) {
    const T* __restrict g0 = grad + b * a.batch_stride;
    const T* __restrict g1 = g0 + a.batch_stride;
    const T* __restrict g2 = g1 + a.batch_stride;
    const T* __restrict g3 = g2 + a.batch_stride;
    const int64_t ahead = 4 * a.batch_stride;
    for (int64_t first = 0; first < count; first += kStep) {
      __builtin_prefetch(g0 + first * stride + ahead);
      __builtin_prefetch(g1 + first * stride + ahead);
      __builtin_prefetch(g2 + first * stride + ahead);
      __builtin_prefetch(g3 + first * stride + ahead);
      const auto add = [&](int64_t j) {
        const int64_t i = j * stride;
        sum[j] = (((sum[j] + widen(g0[i])) + widen(g1[i])) + widen(g2[i])) + widen(g3[i]);
      };
      if (first + kStep <= count) {
        for (int64_t j = first; j < first + kStep; ++j) add(j);
      } else {
        for (int64_t j = first; j < count; ++j) add(j);
      }
    }
  }
  for (; b < a.batch; ++b) {
    const T* __restrict g = grad + b * a.batch_stride;
    for (int64_t j = 0; j < count; ++j) sum[j] += widen(g[j * stride]);
  }
}

template <class T>
void sum_batch_typed(const SumBatch& a, int64_t begin, int64_t end) {
  accumulator_t<T> sum[SumBatch::kBlock];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t row = item / a.blocks(), first = item % a.blocks() * SumBatch::kBlock;
    const int64_t count = min_of(SumBatch::kBlock, a.columns - first);
    const T* grad = static_cast<const T*>(a.grad) + row * a.row_stride + first * a.column_stride;
    T* out = static_cast<T*>(a.out) + row * a.out_row_stride + first * a.out_column_stride;
    if (a.batch == 1 && a.column_stride == 1 && a.out_column_stride == 1) {
      for (int64_t j = 0; j < count; ++j) out[j] = round_to<T>(accumulator_t<T>{0} + widen(grad[j]));
      continue;
    }
    for (int64_t j = 0; j < count; ++j) sum[j] = 0;
    if (a.column_stride == 1) {
      add_samples(a, grad, count, SideBySide{}, sum);
    } else {
      add_samples(a, grad, count, a.column_stride, sum);
    }
    for (int64_t j = 0; j < count; ++j) out[j * a.out_column_stride] = round_to<T>(sum[j]);
  }
}

void add_position_embedding(const AddPositionEmbedding& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, add_position_embedding_typed<scalar_t>(a, begin, end))
}

void sum_batch(const SumBatch& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, sum_batch_typed<scalar_t>(a, begin, end))
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
