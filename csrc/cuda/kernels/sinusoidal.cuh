// Bodies of the sinusoid kernels. Rows are cut into tiles of pairs: a block computes the exact frequencies of its tile once, into
// shared memory, and then walks over rows.
#pragma once

#include "cuda/kernels/sinusoidal.h"
#include "cuda/kernels/vector.cuh"

namespace posenc_ext::cuda {
namespace {

using namespace posenc_ext::core;

constexpr int kTilePairs = 32;
constexpr int kMinBlocks = 2;  // per multiprocessor: 128 registers a thread, which needs no spill
constexpr int kBackwardTilePairs = 1024;  // all of them, up to dim 2048

// Pairs and, where dim is odd, one more slot for the extra channel.
POSENC_HD int64_t slots(const Sinusoid& s) { return s.pairs() + s.dim % 2; }

// Where sines and cosines stand in a row; core's channel(), turned round.
struct Places {
  int64_t sine, cosine, step, extra;
};

POSENC_HD Places places(const Sinusoid& s) {
  const int64_t last = s.dim - 1;
  if (s.layout == Layout::interleaved) return {0, 1, 2, last};
  if (s.layout == Layout::concat) return {0, s.frequencies(), 1, s.odd == Odd::sin ? s.pairs() : last};
  return {s.pairs(), 0, 1, last};
}

// Out of line: its hundreds of instructions run once per block and would otherwise be copied into every kernel.
__device__ __noinline__ void load_frequencies(const Sinusoid& s, int64_t first, int count, DoubleDouble* table) {
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int j = thread; j < count; j += threads) {
    table[j] = first + j < s.frequencies() ? frequency(s, first + j) : DoubleDouble{0.0, 0.0};
  }
}

__device__ __forceinline__ double position_of(const Positions& p, int64_t i) {
  if (p.data == nullptr) return static_cast<double>(p.start + i);
  return load_position(p.data, p.type, p.at.offset(i));
}

__device__ __forceinline__ SineCosine encode_pair(DoubleDouble f, double p, bool huge, int32_t order) {
  const QuarterTurns turns = huge ? reduce<true>(p, f) : reduce<false>(p, f);
  const SineCosine rest = sine_cosine(turns);
  SineCosine value{sine_at(rest, turns.quadrant, order), sine_at(rest, turns.quadrant, order + 1)};
  if (order != 0) {
    const double factor = derivative_factor(f, order);
    value.sine *= factor;
    value.cosine *= factor;
  }
  return value;
}

// How a thread touches a row: one pair, or the pairs that fill 16-byte vectors. Where sines and cosines alternate, a vector holds
// both of half as many pairs; else the sines make one vector and the cosines another.
enum class Access { one_pair, alternating, apart };

// The pairs a thread owns of a row.
template <class T, Access kAccess>
struct Group {
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  static constexpr int kPairs = kAccess == Access::one_pair ? 1 : kAccess == Access::alternating ? kWidth / 2 : kWidth;
  static constexpr int kPerTile = kTilePairs / kPairs;
  double sine[kPairs], cosine[kPairs];

  static dim3 threads() { return dim3(kPerTile, kThreads / kPerTile); }

  __device__ __forceinline__ void encode(const Sinusoid& s, const DoubleDouble* frequencies, double p, int32_t order) {
    const bool huge = needs_huge_reduction(s, p);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const SineCosine value = encode_pair(frequencies[i], p, huge, order);
      sine[i] = value.sine;
      cosine[i] = value.cosine;
    }
  }

  // Gives the channels of the pairs from j on to `row`: row.many(channel, values) for whole vectors, row.one(channel, value) else.
  template <class Row>
  __device__ __forceinline__ void give(const Sinusoid& s, const Places& at, int64_t j, const Row& row) const {
    if constexpr (kAccess == Access::alternating) {
      double both[kWidth];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        both[2 * i] = sine[i];
        both[2 * i + 1] = cosine[i];
      }
      row.many(2 * j, both);
    } else if constexpr (kAccess == Access::apart) {
      row.many(at.sine + j, sine);
      row.many(at.cosine + j, cosine);
    } else if (j < s.pairs()) {
      row.one(at.sine + j * at.step, sine[0]);
      row.one(at.cosine + j * at.step, cosine[0]);
    } else {
      row.one(at.extra, s.odd == Odd::sin ? sine[0] : 0.0);
    }
  }
};

