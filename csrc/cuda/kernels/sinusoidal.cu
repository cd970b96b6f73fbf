// Launches of the sinusoid kernels: which variant, how the work is cut.
#include "cuda/kernels/sinusoidal.cuh"

#include "cuda/kernels/add_sinusoidal.cuh"

namespace posenc_ext::cuda {
namespace {

// Enough to hide latency, few enough that computing frequencies (once per block) stays cheap.
constexpr int64_t kSinusoidBlocks = 4;  // per multiprocessor

Split split_work(const Sinusoid& s, int64_t rows, int64_t rows_per_pass, int64_t batch) {
  constexpr int64_t kMost = int64_t{1} << 30;  // what a unit counts in 32 bits
  const int64_t target = kSinusoidBlocks * multiprocessors();
  Split split{};
  split.tiles = divide_up(slots(s), kTilePairs);
  const int64_t passes = divide_up(rows, rows_per_pass);
  split.stretches = max_of(divide_up(rows, kMost), min_of(passes, target / split.tiles));
  const int64_t stretch_rows = divide_up(passes, split.stretches) * rows_per_pass;
  split.stretches = divide_up(rows, stretch_rows);
  const int64_t chunks =
      max_of(divide_up(batch, kMost), min_of(batch, target / (split.tiles * split.stretches)));
  const int64_t chunk_samples = divide_up(batch, chunks);
  split.units = split.tiles * split.stretches * divide_up(batch, chunk_samples);
  split.stretch_rows = static_cast<int32_t>(stretch_rows);
  split.chunk_samples = static_cast<int32_t>(chunk_samples);
  return split;
}

// Of the last spec this thread asked for: making them takes microseconds.
const FrequencyDigits& digits_of(const Sinusoid& s) {
  thread_local DoubleDouble turn{}, rate{};
  thread_local FrequencyDigits digits{};
  if (s.turn.hi != turn.hi || s.turn.lo != turn.lo || s.rate.hi != rate.hi || s.rate.lo != rate.lo) {
    digits = make_digits(s);
    turn = s.turn;
    rate = s.rate;
  }
  return digits;
}

int64_t blocks_for(const Split& split) { return clamped_grid(split.units, kSinusoidBlocks); }

template <class Pairs>
void launch_rows(const SinusoidRows& a, cudaStream_t stream) {
  const dim3 threads = threads_for<Pairs>();
  const Split split = split_work(a.spec, a.count, threads.y, 1);
  launch(sinusoid_rows_kernel<Pairs>, blocks_for(split), threads, stream, a, split, digits_of(a.spec));
}

template <class Pairs>
void launch_add(const AddSinusoidal& a, cudaStream_t stream) {
  const dim3 threads = threads_for<Pairs>();
  const Split split = split_work(a.spec, a.length, threads.y, a.batch);
  const Scales<FloatPair> scales = to_float_pairs({a.x_scale, a.dropout.dropout.scale});
  launch(add_sinusoidal_kernel<Pairs>, blocks_for(split), threads, stream, a, split, scales,
         digits_of(a.spec));
}

template <class T>
void launch_scale(const ScaleDropout& a, bool floats, FloatPair scale, int64_t blocks, cudaStream_t stream) {
  if constexpr (!std::is_same_v<T, double>) {
    if (floats) return launch(scale_dropout_kernel<T, float>, blocks, kThreads, stream, a, scale);
  }
  launch(scale_dropout_kernel<T, double>, blocks, kThreads, stream, a, scale);
}

// Are the rows, which start on 16 bytes, made of vectors that have a kernel? In float64 the pairs of a row of
// sines and a row of cosines are as good one by one: neighbouring threads write 8 bytes each, side by side.
bool has_vectors(const Sinusoid& s, DType dtype, bool floats) {
  if (s.layout == Layout::interleaved) {
    return (floats || dtype == DType::float64) && is_aligned(s.dim, core::element_size(dtype));
  }
  return floats && is_aligned(s.dim, core::element_size(dtype)) &&
         is_aligned(s.pairs(), core::element_size(dtype));
}

// Does float32 serve these values, on top of the exact phase?
bool in_floats(const Sinusoid& s, DType dtype, int32_t order) {
  return dtype != DType::float64 && order == 0 && has_fixed_frequencies(s);
}

// Do float pairs serve its gradient? Powers of frequencies beyond the second leave float32's range.
bool sums_in_floats(const SinusoidBackward& a) {
  return in_floats(a.spec, a.dtype, 0) && a.grad_dtype != DType::float64 && a.order <= 2;
}

}  // namespace

void sinusoid_rows(const SinusoidRows& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const bool floats = in_floats(a.spec, a.dtype, a.order);
  const bool vectors = a.channel_stride == 1 && is_aligned(a.out) && is_aligned(a.row_stride, size) &&
                       has_vectors(a.spec, a.dtype, floats);
  if (!vectors)
    return floats ? launch_rows<OnePair<float>>(a, stream) : launch_rows<OnePair<double>>(a, stream);
  POSENC_DISPATCH_DTYPE(a.dtype, {
    if (a.spec.layout == Layout::interleaved) return launch_rows<Vectors<scalar_t, true>>(a, stream);
    if constexpr (!std::is_same_v<scalar_t, double>) launch_rows<Vectors<scalar_t, false>>(a, stream);
  })
}

void sinusoid_backward(const SinusoidBackward& a, cudaStream_t stream) {
  const dim3 threads(kWarp, kThreads / kWarp);
  const int64_t blocks = clamped_grid(divide_up(a.count, threads.y), kSinusoidBlocks);
  const auto kernel =
      sums_in_floats(a) ? sinusoid_backward_kernel<FloatPair> : sinusoid_backward_kernel<double>;
  launch(kernel, blocks, threads, stream, a, digits_of(a.spec));
}

void add_sinusoidal(const AddSinusoidal& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const bool floats = in_floats(a.spec, a.dtype, 0) && fits_float_pair(a.x_scale);
  const bool vectors = a.x_channel_stride == 1 && is_aligned(a.x) && is_aligned(a.x_batch_stride, size) &&
                       is_aligned(a.x_length_stride, size) && is_aligned(a.out) &&
                       is_aligned(a.out_batch_stride, size) && is_aligned(a.out_length_stride, size) &&
                       has_vectors(a.spec, a.dtype, floats);
  if (!vectors)
    return floats ? launch_add<OnePair<float>>(a, stream) : launch_add<OnePair<double>>(a, stream);
  POSENC_DISPATCH_DTYPE(a.dtype, {
    if (a.spec.layout == Layout::interleaved) return launch_add<Vectors<scalar_t, true>>(a, stream);
    if constexpr (!std::is_same_v<scalar_t, double>) launch_add<Vectors<scalar_t, false>>(a, stream);
  })
}

void scale_dropout(const ScaleDropout& a, cudaStream_t stream) {
  const int64_t size = core::element_size(a.dtype);
  const int32_t last = a.at.dims - 1;
  bool vector = is_aligned(a.x) && is_aligned(a.out) && last >= 0 && a.at.stride[last] == 1;
  for (int32_t d = 0; d < last; ++d) vector = vector && is_aligned(a.at.stride[d], size);
  if (last > 0) vector = vector && is_aligned(a.at.size[last], size);  // no vector spans two rows of x
  const int64_t owned = vector ? kVectorBytes / size : 1;
  const int64_t blocks =
      clamped_grid(divide_up(divide_up(a.total, owned), kThreads), kBlocksPerMultiprocessor);
  const double scale = a.dropout.seed != nullptr ? a.scale * a.dropout.dropout.scale : a.scale;
  const bool floats = a.dtype != DType::float64 && fits_float_pair(scale);
  const FloatPair pair = to_float_pair(scale);
  if (!vector) {
    const auto kernel = floats ? scale_dropout_strided_kernel<float> : scale_dropout_strided_kernel<double>;
    return launch(kernel, blocks, kThreads, stream, a, pair);
  }
  POSENC_DISPATCH_DTYPE(a.dtype, launch_scale<scalar_t>(a, floats, pair, blocks, stream))
}

}  // namespace posenc_ext::cuda
