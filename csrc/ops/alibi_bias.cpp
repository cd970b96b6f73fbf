#include "ops/alibi_bias.h"

#include "ops/relative_bias.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {

namespace {

AlibiSlopes check_slopes(int64_t num_heads, const at::TensorOptions& options) {
  const char* op = "alibi_slopes";
  POSENC_CHECK(num_heads > 0, op, "num_heads must be positive, got ", num_heads);
  check_dtype(op, "dtype", c10::typeMetaToScalarType(options.dtype()));
  return {{op, {num_heads}, options}};
}

}  // namespace

AlibiBias check_alibi_bias(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool causal) {
  const char* op = "alibi_bias";
  POSENC_CHECK(slopes.dim() == 1, op, "slopes must have 1 dimension [heads], got ", slopes.dim());
  check_dtype(op, "slopes", slopes.scalar_type());
  check_lengths(op, q_len, k_len, q_offset);
  return {{op, {slopes.sym_size(0), std::move(q_len), std::move(k_len)}, slopes.options()},
          slopes,
          std::move(q_offset),
          causal};
}

AlibiBias check_alibi_bias_out(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                               c10::SymInt q_offset, bool causal, at::Tensor& out) {
  AlibiBias arguments =
      check_alibi_bias(slopes, std::move(q_len), std::move(k_len), std::move(q_offset), causal);
  check_out_like(arguments.op, "slopes", slopes, out);
  arguments.inputs = {{"slopes", slopes}};
  return arguments;
}

AlibiBiasBackward check_alibi_bias_backward(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  const char* op = "_alibi_bias_backward";
  POSENC_CHECK(grad.dim() == 3, op, "grad must have 3 dimensions [heads, q_len, k_len], got ", grad.dim());
  check_dtype(op, "grad", grad.scalar_type());
  check_lengths(op, grad.sym_size(1), grad.sym_size(2), q_offset);
  return {{op, {grad.sym_size(0)}, grad.options()}, grad, std::move(q_offset), causal};
}

AlibiSlopes check_alibi_slopes(int64_t num_heads, at::Tensor& out) {
  return check_slopes(num_heads, out.options());
}

namespace {

at::Tensor alibi_slopes(int64_t num_heads, std::optional<at::ScalarType> dtype,
                        std::optional<at::Device> device) {
  const auto options = at::TensorOptions()
                           .dtype(dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype())))
                           .device(device);
  check_slopes(num_heads, options);
  at::Tensor out = at::empty({num_heads}, options);
  return call_alibi_slopes_out(num_heads, out);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeExplicitAutograd, m) {
  m.impl("alibi_slopes", TORCH_FN(alibi_slopes));
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("alibi_bias", kernel<Meta, check_alibi_bias>());
  m.impl("alibi_bias.out", out_kernel<Meta, check_alibi_bias_out>());
  m.impl("_alibi_bias_backward", kernel<Meta, check_alibi_bias_backward>());
  m.impl("alibi_slopes.out", out_kernel<Meta, check_alibi_slopes>());
}

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor alibi_slopes(int64_t num_heads, at::TensorOptions options) {
  return ops::alibi_slopes(num_heads, c10::optTypeMetaToScalarType(options.dtype_opt()),
                           options.device_opt());
}

at::Tensor alibi_bias(const at::Tensor& slopes, int64_t q_len, int64_t k_len, int64_t q_offset, bool causal) {
  return ops::call_alibi_bias(slopes, q_len, k_len, q_offset, causal);
}

}  // namespace posenc_ext
