// The bias of any index on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/gather_bias.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

#include "ops/bias_args.h"
#include "ops/gather_bias.h"

namespace posenc_ext::cuda {
namespace {

// Other values of the index are looked at where they are read: an error here would have to wait for the
// device.
void check_rows(const char* op, const at::Tensor& index, int64_t rows) {
  POSENC_CHECK(rows > 0 || index.numel() == 0, op, "index must be empty for a table without rows, got shape ",
               index.sizes());
}

// `out` is contiguous and has the result's shape.
void gather(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  check_rows("gather_bias", index, table.size(0));
  if (out.numel() == 0) return;
  const at::Tensor few = ops::collapsible(index, index.dim());
  gather_forward(ops::gather_forward_args(table, ops::index_args(few), out),
                 c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor gather_bias_cuda(const at::Tensor& table, const at::Tensor& index) {
  ops::check_gather_bias(table, index);
  const c10::cuda::CUDAGuard guard(table.device());
  c10::DimVector sizes(index.sizes().begin(), index.sizes().end());
  sizes.insert(sizes.end() - 2, table.size(1));
  at::Tensor out = at::empty(sizes, table.options());
  gather(table, index, out);
  return out;
}

at::Tensor& gather_bias_out_cuda(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(table.device());
  ops::check_gather_bias_out(table, index, out);
  return ops::write_contiguous(out, [&](at::Tensor& o) { gather(table, index, o); }, table, index);
}

// Nothing is sorted but, by each block in shared memory, the places of a tile by their rows. The sums of the
// pieces of the index take rows x heads of the accumulator's type each: all together no more than the
// gradient has elements, or one piece.
at::Tensor gather_bias_backward_cuda(const at::Tensor& grad, const at::Tensor& index, c10::SymInt num_rows) {
  const char* op = "_gather_bias_backward";
  ops::check_gather_bias_backward(grad, index, num_rows);
  const int64_t rows = num_rows.expect_int(), heads = grad.size(-3), count = index.numel();
  check_rows(op, index, rows);
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor out = at::empty({rows, heads}, grad.options());
  if (grad.numel() == 0) return out.zero_();
  POSENC_CHECK(count <= std::numeric_limits<int32_t>::max(), op,
               "index must have fewer than 2**31 values on CUDA, got ", count);
  const at::Tensor few = ops::collapsible(index, index.dim());
  const at::Tensor partial = at::empty({cut_index(count, rows).count, rows, heads},
                                       grad.options().dtype(ops::sum_type(grad.scalar_type())));
  at::Tensor storage;
  gather_backward(ops::gather_backward_args(grad, ops::index_args(few), partial, out, storage),
                  c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("gather_bias", TORCH_FN(gather_bias_cuda));
  m.impl("gather_bias.out", TORCH_FN(gather_bias_out_cuda));
  m.impl("_gather_bias_backward", TORCH_FN(gather_bias_backward_cuda));
}

}  // namespace posenc_ext::cuda
