// Launches of the kernels for the bias of any index.
#include "cuda/kernels/gather_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T>
void launch_gather_forward(const GatherForward& a, cudaStream_t stream) {
  const BiasSplit split =
      split_heads<T>(a.samples * divide_up(a.plane, kPlaneTile), a.heads, a.row_stride, a.head_stride);
  const int64_t blocks = clamped_grid(split.tiles * split.groups, kBlocksPerMultiprocessor);
  launch(gather_forward_kernel<T>, blocks, dim3(kThreads), stream, a, split);
}

template <class T>
void launch_gather_backward(const GatherBackward& a, cudaStream_t stream) {
  const Pieces pieces = cut_index(a.count, a.rows);
  const int64_t passes = divide_up(a.rows, kPassRows);
  const int64_t units = pieces.count * passes * divide_up(a.heads, kHeadsPerWarp<T>);
  const dim3 threads(kWarp, kWarpsPerBlock);
  launch(gather_backward_kernel<T>, clamped_grid(units, kBlocksPerMultiprocessor), threads, stream, a,
         make_fast_strided(a.index_at), make_fast_strided(a.grad_at), pieces, passes, units);
  launch(gather_reduce_kernel<T>, clamped_grid(divide_up(a.rows * a.heads, kWarp), kBlocksPerMultiprocessor),
         threads, stream, a, pieces);
}

}  // namespace

void gather_forward(const GatherForward& arguments, cudaStream_t stream) {
  GatherForward a = arguments;
  a.index_at = collapsed(a.index_at);
  if (a.element_size == 8) return launch_gather_forward<uint64_t>(a, stream);
  if (a.element_size == 4) return launch_gather_forward<uint32_t>(a, stream);
  launch_gather_forward<uint16_t>(a, stream);
}

void gather_backward(const GatherBackward& arguments, cudaStream_t stream) {
  GatherBackward a = arguments;
  a.index_at = collapsed(a.index_at);
  a.grad_at = collapsed(a.grad_at);
  POSENC_DISPATCH_DTYPE(a.dtype, launch_gather_backward<scalar_t>(a, stream))
}

}  // namespace posenc_ext::cuda
