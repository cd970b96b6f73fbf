// softmax(scores * scale + bias + mask) on CUDA: from tensors to pointers, device guard, stream.
#include "ops/bias_softmax.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "cuda/device.h"
#include "cuda/kernels/bias_softmax.h"
#include "ops/bias_args.h"

namespace posenc_ext::cuda {
namespace {

// What kernels count in 32 bits.
template <class Scheme>
void check_softmax_counts(const char* op, const Scheme& scheme, const at::Tensor& scores) {
  POSENC_CHECK(scheme.keys() <= std::numeric_limits<int32_t>::max(), op,
               "scores must have fewer than 2**31 keys on CUDA, got shape ", scores.sizes());
  POSENC_CHECK(scheme.rows() > 0, op, "index must be empty for a table without rows, got shape ",
               scores.sizes().slice(scores.dim() - 2));
  if constexpr (std::is_same_v<Scheme, core::WindowScheme>) {
    POSENC_CHECK(core::make_device_scheme(scheme).slots_fit, op,
                 "scores must have fewer than 2**32 queries and keys on CUDA, got shape ", scores.sizes());
  }
}

struct FillSoftmax {
  template <class Op, class... Args>
  void operator()(ops::BiasSoftmax<Op, Args...>& arguments, const at::Tensor& out) const {
    const auto scheme = arguments.scheme();
    check_softmax_counts(arguments.op, scheme, out);
    std::vector<at::Tensor> storage;
    BiasSoftmax a = ops::softmax_args(out.sizes(), out.scalar_type(), arguments.table, Op::kHeadsFirst,
                                      arguments.softmax, storage);
    const at::Tensor scores = arguments.scores.contiguous();
    a.scores = scores.const_data_ptr();
    a.out = out.mutable_data_ptr();
    kSoftmaxKernels[scheme].forward(scheme, a, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

struct FillSoftmaxBackward {
  template <class Op, class... Args>
  void operator()(ops::BiasSoftmaxBackward<Op, Args...>& arguments, const at::Tensor& grad_scores,
                  const at::Tensor& grad_table) const {
    if (grad_scores.numel() == 0) return void(grad_table.zero_());
    const auto scheme = arguments.scheme();
    check_softmax_counts(arguments.op, scheme, grad_scores);
    const int64_t heads = grad_scores.size(-3), lines = grad_scores.numel() / scheme.keys();
    const int64_t batch = lines / (heads * scheme.queries());
    constexpr bool kGathered = std::is_same_v<typename Op::Scheme, IndexScheme>;
    if constexpr (kGathered) {
      POSENC_CHECK(batch * scheme.queries() * scheme.keys() <= std::numeric_limits<int32_t>::max(),
                   arguments.op, "grad must have fewer than 2**31 elements of a head on CUDA, got shape ",
                   grad_scores.sizes());
    }
    const int64_t chunks = split_table(scheme, batch).count;
    const at::Tensor partial =
        at::empty({chunks > 1 || kGathered ? chunks * grad_table.numel() : 0}, grad_table.options());
    const at::Tensor dots = at::empty({lines}, grad_table.options());
    std::vector<at::Tensor> storage;
    BiasSoftmaxBackward a =
        ops::softmax_backward_args(arguments.grad, arguments.result, Op::kHeadsFirst, arguments.scale,
                                   grad_scores, partial, grad_table, storage);
    a.dots = dots.mutable_data_ptr();
    kSoftmaxKernels[scheme].backward(scheme, a, c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  ops::register_bias_softmax_ops<ops::BiasSoftmaxOn<Cuda, FillSoftmax{}, FillSoftmaxBackward{}>::Kernels>(m);
}

}  // namespace posenc_ext::cuda
