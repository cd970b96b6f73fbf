// The relative-position biases on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/relative_bias.h"

#include <ATen/ops/empty.h>

#include "cuda/device.h"
#include "ops/bias_args.h"
#include "ops/relative_bias.h"

namespace posenc_ext::cuda {
namespace {

struct Fill {
  template <class Arguments>
  void operator()(Arguments& arguments, const at::Tensor& out) const {
    const auto scheme = arguments.scheme();
    kBiasKernels[scheme].forward(scheme, ops::bias_forward_args(arguments.table, out),
                                 c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

struct FillBackward {
  template <class Arguments>
  void operator()(Arguments& arguments, const at::Tensor& out) const {
    const at::Tensor& grad = arguments.grad;
    if (grad.numel() == 0) return void(out.zero_());
    const auto scheme = arguments.scheme();
    POSENC_CHECK(core::make_device_scheme(scheme).slots_fit, arguments.op,
                 "grad must have fewer than 2**32 queries and keys on CUDA, got shape ", grad.sizes());
    const int64_t chunks = split_rows(scheme).count;
    const at::Tensor partial = at::empty({chunks == 1 ? 0 : out.numel() * chunks},
                                         grad.options().dtype(ops::sum_type(grad.scalar_type())));
    kBiasKernels[scheme].backward(scheme, ops::bias_backward_args(grad, partial, out),
                                  c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  ops::register_bias_ops<ops::BiasOn<Cuda, Fill{}, FillBackward{}>::Kernels>(m);
}

}  // namespace posenc_ext::cuda
