// Bodies of the sinusoid kernels. Rows are cut into tiles of pairs: a block computes the exact frequencies of
// its tile once, into shared memory, and then walks over rows.
#pragma once

#include "cuda/kernels/sinusoidal.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kTilePairs = 32;
constexpr int kBackwardTilePairs = 1024;  // all of them, up to dim 2048
constexpr int kMinBlocks = 2;             // per multiprocessor: 128 registers a thread, which needs no spill

// Pairs and, where dim is odd, one more slot for the extra channel.
POSENC_HD int64_t slots(const Sinusoid& s) { return s.pairs() + s.dim % 2; }

struct Frequency {
  DoubleDouble turns;
  double factor;  // of the derivative
};

// Out of line: its hundreds of instructions run once per block.
__device__ __noinline__ void load_frequencies(const Sinusoid& s, int32_t order, int64_t first, int count,
                                              Frequency* table) {
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int j = thread; j < count; j += threads) {
    const DoubleDouble f = first + j < s.frequencies() ? frequency(s, first + j) : DoubleDouble{0.0, 0.0};
    table[j] = {f, derivative_factor(f, order)};
  }
}

__device__ __forceinline__ double position_of(const Positions& p, int64_t i) {
  if (p.data == nullptr) return position_after(p.start, i);
  return load_position(p.data, p.type, p.at.offset(i));
}

__device__ __forceinline__ SineCosine encode_pair(DoubleDouble f, double p, bool huge, int32_t order) {
  const QuarterTurns turns = huge ? reduce<true>(p, f) : reduce<false>(p, f);
  const SineCosine rest = sine_cosine(turns);
  return {sine_at(rest, turns.quadrant, order), sine_at(rest, turns.quadrant, order + 1)};
}

template <class Pairs>
__device__ __forceinline__ void encode(const Sinusoid& s, const Frequency* frequencies, double p,
                                       int32_t order, Pairs& pairs) {
  const bool huge = needs_huge_reduction(s, p);
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    const SineCosine value = encode_pair(frequencies[i].turns, p, huge, order);
    pairs.sine[i] = value.sine;
    pairs.cosine[i] = value.cosine;
  }
  if (order == 0) return;
#pragma unroll
  for (int i = 0; i < Pairs::kPairs; ++i) {
    pairs.sine[i] *= frequencies[i].factor;
    pairs.cosine[i] *= frequencies[i].factor;
  }
}

// The pairs a thread owns of a row, and how it touches their channels. This one takes any row, one channel at
// a time; the dtype is looked at for each, which costs little beside uncoalesced accesses and saves a kernel
// per dtype.
struct OnePair {
  static constexpr int kPairs = 1;
  double sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid& s, const Places& at, int64_t j, const Row& row) const {
    if (j < s.pairs()) {
      row.one(at.sine + j * at.step, sine[0]);
      row.one(at.cosine + j * at.step, cosine[0]);
    } else {
      row.one(at.extra, s.odd == Odd::sin ? sine[0] : 0.0);
    }
  }
};

// Rows made of 16-byte vectors. Where sines and cosines alternate, a vector holds both of half as many pairs;
// else the sines of the pairs are one vector and the cosines another.
template <class T, bool kAlternating>
struct Vectors {
  static constexpr int kWidth = Pack<T>::kWidth;
  static constexpr int kPairs = kAlternating ? kWidth / 2 : kWidth;
  double sine[kPairs], cosine[kPairs];

  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid&, const Places& at, int64_t j, const Row& row) const {
    if constexpr (kAlternating) {
      double both[kWidth];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        both[2 * i] = sine[i];
        both[2 * i + 1] = cosine[i];
      }
      row.template many<T>(2 * j, both);
    } else {
      row.template many<T>(at.sine + j, sine);
      row.template many<T>(at.cosine + j, cosine);
    }
  }
};

// Threads of a block: x walks over the groups of pairs of a tile, y over rows.
template <class Pairs>
dim3 threads_for() {
  constexpr int kPerTile = kTilePairs / Pairs::kPairs;
  return dim3(kPerTile, kThreads / kPerTile);
}

// Work cut into units: tiles of pairs x stretches of rows x chunks of the batch.
struct Split {
  int64_t tiles, stretches, chunks;
  int64_t stretch_rows, chunk_samples;

