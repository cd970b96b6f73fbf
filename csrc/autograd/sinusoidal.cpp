// Gradients of the sinusoid ops. add_sinusoidal is affine in x; the sinusoid is not linear in its positions,
// but its derivatives are the same op with a higher order.
#include "ops/sinusoidal.h"

#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include <limits>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor sinusoidal_autograd(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                               double scale, std::string_view layout, std::string_view odd, int64_t order,
                               std::optional<at::ScalarType> dtype) {
  const auto derivative = [&](const at::Tensor& p, int64_t n) {
    return ops::call_sinusoidal(p, dim, base, freq_shift, scale, layout, odd, n, dtype);
  };
  return differentiable<&ops::call_sinusoidal_backward>(
      "sinusoidal", positions, [&](const at::Tensor& p) { return derivative(p, order); },
      [&](const at::Tensor& tangent) {
        const at::Tensor slope = derivative(positions._fw_primal(/*level=*/0), order + 1);
        return at::mul(slope, tangent.unsqueeze(-1).to(slope.scalar_type()));
      },
      positions, base, freq_shift, scale, layout, odd, order + 1);
}

at::Tensor sinusoidal_backward_autograd(const at::Tensor& grad, const at::Tensor& positions, double base,
                                        double freq_shift, double scale, std::string_view layout,
                                        std::string_view odd, int64_t order) {
  const at::Tensor value = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return ops::call_sinusoidal_backward(grad, positions, base, freq_shift, scale, layout, odd, order);
  }();
  const bool differentiated = torch::autograd::compute_requires_grad(grad, positions) ||
                              torch::autograd::isFwGradDefined(grad) ||
                              torch::autograd::isFwGradDefined(positions);
  if (!differentiated) return value;
  // To be differentiated again: the same sum of products, from ops that know their gradients.
  const at::Tensor slope = ops::call_sinusoidal(positions, grad.sym_size(-1), base, freq_shift, scale, layout,
                                                odd, order, at::kDouble);
  const at::Tensor recorded = at::sum(at::mul(grad.to(at::kDouble), slope), -1).to(positions.scalar_type());
  // Its last bit may differ from the kernel's; the value is the kernel's, whether or not the graph is
  // recorded.
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor last_bit =
      at::nan_to_num(at::sub(value, recorded), 0.0, kInfinity, -kInfinity);  // inf - inf
  return at::add(recorded, last_bit.detach());
}

at::Tensor& sinusoidal_out_autograd(const at::Tensor& positions, c10::SymInt dim, double base,
                                    double freq_shift, double scale, std::string_view layout,
                                    std::string_view odd, at::Tensor& out) {
  return into(
      "sinusoidal", out,
      [&](at::Tensor& o) {
        ops::call_sinusoidal_out(positions, std::move(dim), base, freq_shift, scale, layout, odd, o);
      },
      positions);
}

at::Tensor& sinusoidal_table_out_autograd(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                          double freq_shift, double scale, std::string_view layout,
                                          std::string_view odd, at::Tensor& out) {
  return into("sinusoidal_table", out, [&](at::Tensor& o) {
    ops::call_sinusoidal_table_out(std::move(length), std::move(dim), std::move(start), base, freq_shift,
                                   scale, layout, odd, o);
  });
}

at::Tensor same(const at::Tensor& grad) { return grad; }

at::Tensor add_sinusoidal_autograd(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                                   c10::SymInt start, double x_scale, double base, double freq_shift,
                                   std::string_view layout, std::string_view odd, bool batch_first,
                                   double dropout_p, const std::optional<at::Tensor>& seed) {
  const auto forward = [&](const at::Tensor& t) {
    return ops::call_add_sinusoidal(t, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first,
                                    dropout_p, seed);
  };
  const auto tangent = [&](const at::Tensor& t) {
    return ops::call_scale_dropout(t, x_scale, dropout_p, seed);
  };
  if (x_scale == 1.0 && !ops::drops(dropout_p, seed)) {
    return differentiable<&same>("add_sinusoidal", x, forward, tangent);
  }
  return differentiable<&ops::call_scale_dropout>("add_sinusoidal", x, forward, tangent, x_scale, dropout_p,
                                                  seed);
}

at::Tensor& add_sinusoidal_out_autograd(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                        double freq_shift, std::string_view layout, std::string_view odd,
                                        bool batch_first, double dropout_p, bool training, at::Tensor& out) {
  return into(
      "add_sinusoidal", out,
      [&](at::Tensor& o) {
        ops::call_add_sinusoidal_out(x, std::move(start), x_scale, base, freq_shift, layout, odd, batch_first,
                                     dropout_p, training, o);
      },
      x);
}

at::Tensor& add_sinusoidal_offsets_out_autograd(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                                double base, double freq_shift, std::string_view layout,
                                                std::string_view odd, bool batch_first, double dropout_p,
                                                bool training, at::Tensor& out) {
  return into(
      "add_sinusoidal", out,
      [&](at::Tensor& o) {
        ops::call_add_sinusoidal_offsets_out(x, start, x_scale, base, freq_shift, layout, odd, batch_first,
                                             dropout_p, training, o);
      },
      x);
}

at::Tensor& add_sinusoidal_positions_out_autograd(const at::Tensor& x, const at::Tensor& positions,
                                                  double x_scale, double base, double freq_shift,
                                                  std::string_view layout, std::string_view odd,
                                                  double dropout_p, bool training, at::Tensor& out) {
  return into(
      "add_sinusoidal", out,
      [&](at::Tensor& o) {
        ops::call_add_sinusoidal_positions_out(x, positions, x_scale, base, freq_shift, layout, odd,
                                               dropout_p, training, o);
      },
      x);
}

at::Tensor scale_dropout_autograd(const at::Tensor& x, double scale, double dropout_p,
                                  const std::optional<at::Tensor>& seed) {
  return linear<&ops::call_scale_dropout>(
      "_scale_dropout", x,
      [&](const at::Tensor& t) { return ops::call_scale_dropout(t, scale, dropout_p, seed); }, scale,
      dropout_p, seed);
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("sinusoidal_table.out", TORCH_FN(sinusoidal_table_out_autograd));
  m.impl("sinusoidal.out", TORCH_FN(sinusoidal_out_autograd));
  m.impl("_sinusoidal", TORCH_FN(sinusoidal_autograd));
  m.impl("_sinusoidal_backward", TORCH_FN(sinusoidal_backward_autograd));
  m.impl("_add_sinusoidal", TORCH_FN(add_sinusoidal_autograd));
  m.impl("add_sinusoidal.out", TORCH_FN(add_sinusoidal_out_autograd));
  m.impl("add_sinusoidal.offsets_out", TORCH_FN(add_sinusoidal_offsets_out_autograd));
  m.impl("add_sinusoidal.positions_out", TORCH_FN(add_sinusoidal_positions_out_autograd));
  m.impl("_scale_dropout", TORCH_FN(scale_dropout_autograd));
}

}  // namespace posenc_ext::autograd
