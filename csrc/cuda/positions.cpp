// The ops on given positions on CUDA: from tensors to pointers, device guard, stream.
#include "ops/positions.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/dropout.h"
#include "cuda/kernels/position_embedding.h"

namespace posenc_ext::cuda {
namespace {

// Whether positions are rows is looked at where they are read: an error here would have to wait for the
// device.
void check_has_rows(const char* op, const at::Tensor& positions, int64_t rows) {
  POSENC_CHECK(rows > 0 || positions.numel() == 0, op, "positions must be empty for no rows, got shape ",
               positions.sizes());
}

// Writes the checked sum into `out`, which is contiguous and apart from the inputs.
void add_into(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& given, double x_scale,
              double dropout_p, const std::optional<at::Tensor>& seed, at::Tensor& out) {
  const int64_t row_dims = x.dim() - 1;
  const at::Tensor positions = ops::one_per_row(given, x);
  check_has_rows("add_position_embedding", positions, pos_embed.size(0));
  if (out.numel() == 0) return;
  const at::Tensor few_x = ops::with_few_dims(x, row_dims);
  const at::Tensor whole = positions.scalar_type() == at::kInt ? positions : positions.to(at::kLong);
  const at::Tensor few = ops::with_few_dims(whole, row_dims);
  const AddPositions a{ops::to_core(x.scalar_type()),
                       positions.numel(),
                       pos_embed.size(0),
                       x.size(-1),
                       few_x.const_data_ptr(),
                       ops::to_strided(few_x, row_dims),
                       few_x.stride(-1),
                       x_scale,
                       few.const_data_ptr(),
                       few.scalar_type() == at::kLong,
                       ops::to_strided(few, row_dims),
                       pos_embed.const_data_ptr(),
                       pos_embed.stride(0),
                       pos_embed.stride(1),
                       seeded(dropout_p, seed),
                       out.mutable_data_ptr()};
  add_positions(a, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor add_positions_cuda(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions,
                              double x_scale, double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty(x.sizes(), x.options());
  add_into(x, pos_embed, positions, x_scale, dropout_p, seed, out);
  return out;
}

at::Tensor& add_positions_out_cuda(const at::Tensor& x, const at::Tensor& pos_embed,
                                   const at::Tensor& positions, double x_scale, double dropout_p,
                                   bool training, at::Tensor& out) {
  const char* op = "add_position_embedding";
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, std::nullopt);
  const c10::cuda::CUDAGuard guard(x.device());
  ops::resize_out_like(op, "x", x, x.sym_sizes(), out);
  bool direct = out.is_contiguous();
  const auto check = [&](const char* argument, const at::Tensor& input) {
    direct = ops::check_apart(op, argument, input, out) == ops::Overlap::apart && direct;
  };
  check("x", x);
  check("pos_embed", pos_embed);
  check("positions", positions);
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : at::empty(x.sizes(), x.options());
  add_into(x, pos_embed, positions, x_scale, dropout_p, seed, result);
  if (!direct) out.copy_(result);
  return out;
}

// The positions are sorted by torch; equal ones stay in their order.
at::Tensor sum_positions_cuda(const at::Tensor& grad, const at::Tensor& given, c10::SymInt num_rows) {
  const char* op = "_sum_positions";
  ops::check_sum_positions(grad, given, num_rows);
  const int64_t rows = num_rows.expect_int(), row_dims = grad.dim() - 1;
  const at::Tensor positions = ops::one_per_row(given, grad);
  check_has_rows(op, positions, rows);
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor out = at::empty({rows, grad.size(-1)}, grad.options());
  if (grad.numel() == 0 || rows == 0) return out.zero_();
  const auto [sorted, order] = at::sort(positions.reshape({-1}).to(at::kLong), /*stable=*/true, /*dim=*/0);
  const at::Tensor few = ops::with_few_dims(grad, row_dims);
  const SumPositions a{ops::to_core(grad.scalar_type()),
                       rows,
                       grad.size(-1),
                       positions.numel(),
                       sorted.const_data_ptr<int64_t>(),
                       order.const_data_ptr<int64_t>(),
                       few.const_data_ptr(),
                       ops::to_strided(few, row_dims),
                       few.stride(-1),
                       out.mutable_data_ptr()};
  sum_positions(a, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_add_positions", TORCH_FN(add_positions_cuda));
  m.impl("add_position_embedding.positions_out", TORCH_FN(add_positions_out_cuda));
  m.impl("_sum_positions", TORCH_FN(sum_positions_cuda));
}

}  // namespace posenc_ext::cuda
