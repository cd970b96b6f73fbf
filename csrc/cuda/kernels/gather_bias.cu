// Launches of the kernels for the bias of any index.
#include "cuda/kernels/gather_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T>
void launch_gather_backward(const GatherBackward& a, cudaStream_t stream) {
  const Pieces pieces = cut_index(a.index.lines() * a.index.keys, a.rows);
  const int64_t passes = divide_up(a.rows, kPassRows);
  const int64_t units = pieces.count * passes * divide_up(a.heads, kHeadsPerWarp<T>);
  const dim3 threads(kWarp, kWarpsPerBlock);
  launch(gather_backward_kernel<T>, clamped_grid(units, kBlocksPerMultiprocessor), threads, stream, a,
         make_fast_strided(a.index.at), make_fast_strided(a.grad_at), pieces, passes, units);
  launch(gather_reduce_kernel<T>, clamped_grid(divide_up(a.rows * a.heads, kWarp), kBlocksPerMultiprocessor),
         threads, stream, a, pieces);
}

}  // namespace

void gather_forward(const GatherForward& a, cudaStream_t stream) {
  POSENC_DISPATCH_BITS(
      a.dtype, const IndexSource<bits_t> source(
                   {{static_cast<const bits_t*>(a.table), a.row_stride, a.head_stride}, a.index, a.rows});
      launch_forward<bits_t>(source, a.index.samples, a.heads, a.index.plane(), a.head_stride < a.row_stride,
                             a.out, stream))
}

void gather_backward(const GatherBackward& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_gather_backward<scalar_t>(a, stream))
}

}  // namespace posenc_ext::cuda
