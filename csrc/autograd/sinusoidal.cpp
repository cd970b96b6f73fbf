// Gradients of the sinusoids. A sinusoid is not linear in its positions, but its derivatives are the same op
// with a higher order.
#include "ops/sinusoidal.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor sinusoidal_autograd(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                               double scale, std::string_view layout, std::string_view odd, int64_t order,
                               std::optional<at::ScalarType> dtype) {
  const auto derivative = [&](const at::Tensor& p, int64_t n) {
    return ops::call_sinusoidal(p, dim, base, freq_shift, scale, layout, odd, n, dtype);
  };
  return differentiable<ops::call_sinusoidal_backward>(
      "sinusoidal", [&] { return derivative(positions, order); },
      [&](const at::Tensor&) {
        const at::Tensor slope = derivative(positions._fw_primal(/*level=*/0), order + 1);
        const at::Tensor tangent = positions._fw_grad(/*level=*/0);
        return at::mul(slope, tangent.unsqueeze(-1).to(slope.scalar_type()));
      },
      [&](auto& node, const at::Tensor&) {
        node.save(positions, base, freq_shift, scale, layout, odd, order + 1);
      },
      positions);
}

// Of out = sum over channels of grad * slope(positions), in float64 as the kernel computes it.
variable_list sinusoidal_backward_backward(const at::Tensor& grad_out, const OutputMask& mask,
                                           const at::Tensor& grad, const at::Tensor& positions, double base,
                                           double freq_shift, double scale, std::string_view layout,
                                           std::string_view odd, int64_t order) {
  const at::Tensor factor = grad_out.to(at::kDouble).unsqueeze(-1);
  variable_list gradients(2);
  if (mask[0]) {
    const at::Tensor slope = ops::call_sinusoidal(positions, grad.sym_size(-1), base, freq_shift, scale,
                                                  layout, odd, order, at::kDouble);
    gradients[0] = at::mul(factor, slope).to(grad.scalar_type());
  }
  if (mask[1]) {
    gradients[1] = ops::call_sinusoidal_backward(at::mul(factor, grad.to(at::kDouble)), positions, base,
                                                 freq_shift, scale, layout, odd, order + 1);
  }
  return gradients;
}

at::Tensor sinusoidal_backward_autograd(const at::Tensor& grad, const at::Tensor& positions, double base,
                                        double freq_shift, double scale, std::string_view layout,
                                        std::string_view odd, int64_t order) {
  return differentiable<&sinusoidal_backward_backward>(
      "_sinusoidal_backward",
      [&] {
        return ops::call_sinusoidal_backward(grad, positions, base, freq_shift, scale, layout, odd, order);
      },
      [&](const at::Tensor&) {
        const at::Tensor slope = ops::call_sinusoidal(positions, grad.sym_size(-1), base, freq_shift, scale,
                                                      layout, odd, order, at::kDouble);
        const at::Tensor sum = at::sum(at::mul(grad.to(at::kDouble), slope), -1);
        return sum.to(positions.scalar_type())._fw_grad(/*level=*/0);
      },
      [&](auto& node, const at::Tensor&) {
        node.save(grad, positions, base, freq_shift, scale, layout, odd, order);
      },
      grad, positions);
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("sinusoidal_table.out", into_kernel<ops::call_sinusoidal_table_out>());
  m.impl("sinusoidal.out", into_kernel<ops::call_sinusoidal_out>());
  m.impl("_sinusoidal", TORCH_FN(sinusoidal_autograd));
  m.impl("_sinusoidal_backward", TORCH_FN(sinusoidal_backward_autograd));
}

}  // namespace posenc_ext::autograd
