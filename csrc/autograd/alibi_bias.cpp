// ALiBi is linear in its slopes.
#include "ops/alibi_bias.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor alibi_bias_autograd(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                               c10::SymInt q_offset, bool causal) {
  return linear<&ops::call_alibi_bias_backward>(
      "alibi_bias", slopes,
      [&](const at::Tensor& s) { return ops::call_alibi_bias(s, q_len, k_len, q_offset, causal); }, q_offset,
      causal);
}

at::Tensor& alibi_bias_out_autograd(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                    c10::SymInt q_offset, bool causal, at::Tensor& out) {
  return into(
      "alibi_bias", out,
      [&](at::Tensor& o) { ops::call_alibi_bias_out(slopes, q_len, k_len, q_offset, causal, o); }, slopes);
}

at::Tensor alibi_bias_backward_autograd(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  if (grad.dim() != 3) ops::check_alibi_bias_backward(grad, q_offset);  // the sizes below need its dimensions
  return linear<&ops::call_alibi_bias>(
      "_alibi_bias_backward", grad,
      [&](const at::Tensor& g) { return ops::call_alibi_bias_backward(g, q_offset, causal); },
      grad.sym_size(1), grad.sym_size(2), q_offset, causal);
}

at::Tensor& alibi_slopes_out_autograd(int64_t num_heads, at::Tensor& out) {
  return into("alibi_slopes", out, [&](at::Tensor& o) { ops::call_alibi_slopes_out(num_heads, o); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_autograd));
  m.impl("alibi_bias.out", TORCH_FN(alibi_bias_out_autograd));
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_autograd));
  m.impl("alibi_slopes.out", TORCH_FN(alibi_slopes_out_autograd));
}

}  // namespace posenc_ext::autograd
