#include "ops/sinusoidal.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "ops/call.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// The order of a derivative: w^order leaves every dtype's range long before this.
void check_order(const char* op, int64_t order) {
  POSENC_CHECK(order >= 0 && order <= 1000, op, "order must be in [0, 1000], got ", order);
}

}  // namespace

Encoding check_encoding(const char* op, const c10::SymInt& dim, double base, double freq_shift, double scale,
                        std::string_view layout, std::string_view odd) {
  Encoding result{};
  POSENC_CHECK(dim > 0, op, "dim must be positive, got ", dim);
  if (layout == "interleaved") {
    result.layout = core::Layout::interleaved;
  } else if (layout == "concat") {
    result.layout = core::Layout::concat;
  } else {
    POSENC_CHECK(layout == "concat_cos_first", op,
                 "layout must be \"interleaved\", \"concat\" or \"concat_cos_first\", got \"", layout, "\"");
    result.layout = core::Layout::concat_cos_first;
  }
  if (odd == "error") {
    result.odd = core::Odd::error;
    POSENC_CHECK(dim % 2 == 0, op, "dim must be even unless odd is \"zero\" or \"sin\", got ", dim);
  } else if (odd == "zero") {
    result.odd = core::Odd::zero;
  } else {
    POSENC_CHECK(odd == "sin", op, "odd must be \"error\", \"zero\" or \"sin\", got \"", odd, "\"");
    result.odd = core::Odd::sin;
  }
  POSENC_CHECK(base > 0.0 && std::isfinite(base), op, "base must be positive and finite, got ", base);
  check_finite(op, "freq_shift", freq_shift);
  check_finite(op, "scale", scale);
  if (freq_shift >= 0.0) {  // else the divisor is positive, and a symbolic dim needs no guard
    const double divisor = static_cast<double>((dim / 2).guard_int(__FILE__, __LINE__)) - freq_shift;
    POSENC_CHECK(divisor > 0.0, op, "dim // 2 - freq_shift must be positive, got ", divisor);
  }
  return result;
}

Encoding check_sinusoidal_table(const c10::SymInt& length, const c10::SymInt& dim, const c10::SymInt& start,
                                double base, double freq_shift, double scale, std::string_view layout,
                                std::string_view odd, at::ScalarType dtype) {
  const char* op = "sinusoidal_table";
  POSENC_CHECK(length >= 0, op, "length must be non-negative, got ", length);
  const Encoding result = check_encoding(op, dim, base, freq_shift, scale, layout, odd);
  check_dtype(op, "dtype", dtype);
  check_exact(op, start, length);
  return result;
}

void resize_table(const c10::SymInt& length, const c10::SymInt& dim, const at::Tensor& out) {
  resize_out("sinusoidal_table", {length, dim}, out);
}

Encoding check_sinusoidal(const at::Tensor& positions, const c10::SymInt& dim, double base, double freq_shift,
                          double scale, std::string_view layout, std::string_view odd, int64_t order,
                          at::ScalarType dtype) {
  const char* op = "sinusoidal";
  POSENC_CHECK(to_position_type(positions.scalar_type()).has_value(), op,
               "positions must be integer or floating, got ", positions.scalar_type());
  const Encoding result = check_encoding(op, dim, base, freq_shift, scale, layout, odd);
  check_order(op, order);
  check_dtype(op, "dtype", dtype);
  return result;
}

Encoding check_sinusoidal_out(const at::Tensor& positions, const c10::SymInt& dim, double base,
                              double freq_shift, double scale, std::string_view layout, std::string_view odd,
                              const at::Tensor& out) {
  const char* op = "sinusoidal";
  const Encoding result =
      check_sinusoidal(positions, dim, base, freq_shift, scale, layout, odd, 0, out.scalar_type());
  POSENC_CHECK(out.device() == positions.device(), op, "out must be on the device of positions (",
               positions.device(), "), got ", out.device());
  c10::SymDimVector shape(positions.sym_sizes().begin(), positions.sym_sizes().end());
  shape.push_back(dim);
  resize_out(op, shape, out);
  check_apart(op, "positions", positions, out);
  return result;
}

