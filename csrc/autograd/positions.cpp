// Gradients of the ops on given positions: the sum of a table's rows and x is linear in both; the sum over
// the rows at a position and the gather are each other's adjoints.
#include "ops/positions.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

variable_list add_positions_backward(const at::Tensor& grad, const OutputMask& mask,
                                     const at::Tensor& positions, c10::SymInt num_rows, double x_scale,
                                     double dropout_p, const std::optional<at::Tensor>& seed) {
  const bool drops = ops::drops(dropout_p, seed);
  const at::Tensor retained = drops ? ops::call_scale_dropout(grad, 1.0, dropout_p, seed) : grad;
  variable_list gradients(2);
  if (mask[0]) {
    gradients[0] = x_scale == 1.0 ? retained : ops::call_scale_dropout(retained, x_scale, 0.0, std::nullopt);
  }
  if (mask[1]) gradients[1] = ops::call_sum_positions(retained, positions, std::move(num_rows));
  return gradients;
}

at::Tensor add_positions_autograd(const at::Tensor& x, const at::Tensor& pos_embed,
                                  const at::Tensor& positions, double x_scale, double dropout_p,
                                  const std::optional<at::Tensor>& seed) {
  const auto add = [&](const at::Tensor& x, const at::Tensor& pos_embed) {
    return ops::call_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  };
  return differentiable<&add_positions_backward>(
      "add_position_embedding", [&] { return add(x, pos_embed); },
      [&](const at::Tensor&) { return add(tangent_or_zeros(x), tangent_or_zeros(pos_embed)); },
      [&](auto& node, const at::Tensor&) {
        node.save(positions, pos_embed.sym_size(0), x_scale, dropout_p, seed);
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
      [&](const at::Tensor& g) { return ops::call_sum_positions(g, positions, num_rows); },
      [&](auto& node) { node.save(positions, grad.sym_sizes()); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("_add_positions", TORCH_FN(add_positions_autograd));
  m.impl("add_position_embedding.positions_out", into_kernel<ops::call_add_positions_out>());
  m.impl("_sum_positions", TORCH_FN(sum_positions_autograd));
}

}  // namespace posenc_ext::autograd
