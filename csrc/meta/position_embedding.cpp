// Result shapes of the position-embedding ops, without data.
#include "ops/position_embedding.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

at::Tensor add_position_embedding_meta(const at::Tensor& x, const at::Tensor& pos_embed,
                                       at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                       bool batch_first, double dropout_p,
                                       const std::optional<at::Tensor>& seed) {
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, seed);
  return at::empty_symint(shape.sizes(), x.options());
}

at::Tensor& add_position_embedding_out_meta(const at::Tensor& x, const at::Tensor& pos_embed,
                                            at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                            bool batch_first, double dropout_p, bool /*training*/,
                                            at::Tensor& out) {
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, std::nullopt);
  ops::resize_out_like("add_position_embedding", "x", x, shape.sizes(), out);
  return out;
}

at::Tensor sum_batch_meta(const at::Tensor& grad, bool batch_first) {
  return at::empty_symint(ops::check_sum_batch(grad, batch_first), grad.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_meta));
  m.impl("add_position_embedding.out", TORCH_FN(add_position_embedding_out_meta));
  m.impl("_sum_batch", TORCH_FN(sum_batch_meta));
}

}  // namespace posenc_ext::meta
