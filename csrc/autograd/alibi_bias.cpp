// ALiBi is linear in its slopes.
#include "ops/alibi_bias.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor alibi_bias_autograd(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                               c10::SymInt q_offset, bool causal) {
  return linear<ops::call_alibi_bias_backward>(
      "alibi_bias", slopes,
      [&](const at::Tensor& s) { return ops::call_alibi_bias(s, q_len, k_len, q_offset, causal); },
      [&](auto& node) { node.save(q_offset, causal); });
}

at::Tensor alibi_bias_backward_autograd(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  return linear<ops::call_alibi_bias>(
      "_alibi_bias_backward", grad,
      [&](const at::Tensor& g) { return ops::call_alibi_bias_backward(g, q_offset, causal); },
      [&](auto& node) { node.save(grad.sym_size(1), grad.sym_size(2), q_offset, causal); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_autograd));
  m.impl("alibi_bias.out", into_kernel<ops::call_alibi_bias_out>());
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_autograd));
  m.impl("alibi_slopes.out", into_kernel<ops::call_alibi_slopes_out>());
}

}  // namespace posenc_ext::autograd
