#include "ops/alibi_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/call.h"
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
  resize_out_like("alibi_bias", "slopes", slopes, {slopes.sym_size(0), q_len, k_len}, out);
  check_apart("alibi_bias", "slopes", slopes, out);
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

at::Tensor call_alibi_bias(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool causal) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool)>(
      "posenc_ext::alibi_bias");
  return op.call(slopes, std::move(q_len), std::move(k_len), std::move(q_offset), causal);
}

at::Tensor& call_alibi_bias_out(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                c10::SymInt q_offset, bool causal, at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool, at::Tensor&)>(
          "posenc_ext::alibi_bias", "out");
  return op.call(slopes, std::move(q_len), std::move(k_len), std::move(q_offset), causal, out);
}

at::Tensor call_alibi_bias_backward(const at::Tensor& grad, c10::SymInt q_offset, bool causal) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, c10::SymInt, bool)>("posenc_ext::_alibi_bias_backward");
  return op.call(grad, std::move(q_offset), causal);
}

at::Tensor& call_alibi_slopes_out(int64_t num_heads, at::Tensor& out) {
  static const auto op = find_op<at::Tensor&(int64_t, at::Tensor&)>("posenc_ext::alibi_slopes", "out");
  return op.call(num_heads, out);
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