  POSENC_HD int64_t units() const { return tiles * stretches * chunks; }
};

struct EncodingRow {
  DType dtype;
  void* out;
  int64_t first;  // element of `out`
  int64_t channel_stride;

  template <class T, int kWidth>
  __device__ __forceinline__ void many(int64_t c, const double (&value)[kWidth]) const {
    store_rounded(static_cast<T*>(out) + first + c, value);
  }
  __device__ __forceinline__ void one(int64_t c, double value) const {
    store_as(dtype, out, first + c * channel_stride, value);
  }
};

// Writes rows x dim elements, reads one position per row. A block owns a tile of pairs and a stretch of rows;
// threadIdx.x is a group of pairs, threadIdx.y a row, so that neighbouring threads write neighbouring
// vectors.
template <class Pairs>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sinusoid_rows_kernel(const __grid_constant__ SinusoidRows a, const __grid_constant__ Split split) {
  __shared__ Frequency frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies(a.spec, a.order, first_pair, kTilePairs, frequencies);
    __syncthreads();
    if (first_pair + in_tile >= slots(a.spec)) continue;
    const int64_t first = unit / split.tiles * split.stretch_rows;
    const int64_t last = min_of(a.count, first + split.stretch_rows);
    for (int64_t row = first + threadIdx.y; row < last; row += blockDim.y) {
      Pairs pairs;
      encode(a.spec, frequencies + in_tile, position_of(a.positions, row), a.order, pairs);
      pairs.give(a.spec, at, first_pair + in_tile,
                 EncodingRow{a.dtype, a.out, row * a.row_stride, a.channel_stride});
    }
  }
}

// Reads rows x dim elements and one position per row, writes one element per row. A warp owns a row, its
// lanes walk over the pairs. Rows wider than the table in shared memory have the table recomputed for every
// block of rows.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sinusoid_backward_kernel(const __grid_constant__ SinusoidBackward a) {
  __shared__ Frequency frequencies[kBackwardTilePairs];
  const Sinusoid& s = a.spec;
  const Places at = places(s);
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = a.grad_channel_stride, pairs = s.pairs();
  const bool one_tile = slots(s) <= kBackwardTilePairs;
  const int64_t begin = blockIdx.x * int64_t{blockDim.y}, step = gridDim.x * int64_t{blockDim.y};
  for (int64_t first_row = begin; first_row < a.count; first_row += step) {
    const int64_t row = first_row + threadIdx.y;
    const bool has_row = row < a.count;
    const double p = has_row ? position_of(a.positions, row) : 0.0;
    const bool huge = needs_huge_reduction(s, p);
    const int64_t grad = has_row ? a.grad_row.offset(row) : 0;
    double sum = 0.0;
    for (int64_t first = 0; first < slots(s); first += kBackwardTilePairs) {
      const int count = static_cast<int>(min_of<int64_t>(kBackwardTilePairs, slots(s) - first));
      if (!one_tile || first_row == begin) {
        __syncthreads();  // the last tile's frequencies are done with
        load_frequencies(s, a.order, first, count, frequencies);
        __syncthreads();
      }
      if (!has_row) continue;
      for (int in_tile = lane; in_tile < count; in_tile += kWarp) {
        const int64_t j = first + in_tile;
        const Frequency f = frequencies[in_tile];
        const SineCosine value = encode_pair(f.turns, p, huge, a.order);
        const double sine = value.sine * f.factor, cosine = value.cosine * f.factor;
        if (j < pairs) {
          sum += load_as(a.grad_dtype, a.grad, grad + (at.sine + j * at.step) * stride) * sine;
          sum += load_as(a.grad_dtype, a.grad, grad + (at.cosine + j * at.step) * stride) * cosine;
        } else {
          sum += load_as(a.grad_dtype, a.grad, grad + at.extra * stride) * (s.odd == Odd::sin ? sine : 0.0);
        }
      }
    }
    sum = warp_sum(sum);
    if (lane == 0 && has_row) store_as(a.dtype, a.out, row, sum);
  }
}

struct SumRow {
  const AddSinusoidal& a;
  int64_t x_first, out_first;  // elements of a.x and a.out
  uint64_t seed;

