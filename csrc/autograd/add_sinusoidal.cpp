// The gradient of add_sinusoidal, which is affine in x.
#include "ops/add_sinusoidal.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor same(const at::Tensor& grad) { return grad; }

at::Tensor add_sinusoidal_autograd(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                                   c10::SymInt start, double x_scale, double base, double freq_shift,
                                   std::string_view layout, std::string_view odd, bool batch_first,
                                   double dropout_p, const std::optional<at::Tensor>& seed) {
  const auto forward = [&] {
    return ops::call_add_sinusoidal(x, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first,
                                    dropout_p, seed);
  };
  const auto tangent = [&](const at::Tensor&) {
    return ops::call_scale_dropout(x._fw_grad(/*level=*/0), x_scale, dropout_p, seed);
  };
  if (x_scale == 1.0 && !ops::drops(dropout_p, seed)) {
    return differentiable<&same>("add_sinusoidal", forward, tangent, [](auto&, const at::Tensor&) {}, x);
  }
  return differentiable<ops::call_scale_dropout>(
      "add_sinusoidal", forward, tangent,
      [&](auto& node, const at::Tensor&) { node.save(x_scale, dropout_p, seed); }, x);
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("_add_sinusoidal", TORCH_FN(add_sinusoidal_autograd));
  m.impl("add_sinusoidal.out", into_kernel<ops::call_add_sinusoidal_out>());
  m.impl("add_sinusoidal.offsets_out", into_kernel<ops::call_add_sinusoidal_offsets_out>());
  m.impl("add_sinusoidal.positions_out", into_kernel<ops::call_add_sinusoidal_positions_out>());
}

}  // namespace posenc_ext::autograd
