// Result shapes of the ops on given positions, without data.
#include "ops/positions.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

at::Tensor add_positions_meta(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions,
                              double x_scale, double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  return at::empty_symint(x.sym_sizes(), x.options());
}

at::Tensor& add_positions_out_meta(const at::Tensor& x, const at::Tensor& pos_embed,
                                   const at::Tensor& positions, double x_scale, double dropout_p,
                                   bool /*training*/, at::Tensor& out) {
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, std::nullopt);
  ops::resize_out_like("add_position_embedding", "x", x, x.sym_sizes(), out);
  return out;
}

at::Tensor sum_positions_meta(const at::Tensor& grad, const at::Tensor& positions, c10::SymInt num_rows) {
  ops::check_sum_positions(grad, positions, num_rows);
  return at::empty_symint({std::move(num_rows), grad.sym_size(-1)}, grad.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("_add_positions", TORCH_FN(add_positions_meta));
  m.impl("add_position_embedding.positions_out", TORCH_FN(add_positions_out_meta));
  m.impl("_sum_positions", TORCH_FN(sum_positions_meta));
}

}  // namespace posenc_ext::meta
