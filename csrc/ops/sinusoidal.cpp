#include "ops/sinusoidal.h"

#include <cmath>

#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// The order of a derivative: w^order leaves every dtype's range long before this.
void check_order(const char* op, int64_t order) {
  POSENC_CHECK(order >= 0 && order <= 1000, op, "order must be in [0, 1000], got ", order);
}

// The dtype of `sinusoidal` where none is asked for: that of floating positions, else torch's default.
at::ScalarType sinusoidal_dtype(const at::Tensor& positions, std::optional<at::ScalarType> dtype) {
  if (dtype.has_value()) return *dtype;
  return positions.is_floating_point() ? positions.scalar_type()
                                       : at::typeMetaToScalarType(at::get_default_dtype());
}

c10::SymDimVector with_channels(const at::Tensor& positions, c10::SymInt dim) {
  c10::SymDimVector sizes = sizes_of(positions);
  sizes.push_back(std::move(dim));
  return sizes;
}

// The result of sinusoidal_table, whose dtype is `dtype`.
SinusoidalTable check_table(const c10::SymInt& length, const c10::SymInt& dim, const c10::SymInt& start,
                            double base, double freq_shift, double scale, std::string_view layout,
                            std::string_view odd, const at::TensorOptions& options) {
  const char* op = "sinusoidal_table";
  POSENC_CHECK(length >= 0, op, "length must be non-negative, got ", length);
  const core::EncodingSpec encoding = check_encoding(op, dim, base, freq_shift, scale, layout, odd);
  check_dtype(op, "dtype", c10::typeMetaToScalarType(options.dtype()));
  check_exact(op, start, length);
  return {{op, {length, dim}, options}, encoding, start};
}

}  // namespace

core::EncodingSpec check_encoding(const char* op, const c10::SymInt& dim, double base, double freq_shift,
                                  double scale, std::string_view layout, std::string_view odd) {
  core::EncodingSpec result{dim.maybe_as_int().value_or(0), base, freq_shift, scale, {}, {}};
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

SinusoidalTable check_sinusoidal_table(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                       double freq_shift, double scale, std::string_view layout,
                                       std::string_view odd, at::Tensor& out) {
  return check_table(length, dim, start, base, freq_shift, scale, layout, odd, out.options());
}

args::SinusoidRows fill_args(SinusoidalTable& arguments, const core::Sinusoid& spec, const at::Tensor& out) {
  return {spec,
          {nullptr, core::PositionType::i64, {}, arguments.start.expect_int()},
          /*order=*/0,
          to_core(out.scalar_type()),
          out.mutable_data_ptr(),
          out.stride(0),
          out.stride(1),
          out.size(0)};
}

Sinusoidal check_sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                            double scale, std::string_view layout, std::string_view odd, int64_t order,
                            std::optional<at::ScalarType> dtype) {
  const char* op = "sinusoidal";
  POSENC_CHECK(to_position_type(positions.scalar_type()).has_value(), op,
               "positions must be integer or floating, got ", positions.scalar_type());
  const core::EncodingSpec encoding = check_encoding(op, dim, base, freq_shift, scale, layout, odd);
  check_order(op, order);
  const at::ScalarType type = sinusoidal_dtype(positions, dtype);
  check_dtype(op, "dtype", type);
  return {{op, with_channels(positions, std::move(dim)), positions.options().dtype(type)},
          encoding,
          positions,
          order};
}

Sinusoidal check_sinusoidal_out(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd,
                                at::Tensor& out) {
  Sinusoidal arguments =
      check_sinusoidal(positions, std::move(dim), base, freq_shift, scale, layout, odd, 0, out.scalar_type());
  POSENC_CHECK(out.device() == positions.device(), arguments.op, "out must be on the device of positions (",
               positions.device(), "), got ", out.device());
  arguments.inputs = {{"positions", positions}};
  return arguments;
}

args::SinusoidRows fill_args(Sinusoidal& arguments, const core::Sinusoid& spec, const at::Tensor& out) {
  at::Tensor& positions = arguments.positions;
  positions = collapsible(positions, positions.dim());
  return {spec,
          fill_positions(positions),
          static_cast<int32_t>(arguments.order),
          to_core(out.scalar_type()),
          out.mutable_data_ptr(),
          out.dim() == 2 ? out.stride(0) : spec.dim,
          out.stride(-1),
          positions.numel()};
}

SinusoidalBackward check_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
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
  const core::EncodingSpec encoding =
      check_encoding(op, grad.sym_size(dims), base, freq_shift, scale, layout, odd);
  return {{op, sizes_of(positions), positions.options()}, encoding, grad, positions, order};
}

args::SinusoidBackward fill_args(SinusoidalBackward& arguments, const core::Sinusoid& spec,
                                 const at::Tensor& out) {
  auto [grad, positions] = std::tie(arguments.grad, arguments.positions);
  const int64_t dims = positions.dim();
  positions = collapsible(positions, dims);
  grad = collapsible(grad, dims);
  return {spec,
          fill_positions(positions),
          static_cast<int32_t>(arguments.order),
          to_core(grad.scalar_type()),
          grad.const_data_ptr(),
          to_strided(grad, dims),
          grad.stride(dims),
          to_core(out.scalar_type()),
          out.mutable_data_ptr(),
          positions.numel()};
}

namespace {

// The public ops: they run before autograd and are traced through.

at::Tensor sinusoidal_table(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                            double freq_shift, double scale, std::string_view layout, std::string_view odd,
                            std::optional<at::ScalarType> dtype, std::optional<at::Device> device) {
  const auto options = at::TensorOptions()
                           .dtype(dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype())))
                           .device(device);
  check_table(length, dim, start, base, freq_shift, scale, layout, odd, options);
  at::Tensor out = at::empty_symint({length, dim}, options);
  return call_sinusoidal_table_out(std::move(length), std::move(dim), std::move(start), base, freq_shift,
                                   scale, layout, odd, out);
}

at::Tensor sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                      double scale, std::string_view layout, std::string_view odd,
                      std::optional<at::ScalarType> dtype) {
  return call_sinusoidal(positions, std::move(dim), base, freq_shift, scale, layout, odd, 0,
                         sinusoidal_dtype(positions, dtype));
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) { m.impl("sinusoidal", TORCH_FN(sinusoidal)); }

TORCH_LIBRARY_IMPL(posenc_ext, CompositeExplicitAutograd, m) {
  m.impl("sinusoidal_table", TORCH_FN(sinusoidal_table));
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("sinusoidal_table.out", out_kernel<Meta, check_sinusoidal_table>());
  m.impl("sinusoidal.out", out_kernel<Meta, check_sinusoidal_out>());
  m.impl("_sinusoidal", kernel<Meta, check_sinusoidal>());
  m.impl("_sinusoidal_backward", kernel<Meta, check_sinusoidal_backward>());
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

}  // namespace posenc_ext
