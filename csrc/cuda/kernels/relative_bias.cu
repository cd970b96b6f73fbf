// Launches of the relative-position bias kernels, for every scheme.
#include "cuda/kernels/relative_bias.cuh"

namespace posenc_ext::cuda {
namespace {

template <class T, class Scheme>
void launch_backward(const Scheme& scheme, const BiasBackward& a, cudaStream_t stream) {
  const GradTerms<T> terms{static_cast<const T*>(a.grad), a.head_stride, a.query_stride, a.key_stride};
  launch_row_sums(scheme, terms, {/*batch=*/1, a.heads, a.partial, a.out, /*row_stride=*/a.heads, 1}, stream);
}

template <class Scheme>
void bias_forward(const Scheme& scheme, const BiasForward& a, cudaStream_t stream) {
  const int64_t plane = scheme.queries() * scheme.keys();
  const PlaneWalk walk = make_plane_walk(scheme.keys(), kPlaneTile);
  auto device = make_device_scheme(scheme);
  POSENC_DISPATCH_BITS(
      a.dtype, const SchemeSource<bits_t, decltype(device)> source(
                   {{static_cast<const bits_t*>(a.table), a.row_stride, a.head_stride}, device, walk});
      launch_forward<bits_t>(source, 1, a.heads, plane, a.head_stride < a.row_stride, a.out, stream))
}

template <class Scheme>
void bias_backward(const Scheme& scheme, const BiasBackward& a, cudaStream_t stream) {
  POSENC_DISPATCH_DTYPE(a.dtype, launch_backward<scalar_t>(scheme, a, stream))
}

template <class... All>
constexpr SchemeTable<BiasKernels> bias_kernels(SchemeList<All...>) {
  return {BiasKernels<All>{bias_forward<All>, bias_backward<All>}...};
}

}  // namespace

const core::SchemeTable<BiasKernels> kBiasKernels = bias_kernels(core::Schemes());

}  // namespace posenc_ext::cuda