// Work cut into units: tiles of pairs x stretches of rows x chunks of the batch.
struct Split {
  int64_t tiles, stretches, chunks;
  int64_t stretch_rows, chunk_samples;

  POSENC_HD int64_t units() const { return tiles * stretches * chunks; }
};

template <class T>
struct EncodingRow {
  T* out;
  int64_t channel_stride;

  template <int kWidth>
  __device__ __forceinline__ void many(int64_t c, const double (&value)[kWidth]) const {
    Pack<T, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.value[i] = round_to<T>(value[i]);
    store<T, kWidth>(out + c, pack);
  }
  __device__ __forceinline__ void one(int64_t c, double value) const { out[c * channel_stride] = round_to<T>(value); }
};

// Writes rows x dim elements, reads one position per row. A block owns a tile of pairs and a stretch of rows; threadIdx.x is a
// group of pairs, threadIdx.y a row, so that neighbouring threads write neighbouring vectors.
template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sinusoid_rows_kernel(const __grid_constant__ SinusoidRows a, const __grid_constant__ Split split) {
  using Pairs = Group<T, kAccess>;
  __shared__ DoubleDouble frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies(a.spec, first_pair, kTilePairs, frequencies);
    __syncthreads();
    if (first_pair + in_tile >= slots(a.spec)) continue;
    const int64_t first = unit / split.tiles * split.stretch_rows;
    const int64_t last = min_of(a.count, first + split.stretch_rows);
    for (int64_t row = first + threadIdx.y; row < last; row += blockDim.y) {
      Pairs group;
      group.encode(a.spec, frequencies + in_tile, position_of(a.positions, row), a.order);
      group.give(a.spec, at, first_pair + in_tile,
                 EncodingRow<T>{static_cast<T*>(a.out) + row * a.row_stride, a.channel_stride});
    }
  }
}

// Reads rows x dim elements and one position per row, writes one element per row. A warp owns a row, its lanes walk over the
// pairs. Rows wider than the table in shared memory have the table recomputed for every block of rows.
template <class G>
__global__ void __launch_bounds__(kThreads, kMinBlocks) sinusoid_backward_kernel(const __grid_constant__ SinusoidBackward a) {
  __shared__ DoubleDouble frequencies[kBackwardTilePairs];
  const Sinusoid& s = a.spec;
  const Places at = places(s);
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = a.grad_channel_stride, pairs = s.pairs();
  const bool one_tile = slots(s) <= kBackwardTilePairs;
  for (int64_t first_row = blockIdx.x * int64_t{blockDim.y}; first_row < a.count;
       first_row += gridDim.x * int64_t{blockDim.y}) {
    const int64_t row = first_row + threadIdx.y;
    const bool has_row = row < a.count;
    const double p = has_row ? position_of(a.positions, row) : 0.0;
    const bool huge = needs_huge_reduction(s, p);
    const G* grad = static_cast<const G*>(a.grad) + (has_row ? a.grad_row.offset(row) : 0);
    double sum = 0.0;
    for (int64_t first = 0; first < slots(s); first += kBackwardTilePairs) {
      const int count = static_cast<int>(min_of<int64_t>(kBackwardTilePairs, slots(s) - first));
      if (!one_tile || first_row == blockIdx.x * int64_t{blockDim.y}) {
        __syncthreads();  // the last tile's frequencies are done with
        load_frequencies(s, first, count, frequencies);
        __syncthreads();
      }
      if (!has_row) continue;
      for (int in_tile = lane; in_tile < count; in_tile += kWarp) {
        const int64_t j = first + in_tile;
        const SineCosine value = encode_pair(frequencies[in_tile], p, huge, a.order);
        if (j < pairs) {
          sum += to_double(grad[(at.sine + j * at.step) * stride]) * value.sine;
          sum += to_double(grad[(at.cosine + j * at.step) * stride]) * value.cosine;
        } else {
          sum += to_double(grad[at.extra * stride]) * (s.odd == Odd::sin ? value.sine : 0.0);
        }
      }
    }
    sum = warp_sum(sum);
    if (lane != 0 || !has_row) continue;
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[row] = round_to<scalar_t>(sum))
  }
}

template <class T>
struct SumRow {
  const T* x;
  int64_t x_channel_stride;
  double x_scale;
  T* out;
  int64_t first;  // the row's linear index in the contiguous result
  const SeededDropout* dropout;
  uint64_t seed;