at::ScalarType sinusoidal_dtype(const at::Tensor& positions, std::optional<at::ScalarType> dtype) {
  if (dtype.has_value()) return *dtype;
  return positions.is_floating_point() ? positions.scalar_type()
                                       : at::typeMetaToScalarType(at::get_default_dtype());
}

Encoding check_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
                                   double freq_shift, double scale, std::string_view layout,
                                   std::string_view odd, int64_t order) {
  const char* op = "_sinusoidal_backward";
  check_dtype(op, "positions", positions.scalar_type());
  check_dtype(op, "grad", grad.scalar_type());
  const int64_t dims = positions.dim();
  POSENC_CHECK(grad.dim() == dims + 1 && grad.sym_sizes().slice(0, dims) == positions.sym_sizes(), op,
               "grad must have the shape of positions ", positions.sym_sizes(),
               " and one more dimension, got ", grad.sym_sizes());
  POSENC_CHECK(grad.device() == positions.device(), op, "grad must be on the device of positions (",
               positions.device(), "), got ", grad.device());
  check_order(op, order);
  return check_encoding(op, grad.sym_size(dims), base, freq_shift, scale, layout, odd);
}

Samples as_samples(const at::Tensor& x, const std::optional<at::Tensor>& start, bool batch_first) {
  const char* op = "add_sinusoidal";
  POSENC_CHECK(x.dim() == 2 || x.dim() == 3, op,
               "x must have 2 or 3 dimensions ([L, D], [B, L, D] or [L, B, D]), got ", x.dim());
  Samples samples{x.dim() == 3 ? x : x.unsqueeze(0), start, batch_first || x.dim() == 2};
  if (!start.has_value()) return samples;
  const c10::SymInt batch = samples.x.sym_size(samples.batch_first ? 0 : 1);
  const int64_t dims = start->dim();
  const bool shared = dims == 0 || (dims == 1 && start->sym_size(0) == 1);
  const bool fits =
      shared || ((dims == 1 || (dims == 2 && start->sym_size(1) == 1)) && start->sym_size(0) == batch);
  POSENC_CHECK(at::isIntegralType(start->scalar_type(), /*includeBool=*/false) && fits, op,
               "start must be an integer tensor of shape [], [1], [", batch, "] or [", batch,
               ", 1] (one offset per sample), got ", start->scalar_type(), " ", start->sym_sizes());
  if (shared) {
    samples.offsets = start->expand_symint({batch});
  } else if (dims == 2) {
    samples.offsets = start->squeeze(1);
  }
  return samples;
}

Samples rows_as_samples(const at::Tensor& x, const at::Tensor& positions) {
  const char* op = "add_sinusoidal";
  POSENC_CHECK(x.dim() >= 1, op, "with positions x must have at least 1 dimension [..., D], got ", x.dim());
  check_positions(op, positions, x);
  c10::SymInt rows = 1;
  for (const c10::SymInt& size : x.sym_sizes().slice(0, x.dim() - 1)) rows *= size;
  return {x.reshape_symint({rows, 1, x.sym_size(-1)}), one_per_row(positions, x).reshape_symint({rows}),
          true};
}

AddShape check_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                              const c10::SymInt& start, double x_scale, double base, double freq_shift,
                              std::string_view layout, std::string_view odd, bool batch_first,
                              double dropout_p, const std::optional<at::Tensor>& seed, Encoding* encoding) {
  const char* op = "add_sinusoidal";
  POSENC_CHECK(x.dim() == 3, op, "x must have 3 dimensions [B, L, D] or [L, B, D], got ", x.dim());
  check_dtype(op, "x", x.scalar_type());
  AddShape shape{x.sym_size(batch_first ? 0 : 1), x.sym_size(batch_first ? 1 : 0), x.sym_size(2)};
  const Encoding result = check_encoding(op, shape.dim, base, freq_shift, 1.0, layout, odd);
  if (encoding != nullptr) *encoding = result;
  check_finite(op, "x_scale", x_scale);
  if (offsets.has_value()) {
    POSENC_CHECK(at::isIntegralType(offsets->scalar_type(), /*includeBool=*/false) && offsets->dim() == 1 &&
                     offsets->sym_size(0) == shape.batch,
                 op, "start must be an integer tensor of shape [", shape.batch,
                 "] (one offset per sample), got ", offsets->scalar_type(), " ", offsets->sym_sizes());
    POSENC_CHECK(offsets->device() == x.device(), op, "start must be on the device of x (", x.device(),
                 "), got ", offsets->device());
  }
  check_exact(op, start, shape.length);
  check_dropout(op, x, dropout_p, seed);
  return shape;
}

