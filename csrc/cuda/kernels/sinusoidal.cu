// Launches of the sinusoid kernels: which variant, how the work is cut.
#include <type_traits>

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

int64_t blocks_for(const Split& split) { return clamped_grid(split.units(), kBlocksPerMultiprocessor); }

// Vectors need rows made of them: `aligned` says that rows start on 16 bytes and channels lie side by side.
Access access(const Sinusoid& s, bool aligned, int64_t element_size) {
  if (!aligned || !is_aligned(s.dim, element_size)) return Access::one_pair;
  if (s.layout == Layout::interleaved) return Access::alternating;
  return is_aligned(s.pairs(), element_size) ? Access::apart : Access::one_pair;
}

// Calls f with the access as a compile-time constant.
template <class F>
void with_access(Access access, F f) {
  if (access == Access::alternating) return f(std::integral_constant<Access, Access::alternating>{});
  if (access == Access::apart) return f(std::integral_constant<Access, Access::apart>{});
  f(std::integral_constant<Access, Access::one_pair>{});
}

}  // namespace

void sinusoid_rows(const SinusoidRows& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, {
    constexpr int64_t size = sizeof(scalar_t);
    const bool aligned = a.channel_stride == 1 && is_aligned(a.out) && is_aligned(a.row_stride, size);
    with_access(access(a.spec, aligned, size), [&](auto kind) {
      const dim3 threads = Group<scalar_t, kind.value>::threads();
      const Split split = split_work(a.spec, a.count, threads.y, 1);
      launch(sinusoid_rows_kernel<scalar_t, kind.value>, blocks_for(split), threads, stream, a, split);
    });
  })
}

void sinusoid_backward(const SinusoidBackward& a, cudaStream_t stream) {
  const dim3 threads(kWarp, kThreads / kWarp);
  const int64_t blocks = clamped_grid(divide_up(a.count, threads.y), kBlocksPerMultiprocessor);
  POSENC_DISPATCH_DTYPE(a.grad_dtype, launch(sinusoid_backward_kernel<scalar_t>, blocks, threads, stream, a))
}

void add_sinusoidal(const AddSinusoidal& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, {
    constexpr int64_t size = sizeof(scalar_t);
    const bool aligned = a.x_channel_stride == 1 && is_aligned(a.x) && is_aligned(a.x_batch_stride, size) &&
                         is_aligned(a.x_length_stride, size) && is_aligned(a.out) &&
                         is_aligned(a.out_batch_stride, size) && is_aligned(a.out_length_stride, size);
    with_access(access(a.spec, aligned, size), [&](auto kind) {
      const dim3 threads = Group<scalar_t, kind.value>::threads();
      const Split split = split_work(a.spec, a.length, threads.y, a.batch);
      launch(add_sinusoidal_kernel<scalar_t, kind.value>, blocks_for(split), threads, stream, a, split);
    });
  })
}

void scale_dropout(const ScaleDropout& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, {
    constexpr int64_t size = sizeof(scalar_t);
    const int32_t last = a.at.dims - 1;
    bool vector = is_aligned(a.x) && is_aligned(a.out) && last >= 0 && a.at.stride[last] == 1;
    for (int32_t d = 0; d < last; ++d) vector = vector && is_aligned(a.at.stride[d], size);
    if (last > 0) vector = vector && is_aligned(a.at.size[last], size);  // no vector spans two rows of x
    const int64_t width = vector ? kVectorBytes / size : 1;
    const int64_t blocks = clamped_grid(divide_up(divide_up(a.total, width), kThreads), 2 * kBlocksPerMultiprocessor);
    if (vector) {
      launch(scale_dropout_kernel<scalar_t, true>, blocks, kThreads, stream, a);
    } else {
      launch(scale_dropout_kernel<scalar_t, false>, blocks, kThreads, stream, a);
    }
  })
}

}  // namespace posenc_ext::cuda
