// Gradients of the ops on given positions: the sum of a table's rows and x is linear in both; the sum over
// the rows at a position and the gather are each other's adjoints.
#include "ops/positions.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

variable_list add_positions_backward(const at::Tensor& grad, const Wanted& wanted,
                                     const at::Tensor& positions, c10::SymInt num_rows, double x_scale,
                                     double dropout_p, const std::optional<at::Tensor>& seed) {
  const bool drops = ops::drops(dropout_p, seed);
  const at::Tensor kept = drops ? ops::call_scale_dropout(grad, 1.0, dropout_p, seed) : grad;
  variable_list gradients(2);
  if (wanted[0]) {
    gradients[0] = x_scale == 1.0 ? kept : ops::call_scale_dropout(kept, x_scale, 0.0, std::nullopt);
  }
  if (wanted[1]) gradients[1] = ops::call_sum_positions(kept, positions, std::move(num_rows));
  return gradients;
}

at::Tensor add_positions_autograd(const at::Tensor& x, const at::Tensor& pos_embed,
                                  const at::Tensor& positions, double x_scale, double dropout_p,
                                  const std::optional<at::Tensor>& seed) {
  if (pos_embed.dim() == 0) {  // the size below needs a dimension
    ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  }
  const auto forward = [&] {
    return ops::call_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  };
  const auto tangent = [&] {
    return ops::call_add_positions(tangent_or_zeros(x), tangent_or_zeros(pos_embed), positions, x_scale,
                                   dropout_p, seed);
  };
  using Backward = LinearBackward<&add_positions_backward>;
  const auto record = [&](Backward& node) {
    node.keep(positions, pos_embed.sym_size(0), x_scale, dropout_p, seed);
  };
  return differentiable_in<Backward>("add_position_embedding", forward, tangent, record, x, pos_embed);
}

at::Tensor& add_positions_out_autograd(const at::Tensor& x, const at::Tensor& pos_embed,
                                       const at::Tensor& positions, double x_scale, double dropout_p,
                                       bool training, at::Tensor& out) {
  return into(
      "add_position_embedding", out,
      [&](at::Tensor& o) {
        ops::call_add_positions_out(x, pos_embed, positions, x_scale, dropout_p, training, o);
      },
      x, pos_embed);
}

// The gather, as a sum with zeros that take no memory.
at::Tensor gather_positions(const at::Tensor& table, const at::Tensor& positions, c10::SymIntArrayRef sizes) {
  const at::Tensor zeros = at::zeros({}, table.options()).expand_symint(sizes);
  return ops::call_add_positions(zeros, table, positions, 1.0, 0.0, std::nullopt);
}

at::Tensor sum_positions_autograd(const at::Tensor& grad, const at::Tensor& positions, c10::SymInt num_rows) {
  return linear<&gather_positions>(
      "_sum_positions", grad,
      [&](const at::Tensor& g) { return ops::call_sum_positions(g, positions, num_rows); }, positions,
      grad.sym_sizes());
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("_add_positions", TORCH_FN(add_positions_autograd));
  m.impl("add_position_embedding.positions_out", TORCH_FN(add_positions_out_autograd));
  m.impl("_sum_positions", TORCH_FN(sum_positions_autograd));
}

}  // namespace posenc_ext::autograd
