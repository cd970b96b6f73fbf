// ALiBi on the CPU: from tensors to pointers, and threads.
#include "cpu/kernels/kernels.h"

#include <ATen/ops/empty.h>

#include "cpu/device.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "ops/alibi_bias.h"
#include "ops/bias_args.h"

namespace posenc_ext::cpu {
namespace {

void fill_alibi(ops::AlibiBias& arguments, const at::Tensor& out) {
  const core::AlibiScheme scheme{out.size(1), out.size(2), arguments.q_offset.expect_int(), arguments.causal};
  const BiasForward a = ops::bias_forward_args(arguments.slopes, out);
  const bool non_temporal = wants_non_temporal_stores(out, kBiasShare);
  parallel_for(a.heads * scheme.queries(), scheme.keys(), [&](int64_t begin, int64_t end) {
    kernels().alibi_forward(scheme, a, non_temporal, begin, end);
  });
}

void fill_alibi_backward(ops::AlibiBiasBackward& arguments, const at::Tensor& out) {
  const at::Tensor& grad = arguments.grad;
  if (grad.numel() == 0) return void(out.zero_());
  const int64_t heads = grad.size(0), queries = grad.size(1), keys = grad.size(2);
  const core::AlibiScheme scheme{queries, keys, arguments.q_offset.expect_int(), arguments.causal};
  const at::Tensor partial = at::empty({heads, queries}, grad.options().dtype(at::kDouble));
  const BiasBackward a = ops::bias_backward_args(grad, partial, out);
  parallel_for(heads * queries, keys,
               [&](int64_t begin, int64_t end) { kernels().alibi_backward(scheme, a, begin, end); });
  parallel_for(heads, queries,
               [&](int64_t begin, int64_t end) { kernels().alibi_reduce(scheme, a, begin, end); });
}

void fill_slopes(ops::AlibiSlopes&, const at::Tensor& out) {
  const int64_t heads = out.size(0);
  POSENC_DISPATCH_DTYPE(ops::to_core(out.scalar_type()), {
    auto* slopes = static_cast<scalar_t*>(out.mutable_data_ptr());
    for (int64_t head = 0; head < heads; ++head) {
      slopes[head * out.stride(0)] = core::round_to<scalar_t>(core::alibi_slope(head, heads));
    }
  })
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("alibi_bias", ops::kernel<Cpu, ops::check_alibi_bias, fill_alibi>());
  m.impl("alibi_bias.out", ops::out_kernel<Cpu, ops::check_alibi_bias_out, fill_alibi>());
  m.impl("_alibi_bias_backward", ops::kernel<Cpu, ops::check_alibi_bias_backward, fill_alibi_backward>());
  m.impl("alibi_slopes.out", ops::out_kernel<Cpu, ops::check_alibi_slopes, fill_slopes>());
}

}  // namespace posenc_ext::cpu
