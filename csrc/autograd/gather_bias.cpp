// The bias of any index is linear in its table.
#include "ops/gather_bias.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor gather_bias_autograd(const at::Tensor& table, const at::Tensor& index) {
  if (table.dim() == 0) ops::check_gather_bias(table, index);  // the size below needs a dimension
  return linear<&ops::call_gather_bias_backward>(
      "gather_bias", table, [&](const at::Tensor& t) { return ops::call_gather_bias(t, index); }, index,
      table.sym_size(0));
}

at::Tensor& gather_bias_out_autograd(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  return into("gather_bias", out, [&](at::Tensor& o) { ops::call_gather_bias_out(table, index, o); }, table);
}

at::Tensor gather_bias_backward_autograd(const at::Tensor& grad, const at::Tensor& index,
                                         c10::SymInt num_rows) {
  return linear<&ops::call_gather_bias>(
      "_gather_bias_backward", grad,
      [&](const at::Tensor& g) { return ops::call_gather_bias_backward(g, index, num_rows); }, index);
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("gather_bias", TORCH_FN(gather_bias_autograd));
  m.impl("gather_bias.out", TORCH_FN(gather_bias_out_autograd));
  m.impl("_gather_bias_backward", TORCH_FN(gather_bias_backward_autograd));
}

}  // namespace posenc_ext::autograd
