// Launches of the relative-position bias kernels, for every scheme.
#include "cuda/kernels/relative_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T, class Scheme>
void launch_forward(const Scheme& scheme, const BiasForward& a, cudaStream_t stream) {
  const int64_t tiles = divide_up(scheme.queries() * scheme.keys(), kPlaneTile);
  const BiasSplit split = split_heads<T>(tiles, a.heads, a.row_stride, a.head_stride);
  const int64_t blocks = clamped_grid(split.tiles * split.groups, kBlocksPerMultiprocessor);
  launch(bias_forward_kernel<T, Scheme>, blocks, dim3(kThreads), stream, scheme, make_fast_row(scheme),
         make_plane_walk(scheme.keys(), kPlaneTile), a, split);
}

template <class T, class Scheme>
void launch_backward(const Scheme& scheme, const BiasBackward& a, cudaStream_t stream) {
  const Pieces pieces = cut_rows(scheme);
  const int64_t units = pieces.count * scheme.rows() * divide_up(a.heads, kHeadsPerWarp<T>);
  launch_warps(bias_backward_kernel<T, Scheme>, units, stream, scheme, make_fast_slots(scheme), a, pieces,
               units);
  if (pieces.count == 1) return;
  launch_warps(bias_reduce_kernel<T, Scheme>, scheme.rows() * a.heads, stream, scheme, a, pieces);
}

}  // namespace

#define POSENC_DEFINE(Scheme)                                                            \
  void bias_forward(const Scheme& scheme, const BiasForward& a, cudaStream_t stream) {   \
    if (a.element_size == 8) return launch_forward<uint64_t>(scheme, a, stream);         \
    if (a.element_size == 4) return launch_forward<uint32_t>(scheme, a, stream);         \
    launch_forward<uint16_t>(scheme, a, stream);                                         \
  }                                                                                      \
  void bias_backward(const Scheme& scheme, const BiasBackward& a, cudaStream_t stream) { \
    POSENC_DISPATCH_DTYPE(a.dtype, launch_backward<scalar_t>(scheme, a, stream))         \
  }
POSENC_SCHEMES(POSENC_DEFINE)
#undef POSENC_DEFINE

}  // namespace posenc_ext::cuda
