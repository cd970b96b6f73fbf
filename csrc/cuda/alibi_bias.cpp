// ALiBi on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/alibi_bias.h"

#include <ATen/ops/empty.h>

#include "cuda/device.h"
#include "ops/alibi_bias.h"
#include "ops/bias_args.h"

namespace posenc_ext::cuda {
namespace {

void fill_alibi(ops::AlibiBias& arguments, const at::Tensor& out) {
  const core::AlibiScheme scheme{out.size(1), out.size(2), arguments.q_offset.expect_int(), arguments.causal};
  launched<alibi_forward>(scheme, ops::bias_forward_args(arguments.slopes, out));
}

void fill_alibi_backward(ops::AlibiBiasBackward& arguments, const at::Tensor& out) {
  const at::Tensor& grad = arguments.grad;
  if (grad.numel() == 0) return void(out.zero_());
  const int64_t heads = grad.size(0), queries = grad.size(1), keys = grad.size(2);
  const int64_t chunks = split(queries * keys).count;
  const at::Tensor partial = at::empty({heads, chunks == 1 ? 0 : chunks}, grad.options().dtype(at::kDouble));
  const core::AlibiScheme scheme{queries, keys, arguments.q_offset.expect_int(), arguments.causal};
  launched<alibi_backward>(scheme, ops::bias_backward_args(grad, partial, out));
}

void fill_slopes(ops::AlibiSlopes&, const at::Tensor& out) {
  launched<alibi_slopes>(
      AlibiSlopes{ops::to_core(out.scalar_type()), out.mutable_data_ptr(), out.stride(0), out.size(0)});
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("alibi_bias", ops::kernel<Cuda, ops::check_alibi_bias, fill_alibi>());
  m.impl("alibi_bias.out", ops::out_kernel<Cuda, ops::check_alibi_bias_out, fill_alibi>());
  m.impl("_alibi_bias_backward", ops::kernel<Cuda, ops::check_alibi_bias_backward, fill_alibi_backward>());
  m.impl("alibi_slopes.out", ops::out_kernel<Cuda, ops::check_alibi_slopes, fill_slopes>());
}

}  // namespace posenc_ext::cuda
