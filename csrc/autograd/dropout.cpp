// The op that scales and drops is its own adjoint.
#include "ops/dropout.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

at::Tensor scale_dropout_autograd(const at::Tensor& x, double scale, double dropout_p,
                                  const std::optional<at::Tensor>& seed) {
  return linear<ops::call_scale_dropout>(
      "_scale_dropout", x,
      [&](const at::Tensor& t) { return ops::call_scale_dropout(t, scale, dropout_p, seed); },
      [&](auto& node) { node.save(scale, dropout_p, seed); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) { m.impl("_scale_dropout", TORCH_FN(scale_dropout_autograd)); }

}  // namespace posenc_ext::autograd