  template <class T, int kWidth>
  __device__ __forceinline__ void many(int64_t c, const double (&encoding)[kWidth]) const {
    double value[kWidth];
    load_widened(static_cast<const T*>(a.x) + x_first + c, value);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value[i] = scaled_sum(value[i], a.x_scale, encoding[i]);
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, out_first + c, value);
    store_rounded(static_cast<T*>(a.out) + out_first + c, value);
  }
  __device__ __forceinline__ void one(int64_t c, double encoding) const {
    const double x = load_as(a.dtype, a.x, x_first + c * a.x_channel_stride);
    double value[1] = {scaled_sum(x, a.x_scale, encoding)};
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, out_first + c, value);
    store_as(a.dtype, a.out, out_first + c, value[0]);
  }
};

// Reads and writes batch x length x dim elements. A block owns a tile of pairs, a stretch of positions and a
// chunk of the batch; a thread encodes its pairs of a position once and adds them to every sample of the
// chunk (anew for each where samples have offsets).
template <class Pairs>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_sinusoidal_kernel(const __grid_constant__ AddSinusoidal a, const __grid_constant__ Split split) {
  __shared__ Frequency frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies(a.spec, 0, first_pair, kTilePairs, frequencies);
    __syncthreads();
    if (first_pair + in_tile >= slots(a.spec)) continue;
    const int64_t first_position = unit / split.tiles % split.stretches * split.stretch_rows;
    const int64_t last_position = min_of(a.length, first_position + split.stretch_rows);
    const int64_t first_sample = unit / split.tiles / split.stretches * split.chunk_samples;
    const int64_t last_sample = min_of(a.batch, first_sample + split.chunk_samples);
    // The samples that share an encoding: all of the chunk, or one where each has its own offset.
    const int64_t sharing = a.offsets != nullptr ? 1 : last_sample - first_sample;
    for (int64_t sample = first_sample; sample < last_sample; sample += sharing) {
      const double offset =
          a.offsets != nullptr ? load_position(a.offsets, a.offset_type, sample * a.offset_stride) : 0.0;
      for (int64_t l = first_position + threadIdx.y; l < last_position; l += blockDim.y) {
        Pairs pairs;
        encode(a.spec, frequencies + in_tile, position_after(a.start, l) + offset, 0, pairs);
        for (int64_t b = sample; b < sample + sharing; ++b) {
          pairs.give(a.spec, at, first_pair + in_tile,
                     SumRow{a, b * a.x_batch_stride + l * a.x_length_stride,
                            b * a.out_batch_stride + l * a.out_length_stride, seed});
        }
      }
    }
  }
}

// Reads and writes `total` elements; a thread owns a vector of T.
template <class T>
__global__ void __launch_bounds__(kThreads) scale_dropout_kernel(const __grid_constant__ ScaleDropout a) {
  constexpr int kWidth = Pack<T>::kWidth;
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  const int64_t step = gridDim.x * int64_t{kThreads} * kWidth;
  for (int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * kWidth; i < a.total; i += step) {
    const T* x = static_cast<const T*>(a.x) + (a.at.dims == 1 ? i : a.at.offset(i));
    T* out = static_cast<T*>(a.out) + i;
    const int64_t count = a.total - i;
    double value[kWidth];
    if (count >= kWidth) {
      load_widened(x, value);
    } else {  // the tail of a contiguous x
#pragma unroll
      for (int n = 0; n < kWidth; ++n) value[n] = n < count ? to_double(x[n]) : 0.0;
    }
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] *= a.scale;
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, i, value);
    if (count >= kWidth) {
      store_rounded(out, value);
    } else {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        if (n < count) out[n] = round_to<T>(value[n]);
      }
    }
  }
}

// The same where x does not lie in vectors; a thread owns an element.
__global__ void __launch_bounds__(kThreads)
    scale_dropout_strided_kernel(const __grid_constant__ ScaleDropout a) {
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  const int64_t step = gridDim.x * int64_t{kThreads};
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.total; i += step) {
    double value[1] = {load_as(a.dtype, a.x, a.at.offset(i)) * a.scale};
    if (a.dropout.seed != nullptr) drop(a.dropout.dropout, seed, i, value);
    store_as(a.dtype, a.out, i, value[0]);
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
