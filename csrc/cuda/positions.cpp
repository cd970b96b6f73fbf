// The ops on given positions on CUDA: positions of 32 or 64 bits, and sorted ones.
#include "ops/positions.h"

#include <ATen/ops/sort.h>

#include "cuda/device.h"
#include "cuda/kernels/position_embedding.h"

namespace posenc_ext::cuda {
namespace {

void check_has_rows(const char* op, const at::Tensor& positions, const c10::SymInt& rows) {
  POSENC_CHECK(rows > 0 || positions.numel() == 0, op, "positions must be empty for no rows, got shape ",
               positions.sizes());
}

void fill_add_positions(ops::AddPositions& arguments, const at::Tensor& out) {
  at::Tensor& positions = arguments.positions;
  if (positions.scalar_type() != at::kInt) positions = positions.to(at::kLong);
  launched<add_positions>(arguments, out);
}

// torch sorts the positions; equal ones stay in their order.
void fill_sum_positions(ops::SumPositions& arguments, const at::Tensor& out) {
  const at::Tensor positions = arguments.positions.reshape({-1}).to(at::kLong);
  if (positions.numel() == 0) {
    out.zero_();
    return;
  }
  const auto [sorted, order] = at::sort(positions, /*stable=*/true, /*dim=*/0);
  launched<sum_positions>(SumPositions{ops::fill_args(arguments, out), sorted.const_data_ptr<int64_t>(),
                                       order.const_data_ptr<int64_t>()});
}

}  // namespace

void Cuda::check_values(const ops::AddPositions& arguments) {
  check_has_rows(arguments.op, arguments.positions, arguments.pos_embed.size(0));
}

void Cuda::check_values(const ops::SumPositions& arguments) {
  check_has_rows(arguments.op, arguments.positions, arguments.sizes[0]);
}

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_add_positions", ops::kernel<Cuda, ops::check_add_positions, fill_add_positions>());
  m.impl("add_position_embedding.positions_out",
         ops::out_kernel<Cuda, ops::check_add_positions_out, fill_add_positions>());
  m.impl("_sum_positions", ops::kernel<Cuda, ops::check_sum_positions, fill_sum_positions>());
}

}  // namespace posenc_ext::cuda
