// Result shapes of the sinusoid ops, without data.
#include "ops/sinusoidal.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

at::Tensor& sinusoidal_table_out_meta(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                      double freq_shift, double scale, std::string_view layout,
                                      std::string_view odd, at::Tensor& out) {
  ops::check_sinusoidal_table(length, dim, start, base, freq_shift, scale, layout, odd, out.scalar_type());
  ops::resize_table(length, dim, out);
  return out;
}

at::Tensor sinusoidal_meta(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                           double scale, std::string_view layout, std::string_view odd, int64_t order,
                           std::optional<at::ScalarType> dtype) {
  const at::ScalarType type = ops::sinusoidal_dtype(positions, dtype);
  ops::check_sinusoidal(positions, dim, base, freq_shift, scale, layout, odd, order, type);
  c10::SymDimVector sizes(positions.sym_sizes().begin(), positions.sym_sizes().end());
  sizes.push_back(std::move(dim));
  return at::empty_symint(sizes, positions.options().dtype(type));
}

at::Tensor& sinusoidal_out_meta(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd,
                                at::Tensor& out) {
  ops::check_sinusoidal_out(positions, dim, base, freq_shift, scale, layout, odd, out);
  return out;
}

at::Tensor sinusoidal_backward_meta(const at::Tensor& grad, const at::Tensor& positions, double base,
                                    double freq_shift, double scale, std::string_view layout,
                                    std::string_view odd, int64_t order) {
  ops::check_sinusoidal_backward(grad, positions, base, freq_shift, scale, layout, odd, order);
  return at::empty_symint(positions.sym_sizes(), positions.options());
}

at::Tensor add_sinusoidal_meta(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                               c10::SymInt start, double x_scale, double base, double freq_shift,
                               std::string_view layout, std::string_view odd, bool batch_first,
                               double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::check_add_sinusoidal(x, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                            seed);
  return at::empty_symint(x.sym_sizes(), x.options());
}

at::Tensor& add_meta_out(const at::Tensor& x, const ops::Samples& s, const c10::SymInt& start, double x_scale,
                         double base, double freq_shift, std::string_view layout, std::string_view odd,
                         double dropout_p, at::Tensor& out) {
  ops::check_add_sinusoidal(s.x, s.offsets, start, x_scale, base, freq_shift, layout, odd, s.batch_first,
                            dropout_p, std::nullopt);
  ops::resize_out_like("add_sinusoidal", "x", x, x.sym_sizes(), out);
  return out;
}

at::Tensor& add_sinusoidal_out_meta(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                    double freq_shift, std::string_view layout, std::string_view odd,
                                    bool batch_first, double dropout_p, bool /*training*/, at::Tensor& out) {
  return add_meta_out(x, ops::as_samples(x, std::nullopt, batch_first), start, x_scale, base, freq_shift,
                      layout, odd, dropout_p, out);
}

at::Tensor& add_sinusoidal_offsets_out_meta(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                            double base, double freq_shift, std::string_view layout,
                                            std::string_view odd, bool batch_first, double dropout_p,
                                            bool /*training*/, at::Tensor& out) {
  return add_meta_out(x, ops::as_samples(x, start, batch_first), 0, x_scale, base, freq_shift, layout, odd,
                      dropout_p, out);
}

at::Tensor& add_sinusoidal_positions_out_meta(const at::Tensor& x, const at::Tensor& positions,
                                              double x_scale, double base, double freq_shift,
                                              std::string_view layout, std::string_view odd, double dropout_p,
                                              bool /*training*/, at::Tensor& out) {
  return add_meta_out(x, ops::rows_as_samples(x, positions), 0, x_scale, base, freq_shift, layout, odd,
                      dropout_p, out);
}

at::Tensor scale_dropout_meta(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed) {
  ops::check_scale_dropout(x, scale, dropout_p, seed);
  return at::empty_symint(x.sym_sizes(), x.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("sinusoidal_table.out", TORCH_FN(sinusoidal_table_out_meta));
  m.impl("sinusoidal.out", TORCH_FN(sinusoidal_out_meta));
  m.impl("_sinusoidal", TORCH_FN(sinusoidal_meta));
  m.impl("_sinusoidal_backward", TORCH_FN(sinusoidal_backward_meta));
  m.impl("_add_sinusoidal", TORCH_FN(add_sinusoidal_meta));
  m.impl("add_sinusoidal.out", TORCH_FN(add_sinusoidal_out_meta));
  m.impl("add_sinusoidal.offsets_out", TORCH_FN(add_sinusoidal_offsets_out_meta));
  m.impl("add_sinusoidal.positions_out", TORCH_FN(add_sinusoidal_positions_out_meta));
  m.impl("_scale_dropout", TORCH_FN(scale_dropout_meta));
}

}  // namespace posenc_ext::meta
