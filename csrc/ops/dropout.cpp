#include "ops/dropout.h"

#include <ATen/ops/randint.h>

#include <limits>

#include "ops/call.h"
#include "ops/types.h"

namespace posenc_ext::ops {
namespace {

void check_dropout_p(const char* op, double dropout_p) {
  POSENC_CHECK(dropout_p >= 0.0 && dropout_p <= 1.0, op, "dropout_p must be in [0, 1], got ", dropout_p);
}

}  // namespace

void check_dropout(const char* op, const at::Tensor& x, double dropout_p,
                   const std::optional<at::Tensor>& seed) {
  check_dropout_p(op, dropout_p);
  if (!seed.has_value() || !seed->defined()) return;
  POSENC_CHECK(seed->scalar_type() == at::kLong && seed->sym_numel() == 1 && seed->device() == x.device(), op,
               "seed must be one int64 on the device of x (", x.device(), "), got ", seed->scalar_type(), " ",
               seed->sym_sizes(), " on ", seed->device());
}

void check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                         const std::optional<at::Tensor>& seed) {
  const char* op = "_scale_dropout";
  check_dtype(op, "x", x.scalar_type());
  check_finite(op, "scale", scale);
  check_dropout(op, x, dropout_p, seed);
}

std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training) {
  if (!(training && dropout_p > 0.0 && dropout_p <= 1.0)) return std::nullopt;
  return at::randint(std::numeric_limits<int64_t>::max(), {1},
                     at::TensorOptions().dtype(at::kLong).device(x.device()));
}

at::Tensor call_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, double, double, const std::optional<at::Tensor>&)>(
          "posenc_ext::_scale_dropout");
  return op.call(x, scale, dropout_p, seed);
}

}  // namespace posenc_ext::ops
