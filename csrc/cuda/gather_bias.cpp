// The bias of any index on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/gather_bias.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "cuda/device.h"
#include "ops/bias_args.h"
#include "ops/gather_bias.h"

namespace posenc_ext::cuda {
namespace {

void check_rows(const char* op, const at::Tensor& index, const c10::SymInt& rows) {
  POSENC_CHECK(rows > 0 || index.numel() == 0, op, "index must be empty for a table without rows, got shape ",
               index.sizes());
}

void gather(ops::GatherBias& arguments, const at::Tensor& out) {
  const at::Tensor index = ops::collapsible(arguments.index, arguments.index.dim());
  launched<gather_forward>(ops::gather_forward_args(arguments.table, ops::index_args(index), out));
}

// Nothing is sorted but, by each block in shared memory, the places of a tile by their rows. The sums of the
// chunks of the index take rows x heads of the accumulator's type each: all together no more than the
// gradient has elements, or one chunk.
void gather_backward_of(ops::GatherBiasBackward& arguments, const at::Tensor& out) {
  const at::Tensor& grad = arguments.grad;
  if (grad.numel() == 0) return void(out.zero_());
  const int64_t rows = out.size(0), heads = out.size(1), count = arguments.index.numel();
  POSENC_CHECK(count <= std::numeric_limits<int32_t>::max(), arguments.op,
               "index must have fewer than 2**31 values on CUDA, got ", count);
  const at::Tensor index = ops::collapsible(arguments.index, arguments.index.dim());
  const at::Tensor partial = at::empty({split_index(count, rows).count, rows, heads},
                                       grad.options().dtype(ops::sum_type(grad.scalar_type())));
  at::Tensor storage;
  launched<gather_backward>(ops::gather_backward_args(grad, ops::index_args(index), partial, out, storage));
}

}  // namespace

void Cuda::check_values(const ops::GatherBias& arguments) {
  check_rows(arguments.op, arguments.index, arguments.table.size(0));
}

void Cuda::check_values(const ops::GatherBiasBackward& arguments) {
  check_rows(arguments.op, arguments.index, arguments.sizes[0]);
}

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("gather_bias", ops::kernel<Cuda, ops::check_gather_bias, gather>());
  m.impl("gather_bias.out", ops::out_kernel<Cuda, ops::check_gather_bias_out, gather>());
  m.impl("_gather_bias_backward", ops::kernel<Cuda, ops::check_gather_bias_backward, gather_backward_of>());
}

}  // namespace posenc_ext::cuda
