// ALiBi on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/alibi_bias.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/alibi_bias.h"
#include "ops/bias_args.h"

namespace posenc_ext::cuda {
namespace {

// `out` is contiguous and has the result's shape.
void fill_alibi(const at::Tensor& slopes, int64_t q_offset, bool causal, at::Tensor& out) {
  if (out.numel() == 0) return;
  alibi_forward({out.size(1), out.size(2), q_offset, causal}, ops::bias_forward_args(slopes, out),
                c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor alibi_bias_cuda(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool causal) {
  ops::check_alibi_bias(slopes, q_len, k_len, q_offset);
  const c10::cuda::CUDAGuard guard(slopes.device());
  at::Tensor out = at::empty({slopes.size(0), q_len.expect_int(), k_len.expect_int()}, slopes.options());
  fill_alibi(slopes, q_offset.expect_int(), causal, out);
  return out;
}

at::Tensor& alibi_bias_out_cuda(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                c10::SymInt q_offset, bool causal, at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(slopes.device());
  ops::check_alibi_bias_out(slopes, q_len, k_len, q_offset, out);
  return ops::write_contiguous(
      out, [&](at::Tensor& o) { fill_alibi(slopes, q_offset.expect_int(), causal, o); }, slopes);
}

at::Tensor alibi_bias_backward_cuda(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  ops::check_alibi_bias_backward(grad, q_offset);
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t heads = grad.size(0), queries = grad.size(1), keys = grad.size(2);
  at::Tensor out = at::empty({heads}, grad.options());
  if (grad.numel() == 0) return out.zero_();
  const int64_t pieces = cut(queries * keys).count;
  const at::Tensor partial = at::empty({heads, pieces == 1 ? 0 : pieces}, grad.options().dtype(at::kDouble));
  alibi_backward({queries, keys, q_offset.expect_int(), causal}, ops::bias_backward_args(grad, partial, out),
                 c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

at::Tensor& alibi_slopes_out_cuda(int64_t num_heads, at::Tensor& out) {
  ops::check_alibi_slopes(num_heads, out.scalar_type());
  const c10::cuda::CUDAGuard guard(out.device());
  ops::resize_alibi_slopes(num_heads, out);
  alibi_slopes({ops::to_core(out.scalar_type()), out.mutable_data_ptr(), out.stride(0), num_heads},
               c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_cuda));
  m.impl("alibi_bias.out", TORCH_FN(alibi_bias_out_cuda));
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_cuda));
  m.impl("alibi_slopes.out", TORCH_FN(alibi_slopes_out_cuda));
}

}  // namespace posenc_ext::cuda
