// The bias of any index is linear in its table.
#include "ops/gather_bias.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor gather_bias_autograd(const at::Tensor& table, const at::Tensor& index) {
  return linear<ops::call_gather_bias_backward>(
      "gather_bias", table, [&](const at::Tensor& t) { return ops::call_gather_bias(t, index); },
      [&](auto& node) { node.save(index, table.sym_size(0)); });
}

at::Tensor gather_bias_backward_autograd(const at::Tensor& grad, const at::Tensor& index,
                                         c10::SymInt num_rows) {
  return linear<ops::call_gather_bias>(
      "_gather_bias_backward", grad,
      [&](const at::Tensor& g) { return ops::call_gather_bias_backward(g, index, num_rows); },
      [&](auto& node) { node.save(index); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("gather_bias", TORCH_FN(gather_bias_autograd));
  m.impl("gather_bias.out", into_kernel<ops::call_gather_bias_out>());
  m.impl("_gather_bias_backward", TORCH_FN(gather_bias_backward_autograd));
}

}  // namespace posenc_ext::autograd
