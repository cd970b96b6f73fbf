// Launches of the sinusoid kernels: which variant, how the work is cut.
#include "cuda/kernels/sinusoidal.cuh"

namespace posenc_ext::cuda {
namespace {

// Enough to hide latency, few enough that computing frequencies (once per block) stays cheap.
constexpr int64_t kBlocksPerMultiprocessor = 4;

Split split_work(const Sinusoid& s, int64_t rows, int64_t rows_per_pass, int64_t batch) {
  const int64_t target = kBlocksPerMultiprocessor * multiprocessors();
  Split split{};
  split.tiles = divide_up(slots(s), kTilePairs);
  const int64_t passes = divide_up(rows, rows_per_pass);
  split.stretches = max_of<int64_t>(1, min_of(passes, target / split.tiles));
  split.stretch_rows = divide_up(passes, split.stretches) * rows_per_pass;
  split.stretches = divide_up(rows, split.stretch_rows);
  split.chunks = max_of<int64_t>(1, min_of(batch, target / (split.tiles * split.stretches)));
  split.chunk_samples = divide_up(batch, split.chunks);
  split.chunks = divide_up(batch, split.chunk_samples);
  return split;
}

int64_t size_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

int64_t blocks_for(const Split& split) { return clamped_grid(split.units(), kBlocksPerMultiprocessor); }

template <class Pairs>
void launch_rows(const SinusoidRows& a, cudaStream_t stream) {
  const dim3 threads = threads_for<Pairs>();
  const Split split = split_work(a.spec, a.count, threads.y, 1);
  launch(sinusoid_rows_kernel<Pairs>, blocks_for(split), threads, stream, a, split);
}

template <class Pairs>
void launch_add(const AddSinusoidal& a, cudaStream_t stream) {
  const dim3 threads = threads_for<Pairs>();
  const Split split = split_work(a.spec, a.length, threads.y, a.batch);
  launch(add_sinusoidal_kernel<Pairs>, blocks_for(split), threads, stream, a, split);
}

// Are the rows, which start on 16 bytes, made of vectors?
bool has_vectors(const Sinusoid& s, int64_t element_size) {
  return is_aligned(s.dim, element_size) &&
         (s.layout == Layout::interleaved || is_aligned(s.pairs(), element_size));
}

}  // namespace

void sinusoid_rows(const SinusoidRows& a, cudaStream_t stream) {
  const int64_t size = size_of(a.dtype);
  if (a.channel_stride != 1 || !is_aligned(a.out) || !is_aligned(a.row_stride, size) ||
      !has_vectors(a.spec, size)) {
    return launch_rows<OnePair>(a, stream);
  }
  POSENC_DISPATCH_DTYPE(a.dtype, {
    if (a.spec.layout == Layout::interleaved) return launch_rows<Vectors<scalar_t, true>>(a, stream);
    launch_rows<Vectors<scalar_t, false>>(a, stream);
  })
}

void sinusoid_backward(const SinusoidBackward& a, cudaStream_t stream) {
  const dim3 threads(kWarp, kThreads / kWarp);
  launch(sinusoid_backward_kernel, clamped_grid(divide_up(a.count, threads.y), kBlocksPerMultiprocessor),
         threads, stream, a);
}

void add_sinusoidal(const AddSinusoidal& a, cudaStream_t stream) {
  const int64_t size = size_of(a.dtype);
  if (a.x_channel_stride != 1 || !is_aligned(a.x) || !is_aligned(a.x_batch_stride, size) ||
      !is_aligned(a.x_length_stride, size) || !is_aligned(a.out) || !is_aligned(a.out_batch_stride, size) ||
      !is_aligned(a.out_length_stride, size) || !has_vectors(a.spec, size)) {
    return launch_add<OnePair>(a, stream);
  }
  POSENC_DISPATCH_DTYPE(a.dtype, {
    if (a.spec.layout == Layout::interleaved) return launch_add<Vectors<scalar_t, true>>(a, stream);
    launch_add<Vectors<scalar_t, false>>(a, stream);
  })
}

void scale_dropout(const ScaleDropout& a, cudaStream_t stream) {
  const int64_t size = size_of(a.dtype);
  const int32_t last = a.at.dims - 1;
  bool vector = is_aligned(a.x) && is_aligned(a.out) && last >= 0 && a.at.stride[last] == 1;
  for (int32_t d = 0; d < last; ++d) vector = vector && is_aligned(a.at.stride[d], size);
  if (last > 0) vector = vector && is_aligned(a.at.size[last], size);  // no vector spans two rows of x
  const int64_t owned = vector ? kVectorBytes / size : 1;
  const int64_t blocks =
      clamped_grid(divide_up(divide_up(a.total, owned), kThreads), 2 * kBlocksPerMultiprocessor);
  if (!vector) return launch(scale_dropout_strided_kernel, blocks, kThreads, stream, a);
  POSENC_DISPATCH_DTYPE(a.dtype, launch(scale_dropout_kernel<scalar_t>, blocks, kThreads, stream, a))
}

}  // namespace posenc_ext::cuda
