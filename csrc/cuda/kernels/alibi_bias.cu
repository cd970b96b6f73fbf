// Launches of the ALiBi kernels.
#include "cuda/kernels/alibi_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T>
void launch_alibi_forward(const AlibiForward& a, cudaStream_t stream) {
  const int64_t count = a.heads * a.queries * a.keys;
  const int64_t vectors = divide_up(count, Pack<T>::kWidth) + 1;  // both ends cut
  const AlibiDivides by{make_divide(a.keys, count), make_divide(a.queries, count)};
  const int64_t blocks = clamped_grid(divide_up(vectors, kThreads), kBlocksPerMultiprocessor);
  if constexpr (!std::is_same_v<T, double>) {
    const int64_t offset = a.distance.q_offset;
    if (max_of(offset, -offset) + a.queries + a.keys <= kFloatDistance<T>) {
      return launch(alibi_forward_kernel<T, float>, blocks, dim3(kThreads), stream, a, by);
    }
  }
  launch(alibi_forward_kernel<T, double>, blocks, dim3(kThreads), stream, a, by);
}

}  // namespace

void alibi_forward(const AlibiForward& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_alibi_forward<scalar_t>(a, stream))
}

void alibi_backward(const AlibiBackward& a, cudaStream_t stream) {
  const Pieces pieces = cut(a.queries * a.keys);
  const PlaneWalk walk = make_plane_walk(a.keys, pieces.size);
  POSENC_DISPATCH_DTYPE(
      a.dtype, launch_warps(alibi_backward_kernel<scalar_t>, a.heads * pieces.count, stream, a, pieces, walk))
  if (pieces.count > 1) launch_warps(alibi_reduce_kernel, a.heads, stream, a, pieces);
}

void alibi_slopes(const AlibiSlopes& a, cudaStream_t stream) {
  launch(alibi_slopes_kernel, clamped_grid(divide_up(a.heads, kThreads), kBlocksPerMultiprocessor),
         dim3(kThreads), stream, a);
}

}  // namespace posenc_ext::cuda
