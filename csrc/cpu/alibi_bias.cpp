// ALiBi on the CPU: from tensors to pointers, and threads.
#include "cpu/kernels/kernels.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/parallel.h"
#include "cpu/memory.h"
#include "ops/alibi_bias.h"

namespace posenc_ext::cpu {
namespace {

// `out` is contiguous and has the result's shape.
void fill_alibi(const at::Tensor& slopes, int64_t q_offset, bool causal, at::Tensor& out) {
  if (out.numel() == 0) return;
  const int64_t heads = out.size(0), queries = out.size(1), keys = out.size(2);
  const AlibiForward a{{q_offset, causal},
                       ops::to_core(slopes.scalar_type()),
                       slopes.const_data_ptr(),
                       slopes.stride(0),
                       queries,
                       keys,
                       out.mutable_data_ptr(),
                       writes_past_caches(out)};
  parallel_for(heads * queries, keys,
               [&](int64_t begin, int64_t end) { kernels().alibi_forward(a, begin, end); });
}

at::Tensor alibi_bias_cpu(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                          c10::SymInt q_offset, bool causal) {
  ops::check_alibi_bias(slopes, q_len, k_len, q_offset);
  at::Tensor out = new_result({slopes.size(0), q_len.expect_int(), k_len.expect_int()}, slopes.scalar_type());
  fill_alibi(slopes, q_offset.expect_int(), causal, out);
  return out;
}

at::Tensor& alibi_bias_out_cpu(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                               c10::SymInt q_offset, bool causal, at::Tensor& out) {
  ops::check_alibi_bias_out(slopes, q_len, k_len, q_offset, out);
  return ops::write_contiguous(
      out, [&](at::Tensor& o) { fill_alibi(slopes, q_offset.expect_int(), causal, o); }, slopes);
}

at::Tensor alibi_bias_backward_cpu(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  ops::check_alibi_bias_backward(grad, q_offset);
  const int64_t heads = grad.size(0), queries = grad.size(1), keys = grad.size(2);
  at::Tensor out = at::empty({heads}, grad.options());
  if (grad.numel() == 0) return out.zero_();
  const core::DType dtype = ops::to_core(grad.scalar_type());
  at::Tensor partial = at::empty({heads, queries}, grad.options().dtype(at::kDouble));
  const AlibiBackward a{{q_offset.expect_int(), causal},
                        dtype,
                        grad.const_data_ptr(),
                        grad.stride(0),
                        grad.stride(1),
                        grad.stride(2),
                        queries,
                        keys,
                        partial.mutable_data_ptr<double>()};
  parallel_for(heads * queries, keys,
               [&](int64_t begin, int64_t end) { kernels().alibi_backward(a, begin, end); });
  const AlibiReduce reduce{dtype, partial.const_data_ptr<double>(), queries, out.mutable_data_ptr()};
  parallel_for(heads, queries,
               [&](int64_t begin, int64_t end) { kernels().alibi_reduce(reduce, begin, end); });
  return out;
}

at::Tensor& alibi_slopes_out_cpu(int64_t num_heads, at::Tensor& out) {
  ops::check_alibi_slopes(num_heads, out.scalar_type());
  ops::resize_alibi_slopes(num_heads, out);
  POSENC_DISPATCH_DTYPE(ops::to_core(out.scalar_type()), {
    auto* slopes = static_cast<scalar_t*>(out.mutable_data_ptr());
    for (int64_t head = 0; head < num_heads; ++head) {
      slopes[head * out.stride(0)] = core::round_to<scalar_t>(core::alibi_slope(head, num_heads));
    }
  })
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_cpu));
  m.impl("alibi_bias.out", TORCH_FN(alibi_bias_out_cpu));
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_cpu));
  m.impl("alibi_slopes.out", TORCH_FN(alibi_slopes_out_cpu));
}

}  // namespace posenc_ext::cpu
