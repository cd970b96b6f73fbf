// Launches of the ALiBi kernels.
#include "cuda/kernels/alibi_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T, class Real>
void launch_alibi_forward(const AlibiScheme& s, const BiasForward& a, cudaStream_t stream) {
  const PlaneWalk walk = make_plane_walk(s.keys(), kPlaneTile);
  const AlibiSource<T, Real> source{s, walk, static_cast<const T*>(a.table), a.head_stride};
  launch_forward<T>(source, 1, a.heads, s.queries() * s.keys(), /*head_fast=*/true, a.out, stream);
}

template <class T>
void launch_alibi_forward(const AlibiScheme& s, const BiasForward& a, cudaStream_t stream) {
  if constexpr (!std::is_same_v<T, double>) {
    if (max_of(s.q_offset, -s.q_offset) + s.queries() + s.keys() <= kFloatDistance<T>) {
      return launch_alibi_forward<T, float>(s, a, stream);
    }
  }
  launch_alibi_forward<T, double>(s, a, stream);
}

}  // namespace

void alibi_forward(const AlibiScheme& s, const BiasForward& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_alibi_forward<scalar_t>(s, a, stream))
}

void alibi_backward(const AlibiScheme& s, const BiasBackward& a, cudaStream_t stream) {
  const Chunks chunks = split(s.queries() * s.keys());
  const PlaneWalk walk = make_plane_walk(s.keys(), chunks.size);
  POSENC_DISPATCH_DTYPE(a.dtype, launch_warps(alibi_backward_kernel<scalar_t>, a.heads * chunks.count, stream,
                                              s, a, chunks, walk))
  if (chunks.count > 1) launch_warps(alibi_reduce_kernel, a.heads, stream, a, chunks);
}

void alibi_slopes(const AlibiSlopes& a, cudaStream_t stream) {
  launch(alibi_slopes_kernel, clamped_grid(divide_up(a.heads, kThreads), kBlocksPerMultiprocessor),
         dim3(kThreads), stream, a);
}

}  // namespace posenc_ext::cuda
