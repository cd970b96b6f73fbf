#include "ops/positions.h"

#include <torch/library.h>

#include "ops/position_embedding.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// Whether the last dimensions of `shape` are those of `from`, or where `from` has ones.
bool broadcasts(c10::SymIntArrayRef from, c10::SymIntArrayRef shape) {
  if (from.size() > shape.size()) return false;
  shape = shape.slice(shape.size() - from.size());
  for (size_t d = 0; d < from.size(); ++d) {
    if (from[d] != 1 && from[d] != shape[d]) return false;
  }
  return true;
}

}  // namespace

void check_positions(const char* op, const at::Tensor& positions, const at::Tensor& x) {
  const c10::SymIntArrayRef rows = x.sym_sizes().slice(0, x.dim() - 1);
  POSENC_CHECK(at::isIntegralType(positions.scalar_type(), /*includeBool=*/false) &&
                   broadcasts(positions.sym_sizes(), rows),
               op, "positions must be an integer tensor that broadcasts to shape ", rows,
               " (one position per row), got ", positions.scalar_type(), " ", positions.sym_sizes());
  POSENC_CHECK(positions.device() == x.device(), op, "positions must be on the same device as the rows (",
               x.device(), "), got ", positions.device());
}

at::Tensor one_per_row(const at::Tensor& positions, const at::Tensor& x) {
  return positions.expand_symint(x.sym_sizes().slice(0, x.dim() - 1));
}

void check_exact(const char* op, const c10::SymInt& start, const c10::SymInt& length) {
  if (start.is_symbolic() || length.is_symbolic()) return;
  const int64_t first = start.expect_int(), steps = core::max_of<int64_t>(length.expect_int(), 1) - 1;
  const bool is_exact = first > -kInexact && first < kInexact;
  POSENC_CHECK(is_exact && steps < kInexact && first + steps < kInexact, op,
               "positions must be below 2**53 in magnitude, got ", is_exact ? first + steps : first);
}

args::Positions fill_positions(const at::Tensor& positions) {
  return {positions.const_data_ptr(), *to_position_type(positions.scalar_type()),
          to_strided(positions, positions.dim()), 0};
}

AddPositions check_add_positions(const at::Tensor& x, const at::Tensor& pos_embed,
                                 const at::Tensor& positions, double x_scale, double dropout_p,
                                 const std::optional<at::Tensor>& seed) {
  const char* op = "add_position_embedding";
  POSENC_CHECK(x.dim() >= 1, op, "with positions x must have at least 1 dimension [..., D], got ", x.dim());
  check_dtype(op, "x", x.scalar_type());
  check_like_x(pos_embed, "pos_embed", x);
  POSENC_CHECK(pos_embed.dim() == 2 && pos_embed.sym_size(1) == x.sym_size(-1), op,
               "with positions pos_embed must have shape [rows, ", x.sym_size(-1), "], got ",
               pos_embed.sym_sizes());
  check_positions(op, positions, x);
  check_finite(op, "x_scale", x_scale);
  const at::Tensor per_row = one_per_row(positions, x);
  const AddPositions arguments{
      {{op, sizes_of(x), x.options()}, x, x_scale, dropout_p, seed}, pos_embed, per_row};
  check_dropout(arguments);
  return arguments;
}

AddPositions check_add_positions_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                     const at::Tensor& positions, double x_scale, double dropout_p,
                                     bool training, at::Tensor& out) {
  AddPositions arguments = check_add_positions(x, pos_embed, positions, x_scale, dropout_p, std::nullopt);
  check_out_like(arguments.op, "x", x, out);
  arguments.inputs = {{"x", x}, {"pos_embed", pos_embed}, {"positions", positions}};
  arguments.training = training;
  return arguments;
}

args::AddPositions fill_args(AddPositions& arguments, const at::Tensor& out) {
  auto [x, pos_embed, positions] = std::tie(arguments.x, arguments.pos_embed, arguments.positions);
  const int64_t row_dims = x.dim() - 1;
  x = collapsible(x, row_dims);
  positions = collapsible(positions, row_dims);
  return {to_core(x.scalar_type()),   positions.numel(),          pos_embed.size(0),   x.size(-1),
          x.const_data_ptr(),         to_strided(x, row_dims),    x.stride(-1),        arguments.x_scale,
          fill_positions(positions),  pos_embed.const_data_ptr(), pos_embed.stride(0), pos_embed.stride(1),
          arguments.seeded_dropout(), out.mutable_data_ptr()};
}

SumPositions check_sum_positions(const at::Tensor& grad, const at::Tensor& positions, c10::SymInt num_rows) {
  const char* op = "_sum_positions";
  POSENC_CHECK(grad.dim() >= 1, op, "grad must have at least 1 dimension [..., D], got ", grad.dim());
  check_dtype(op, "grad", grad.scalar_type());
  check_positions(op, positions, grad);
  POSENC_CHECK(num_rows >= 0, op, "num_rows must be non-negative, got ", num_rows);
  const at::Tensor per_row = one_per_row(positions, grad);
  return {{op, {std::move(num_rows), grad.sym_size(-1)}, grad.options()}, grad, per_row};
}

args::SumPositions fill_args(SumPositions& arguments, const at::Tensor& out) {
  at::Tensor& grad = arguments.grad;
  const int64_t row_dims = grad.dim() - 1;
  grad = collapsible(grad, row_dims);
  return {to_core(grad.scalar_type()), arguments.positions.numel(), out.size(0),     out.size(1),
          grad.const_data_ptr(),       to_strided(grad, row_dims),  grad.stride(-1), out.mutable_data_ptr()};
}

namespace {

// The public op: runs before autograd and is traced through.
at::Tensor add_position_embedding_at(const at::Tensor& x, const at::Tensor& pos_embed,
                                     const at::Tensor& positions, double x_scale, double dropout_p,
                                     bool training) {
  const auto seed = draw_seed(x, dropout_p, training);
  const auto type = promoted_dtype(x, pos_embed, {});
  return call_add_positions(type.has_value() ? x.to(*type) : x,
                            type.has_value() ? pos_embed.to(*type) : pos_embed, positions, x_scale, dropout_p,
                            seed);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  m.impl("add_position_embedding.positions", TORCH_FN(add_position_embedding_at));
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("_add_positions", kernel<Meta, check_add_positions>());
  m.impl("add_position_embedding.positions_out", out_kernel<Meta, check_add_positions_out>());
  m.impl("_sum_positions", kernel<Meta, check_sum_positions>());
}

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor add_position_embedding_at(const at::Tensor& x, const at::Tensor& pos_embed,
                                     const at::Tensor& positions, double x_scale, double dropout_p,
                                     bool training) {
  return ops::add_position_embedding_at(x, pos_embed, positions, x_scale, dropout_p, training);
}

}  // namespace posenc_ext
