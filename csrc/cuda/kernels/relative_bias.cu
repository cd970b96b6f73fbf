// Launches of the relative-position bias kernels, for every scheme.
#include "cuda/kernels/relative_bias.cuh"

namespace posenc_ext::cuda {
namespace {

constexpr int64_t kBlocksPerMultiprocessor = 8;

template <class T, class Scheme>
void launch_forward(const Scheme& scheme, const BiasForward& a, cudaStream_t stream) {
  BiasSplit split{};
  split.tiles = divide_up(scheme.queries() * scheme.keys(), kPlaneTile);
  // As few groups as keep the device busy: each finds its rows anew.
  const int64_t wanted = max_of<int64_t>(1, 2 * multiprocessors() / split.tiles);
  split.group_heads = divide_up(a.heads, min_of(a.heads, wanted));
  split.groups = divide_up(a.heads, split.group_heads);
  const int64_t blocks = clamped_grid(split.tiles * split.groups, kBlocksPerMultiprocessor);
  launch(bias_forward_kernel<T, Scheme>, blocks, dim3(kThreads / kHeadsInFlight, kHeadsInFlight), stream,
         scheme, a, split);
}

template <class T, class Scheme>
void launch_backward(const Scheme& scheme, const BiasBackward& a, cudaStream_t stream) {
  const dim3 threads(kWarp, kWarpsPerBlock);
  BiasBackwardSplit split{};
  split.row = cut_rows(scheme);
  split.units = split.row.pieces * scheme.rows() * divide_up(a.heads, kHeadsPerWarp);
  launch(bias_backward_kernel<T, Scheme>,
         clamped_grid(divide_up(split.units, kWarpsPerBlock), kBlocksPerMultiprocessor), threads, stream,
         scheme, a, split);
  if (split.row.pieces == 1) return;
  launch(bias_reduce_kernel<T, Scheme>,
         clamped_grid(divide_up(scheme.rows() * a.heads, kWarpsPerBlock), kBlocksPerMultiprocessor), threads,
         stream, scheme, a, split.row);
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
