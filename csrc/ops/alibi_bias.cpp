#include "ops/alibi_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/relative_bias.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {

void check_alibi_bias(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                      const c10::SymInt& q_offset) {
  const char* op = "alibi_bias";
  POSENC_CHECK(slopes.dim() == 1, op, "slopes must have 1 dimension [heads], got ", slopes.dim());
  check_dtype(op, "slopes", slopes.scalar_type());
  check_lengths(op, q_len, k_len, q_offset);
}

void check_alibi_bias_out(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                          const c10::SymInt& q_offset, const at::Tensor& out) {
  check_alibi_bias(slopes, q_len, k_len, q_offset);
  check_out_like("alibi_bias", "slopes", slopes, out);
  resize_out("alibi_bias", {slopes.sym_size(0), q_len, k_len}, out);
  check_inputs("alibi_bias", {{"slopes", slopes}}, out);
}

void check_alibi_bias_backward(const at::Tensor& grad, const c10::SymInt& q_offset) {
  const char* op = "_alibi_bias_backward";
  POSENC_CHECK(grad.dim() == 3, op, "grad must have 3 dimensions [heads, q_len, k_len], got ", grad.dim());
  check_dtype(op, "grad", grad.scalar_type());
  check_lengths(op, grad.sym_size(1), grad.sym_size(2), q_offset);
}

void check_alibi_slopes(int64_t num_heads, at::ScalarType dtype) {
  const char* op = "alibi_slopes";
  POSENC_CHECK(num_heads > 0, op, "num_heads must be positive, got ", num_heads);
  check_dtype(op, "dtype", dtype);
}

void resize_alibi_slopes(int64_t num_heads, const at::Tensor& out) {
  resize_out("alibi_slopes", {num_heads}, out);
}

namespace {

at::Tensor alibi_slopes(int64_t num_heads, std::optional<at::ScalarType> dtype,
                        std::optional<at::Device> device) {
  const at::ScalarType type = dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype()));
  check_alibi_slopes(num_heads, type);
  at::Tensor out = at::empty({num_heads}, at::TensorOptions().dtype(type).device(device));
  return call_alibi_slopes_out(num_heads, out);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeExplicitAutograd, m) {
  m.impl("alibi_slopes", TORCH_FN(alibi_slopes));
}

at::Tensor alibi_bias_meta(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool /*causal*/) {
  check_alibi_bias(slopes, q_len, k_len, q_offset);
  return at::empty_symint({slopes.sym_size(0), std::move(q_len), std::move(k_len)}, slopes.options());
}

at::Tensor& alibi_bias_out_meta(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                c10::SymInt q_offset, bool /*causal*/, at::Tensor& out) {
  check_alibi_bias_out(slopes, q_len, k_len, q_offset, out);
  return out;
}

at::Tensor alibi_bias_backward_meta(const at::Tensor& grad, c10::SymInt q_offset, bool /*causal*/) {
  check_alibi_bias_backward(grad, q_offset);
  return at::empty_symint({grad.sym_size(0)}, grad.options());
}

at::Tensor& alibi_slopes_out_meta(int64_t num_heads, at::Tensor& out) {
  check_alibi_slopes(num_heads, out.scalar_type());
  resize_alibi_slopes(num_heads, out);
  return out;
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("alibi_bias", TORCH_FN(alibi_bias_meta));
  m.impl("alibi_bias.out", TORCH_FN(alibi_bias_out_meta));
  m.impl("_alibi_bias_backward", TORCH_FN(alibi_bias_backward_meta));
  m.impl("alibi_slopes.out", TORCH_FN(alibi_slopes_out_meta));
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