  template <int kWidth>
  __device__ __forceinline__ void many(int64_t c, const double (&encoding)[kWidth]) const {
    const Pack<T, kWidth> given = load<T, kWidth>(x + c);
    double value[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value[i] = scaled_sum(to_double(given.value[i]), x_scale, encoding[i]);
    if (dropout->seed != nullptr) drop(dropout->dropout, seed, first + c, value);
    Pack<T, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.value[i] = round_to<T>(value[i]);
    store<T, kWidth>(out + first + c, pack);
  }
  __device__ __forceinline__ void one(int64_t c, double encoding) const {
    double value[1] = {scaled_sum(to_double(x[c * x_channel_stride]), x_scale, encoding)};
    if (dropout->seed != nullptr) drop(dropout->dropout, seed, first + c, value);
    out[first + c] = round_to<T>(value[0]);
  }
};

// Reads and writes batch x length x dim elements. A block owns a tile of pairs, a stretch of positions and a chunk of the batch; a
// thread encodes its pairs of a position once and adds them to every sample of the chunk (anew for each where samples have offsets).
template <class T, Access kAccess>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_sinusoidal_kernel(const __grid_constant__ AddSinusoidal a, const __grid_constant__ Split split) {
  using Pairs = Group<T, kAccess>;
  __shared__ DoubleDouble frequencies[kTilePairs];
  const int in_tile = static_cast<int>(threadIdx.x) * Pairs::kPairs;
  const Places at = places(a.spec);
  const uint64_t seed = a.dropout.seed != nullptr ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  for (int64_t unit = blockIdx.x; unit < split.units(); unit += gridDim.x) {
    const int64_t first_pair = unit % split.tiles * kTilePairs;
    __syncthreads();  // the last unit's frequencies are done with
    load_frequencies(a.spec, first_pair, kTilePairs, frequencies);
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
        Pairs group;
        group.encode(a.spec, frequencies + in_tile, static_cast<double>(a.start + l) + offset, 0);
        const T* x = static_cast<const T*>(a.x) + l * a.x_length_stride;
        const int64_t row = l * a.out_length_stride;
        for (int64_t b = sample; b < sample + sharing; ++b) {
          group.give(a.spec, at, first_pair + in_tile,
                     SumRow<T>{x + b * a.x_batch_stride, a.x_channel_stride, a.x_scale, static_cast<T*>(a.out),
                               row + b * a.out_batch_stride, &a.dropout, seed});
        }
      }
    }
  }
}

// Reads and writes `total` elements; a thread owns a vector, or one element where x does not lie in vectors.
template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads, kMinBlocks) scale_dropout_kernel(const __grid_constant__ ScaleDropout a) {
  constexpr int kWidth = kVector ? kVectorBytes / static_cast<int>(sizeof(T)) : 1;
  T* out = static_cast<T*>(a.out);
  const bool drops = a.dropout.seed != nullptr;
  const uint64_t seed = drops ? static_cast<uint64_t>(*a.dropout.seed) : 0;
  const int64_t step = gridDim.x * int64_t{kThreads} * kWidth;
  for (int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * kWidth; i < a.total; i += step) {
    const T* x = static_cast<const T*>(a.x) + (a.at.dims == 1 ? i * a.at.stride[0] : a.at.offset(i));
    const int count = static_cast<int>(min_of<int64_t>(kWidth, a.total - i));
    Pack<T, kWidth> pack;
    if (count == kWidth) {
      pack = load<T, kWidth>(x);
    } else {  // the tail of a contiguous x
#pragma unroll
      for (int n = 0; n < kWidth; ++n) pack.value[n] = x[n < count ? n : 0];
    }
    double value[kWidth];
#pragma unroll
    for (int n = 0; n < kWidth; ++n) value[n] = to_double(pack.value[n]) * a.scale;
    if (drops) drop(a.dropout.dropout, seed, i, value);
#pragma unroll
    for (int n = 0; n < kWidth; ++n) pack.value[n] = round_to<T>(value[n]);
    if (count == kWidth) {
      store<T, kWidth>(out + i, pack);
    } else {
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        if (n < count) out[i + n] = pack.value[n];
      }
    }
  }
}

}  // namespace
}  // namespace posenc_ext::cuda
