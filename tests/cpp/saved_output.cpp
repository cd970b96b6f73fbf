// An op on csrc/autograd/linear.h whose adjoint takes the result: softmax(x * y), differentiable in both.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

variable_list softmax_backward(const at::Tensor& grad, const OutputMask& mask, const Output& result,
                               const at::Tensor& x, const at::Tensor& y) {
  const at::Tensor product = result.tensor * grad;
  const at::Tensor scores = product - result.tensor * product.sum(-1, /*keepdim=*/true);
  variable_list gradients(2);
  if (mask[0]) gradients[0] = scores * y;
  if (mask[1]) gradients[1] = scores * x;
  return gradients;
}

at::Tensor softmax_of_product_cpu(const at::Tensor& x, const at::Tensor& y) { return at::softmax(x * y, -1); }

at::Tensor softmax_of_product(const at::Tensor& x, const at::Tensor& y) {
  return differentiable<&softmax_backward>(
      "softmax_of_product", [&] { return softmax_of_product_cpu(x, y); },
      [&](const at::Tensor& result) {
        const at::Tensor tangent =
            tangent_or_zeros(x) * y._fw_primal(/*level=*/0) + x._fw_primal(/*level=*/0) * tangent_or_zeros(y);
        return result * (tangent - (result * tangent).sum(-1, /*keepdim=*/true));
      },
      [&](auto& node, const at::Tensor& result) { node.save(Output{result}, x, y); }, x, y);
}

}  // namespace

TORCH_LIBRARY(posenc_test, m) { m.def("softmax_of_product(Tensor x, Tensor y) -> Tensor"); }

TORCH_LIBRARY_IMPL(posenc_test, CPU, m) { m.impl("softmax_of_product", TORCH_FN(softmax_of_product_cpu)); }

TORCH_LIBRARY_IMPL(posenc_test, Autograd, m) { m.impl("softmax_of_product", TORCH_FN(softmax_of_product)); }

}  // namespace posenc_ext::autograd