at::Tensor& call_sinusoidal_table_out(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                      double freq_shift, double scale, std::string_view layout,
                                      std::string_view odd, at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(c10::SymInt, c10::SymInt, c10::SymInt, double, double, double, std::string_view,
                          std::string_view, at::Tensor&)>("posenc_ext::sinusoidal_table", "out");
  return op.call(std::move(length), std::move(dim), std::move(start), base, freq_shift, scale, layout, odd,
                 out);
}

at::Tensor call_sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                           double scale, std::string_view layout, std::string_view odd, int64_t order,
                           std::optional<at::ScalarType> dtype) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                         std::string_view, int64_t, std::optional<at::ScalarType>)>(
          "posenc_ext::_sinusoidal");
  return op.call(positions, std::move(dim), base, freq_shift, scale, layout, odd, order, dtype);
}

at::Tensor& call_sinusoidal_out(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd,
                                at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                          std::string_view, at::Tensor&)>("posenc_ext::sinusoidal", "out");
  return op.call(positions, std::move(dim), base, freq_shift, scale, layout, odd, out);
}

at::Tensor call_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
                                    double freq_shift, double scale, std::string_view layout,
                                    std::string_view odd, int64_t order) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, double, double, double, std::string_view,
                         std::string_view, int64_t)>("posenc_ext::_sinusoidal_backward");
  return op.call(grad, positions, base, freq_shift, scale, layout, odd, order);
}

at::Tensor call_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                               c10::SymInt start, double x_scale, double base, double freq_shift,
                               std::string_view layout, std::string_view odd, bool batch_first,
                               double dropout_p, const std::optional<at::Tensor>& seed) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const std::optional<at::Tensor>&, c10::SymInt, double, double,
                         double, std::string_view, std::string_view, bool, double,
                         const std::optional<at::Tensor>&)>("posenc_ext::_add_sinusoidal");
  return op.call(x, offsets, std::move(start), x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                 seed);
}

at::Tensor& call_add_sinusoidal_out(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                    double freq_shift, std::string_view layout, std::string_view odd,
                                    bool batch_first, double dropout_p, bool training, at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                          std::string_view, bool, double, bool, at::Tensor&)>("posenc_ext::add_sinusoidal",
                                                                              "out");
  return op.call(x, std::move(start), x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                 training, out);
}

at::Tensor& call_add_sinusoidal_offsets_out(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                            double base, double freq_shift, std::string_view layout,
                                            std::string_view odd, bool batch_first, double dropout_p,
                                            bool training, at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(const at::Tensor&, const at::Tensor&, double, double, double, std::string_view,
                          std::string_view, bool, double, bool, at::Tensor&)>("posenc_ext::add_sinusoidal",
                                                                              "offsets_out");
  return op.call(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p, training, out);
}

at::Tensor& call_add_sinusoidal_positions_out(const at::Tensor& x, const at::Tensor& positions,
                                              double x_scale, double base, double freq_shift,
                                              std::string_view layout, std::string_view odd, double dropout_p,
                                              bool training, at::Tensor& out) {
  static const auto op = find_op<at::Tensor&(const at::Tensor&, const at::Tensor&, double, double, double,
                                             std::string_view, std::string_view, double, bool, at::Tensor&)>(
      "posenc_ext::add_sinusoidal", "positions_out");
  return op.call(x, positions, x_scale, base, freq_shift, layout, odd, dropout_p, training, out);
}

namespace {

// The public ops, composed of those above; these run before autograd and are traced through.

at::Tensor sinusoidal_table(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                            double freq_shift, double scale, std::string_view layout, std::string_view odd,
                            std::optional<at::ScalarType> dtype, std::optional<at::Device> device) {
  const at::ScalarType type = dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype()));
  check_sinusoidal_table(length, dim, start, base, freq_shift, scale, layout, odd, type);
  at::Tensor out = at::empty_symint({length, dim}, at::TensorOptions().dtype(type).device(device));
  return call_sinusoidal_table_out(std::move(length), std::move(dim), std::move(start), base, freq_shift,
                                   scale, layout, odd, out);
}

