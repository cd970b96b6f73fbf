// Launches of the kernels for the bias of any index.
#include "cuda/kernels/gather_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T>
void launch_gather_backward(const GatherBackward& a, cudaStream_t stream) {
  launch_place_sums<T>(
      a, GradPlaces<T>{static_cast<const T*>(a.grad), a.head_stride, make_fast_strided(a.grad_at)}, stream);
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
