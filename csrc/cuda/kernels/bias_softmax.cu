// Launches of the kernels of softmax with a bias, for every scheme.
#include "cuda/kernels/bias_softmax.cuh"

namespace posenc_ext::cuda {
namespace {

// Tiles of up to 8 rows a warp, to stage a head's values once for many; of fewer where these would not occupy
// the device. No sum is cut here.
SoftmaxSplit split_rows(const BiasSoftmax& a, int64_t queries) {
  const int64_t rows = a.batch * queries;
  const int64_t warps = clamped_grid(a.bias.heads * rows, kBlocksPerMultiprocessor) * kWarpsPerBlock;
  const int64_t own = max_of<int64_t>(1, min_of<int64_t>(8, a.bias.heads * rows / warps));
  const int64_t tile_rows = own * kWarpsPerBlock;
  return {tile_rows, divide_up(rows, tile_rows), make_divide(queries, rows),
          make_divide(a.mask.windows, a.batch)};
}

template <class T, class Scheme>
void launch_softmax(const Scheme& scheme, const BiasSoftmax& a, cudaStream_t stream) {
  const SoftmaxSplit split = split_rows(a, scheme.queries());
  auto device = make_device_scheme(scheme);
  launch(bias_softmax_kernel<T, decltype(device)>,
         clamped_grid(a.bias.heads * split.tiles, kBlocksPerMultiprocessor), dim3(kWarp, kWarpsPerBlock),
         stream, device, a, split);
}

template <class Scheme>
void bias_softmax(const Scheme& scheme, const BiasSoftmax& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_softmax<scalar_t>(scheme, a, stream))
}

template <class T, class Scheme>
void launch_table(const Scheme& scheme, const BiasSoftmaxBackward& a, const SoftmaxTerms<T>& terms,
                  cudaStream_t stream) {
  launch_row_sums(scheme, terms, {a.batch, a.heads, a.partial, a.grad_table, a.row_stride, a.head_stride},
                  stream);
}

template <class T>
void launch_table(const IndexScheme& scheme, const BiasSoftmaxBackward& a, const SoftmaxTerms<T>& terms,
                  cudaStream_t stream) {
  GatherBackward sums{};
  sums.index = scheme.index;  // the same for each sample
  sums.index.samples = a.batch;
  core::Strided& at = sums.index.at;
  at.dims = scheme.index.at.dims + 1;
  at.size[0] = a.batch;
  at.stride[0] = 0;
  for (int d = 1; d < at.dims; ++d) {
    at.size[d] = scheme.index.at.size[d - 1];
    at.stride[d] = scheme.index.at.stride[d - 1];
  }
  sums.rows = scheme.rows();
  sums.heads = a.heads;
  sums.partial = a.partial;
  sums.out = a.grad_table;
  launch_place_sums<accumulator_t<T>>(
      sums,
      SoftmaxPlaces<T>{terms, make_fast_divide(static_cast<uint32_t>(scheme.keys())),
                       make_fast_divide(static_cast<uint32_t>(scheme.queries()))},
      stream);
}

template <class T>
void launch_table(const PairScheme& scheme, const BiasSoftmaxBackward& a, const SoftmaxTerms<T>& terms,
                  cudaStream_t stream) {
  using Sum = accumulator_t<T>;
  const Chunks chunks = split_table(scheme, a.batch);
  const int64_t count = a.heads * scheme.rows();
  launch(pair_backward_kernel<T>,
         clamped_grid(divide_up(count * chunks.count, kThreads), kBlocksPerMultiprocessor), dim3(kThreads),
         stream, terms, a.batch, static_cast<Sum*>(chunks.count == 1 ? a.grad_table : a.partial), chunks);
  if (chunks.count == 1) return;
  GatherBackward sums{};
  sums.rows = scheme.rows();
  sums.heads = a.heads;
  sums.partial = a.partial;
  sums.out = a.grad_table;
  launch(gather_reduce_kernel<Sum>, clamped_grid(divide_up(count, kWarp), kBlocksPerMultiprocessor),
         dim3(kWarp, kWarpsPerBlock), stream, sums, chunks);
}

template <class T, class Scheme>
void launch_softmax_backward(const Scheme& scheme, const BiasSoftmaxBackward& a, cudaStream_t stream) {
  const int64_t rows = a.batch * a.heads * scheme.queries();
  launch_warps(softmax_backward_kernel<T>, rows, stream, a, rows, static_cast<int>(scheme.keys()));
  if (a.grad_table == nullptr) return;
  const SoftmaxTerms<T> terms{static_cast<const T*>(a.grad),
                              static_cast<const T*>(a.result),
                              static_cast<const accumulator_t<T>*>(a.dots),
                              a.heads,
                              scheme.queries(),
                              scheme.keys()};
  launch_table<T>(scheme, a, terms, stream);
}

template <class Scheme>
void softmax_backward(const Scheme& scheme, const BiasSoftmaxBackward& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_softmax_backward<scalar_t>(scheme, a, stream))
}

template <class... All>
constexpr SchemeTable<SoftmaxKernels, SoftmaxSchemes> softmax_kernels(SchemeList<All...>) {
  return {SoftmaxKernels<All>{bias_softmax<All>, softmax_backward<All>}...};
}

}  // namespace

const core::SchemeTable<SoftmaxKernels, SoftmaxSchemes> kSoftmaxKernels = softmax_kernels(SoftmaxSchemes());

}  // namespace posenc_ext::cuda