at::Tensor sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                      double scale, std::string_view layout, std::string_view odd,
                      std::optional<at::ScalarType> dtype) {
  return call_sinusoidal(positions, std::move(dim), base, freq_shift, scale, layout, odd, 0,
                         sinusoidal_dtype(positions, dtype));
}

at::Tensor add_with_dropout(const at::Tensor& x, const Samples& samples, c10::SymInt start, double x_scale,
                            double base, double freq_shift, std::string_view layout, std::string_view odd,
                            double dropout_p, bool training) {
  const at::Tensor y =
      call_add_sinusoidal(samples.x, samples.offsets, std::move(start), x_scale, base, freq_shift, layout,
                          odd, samples.batch_first, dropout_p, draw_seed(x, dropout_p, training));
  return samples.x.is_same(x) ? y : y.view_symint(x.sym_sizes());
}

at::Tensor add_sinusoidal(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                          double freq_shift, std::string_view layout, std::string_view odd, bool batch_first,
                          double dropout_p, bool training) {
  return add_with_dropout(x, as_samples(x, std::nullopt, batch_first), std::move(start), x_scale, base,
                          freq_shift, layout, odd, dropout_p, training);
}

at::Tensor add_sinusoidal_offsets(const at::Tensor& x, const at::Tensor& start, double x_scale, double base,
                                  double freq_shift, std::string_view layout, std::string_view odd,
                                  bool batch_first, double dropout_p, bool training) {
  return add_with_dropout(x, as_samples(x, start, batch_first), 0, x_scale, base, freq_shift, layout, odd,
                          dropout_p, training);
}

at::Tensor add_sinusoidal_at(const at::Tensor& x, const at::Tensor& positions, double x_scale, double base,
                             double freq_shift, std::string_view layout, std::string_view odd,
                             double dropout_p, bool training) {
  return add_with_dropout(x, rows_as_samples(x, positions), 0, x_scale, base, freq_shift, layout, odd,
                          dropout_p, training);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  m.impl("sinusoidal", TORCH_FN(sinusoidal));
  m.impl("add_sinusoidal", TORCH_FN(add_sinusoidal));
  m.impl("add_sinusoidal.offsets", TORCH_FN(add_sinusoidal_offsets));
  m.impl("add_sinusoidal.positions", TORCH_FN(add_sinusoidal_at));
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeExplicitAutograd, m) {
  m.impl("sinusoidal_table", TORCH_FN(sinusoidal_table));
}

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor sinusoidal_table(int64_t length, int64_t dim, int64_t start, double base, double freq_shift,
                            double scale, std::string_view layout, std::string_view odd,
                            at::TensorOptions options) {
  return ops::sinusoidal_table(length, dim, start, base, freq_shift, scale, layout, odd,
                               c10::optTypeMetaToScalarType(options.dtype_opt()), options.device_opt());
}

at::Tensor sinusoidal(const at::Tensor& positions, int64_t dim, double base, double freq_shift, double scale,
                      std::string_view layout, std::string_view odd, std::optional<at::ScalarType> dtype) {
  return ops::sinusoidal(positions, dim, base, freq_shift, scale, layout, odd, dtype);
}

at::Tensor add_sinusoidal(const at::Tensor& x, int64_t start, double x_scale, double base, double freq_shift,
                          std::string_view layout, std::string_view odd, bool batch_first, double dropout_p,
                          bool training) {
  return ops::add_sinusoidal(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                             training);
}

at::Tensor add_sinusoidal(const at::Tensor& x, const at::Tensor& start, double x_scale, double base,
                          double freq_shift, std::string_view layout, std::string_view odd, bool batch_first,
                          double dropout_p, bool training) {
  return ops::add_sinusoidal_offsets(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                                     training);
}

at::Tensor add_sinusoidal_at(const at::Tensor& x, const at::Tensor& positions, double x_scale, double base,
                             double freq_shift, std::string_view layout, std::string_view odd,
                             double dropout_p, bool training) {
  return ops::add_sinusoidal_at(x, positions, x_scale, base, freq_shift, layout, odd, dropout_p, training);
}

}  // namespace posenc_ext
