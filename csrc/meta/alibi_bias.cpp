// Result shapes of ALiBi, without data.
#include "ops/alibi_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

at::Tensor alibi_bias_meta(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool /*causal*/) {
  ops::check_alibi_bias(slopes, q_len, k_len, q_offset);
  return at::empty_symint({slopes.sym_size(0), std::move(q_len), std::move(k_len)}, slopes.options());
}

at::Tensor& alibi_bias_out_meta(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                c10::SymInt q_offset, bool /*causal*/, at::Tensor& out) {
  ops::check_alibi_bias_out(slopes, q_len, k_len, q_offset, out);
  return out;
}

at::Tensor alibi_bias_backward_meta(const at::Tensor& grad, c10::SymInt q_offset, bool /*causal*/) {
  ops::check_alibi_bias_backward(grad, q_offset);
  return at::empty_symint({grad.sym_size(0)}, grad.options());
}

at::Tensor& alibi_slopes_out_meta(int64_t num_heads, at::Tensor& out) {
  ops::check_alibi_slopes(num_heads, out.scalar_type());
  ops::resize_alibi_slopes(num_heads, out);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_meta));
  m.impl("alibi_bias.out", TORCH_FN(alibi_bias_out_meta));
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_meta));
  m.impl("alibi_slopes.out", TORCH_FN(alibi_slopes_out_meta));
}

}  // namespace posenc_ext::meta
