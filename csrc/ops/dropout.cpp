#include "ops/dropout.h"

#include <ATen/ops/randint.h>

#include <limits>

namespace posenc_ext::ops {

void Dropping::draw_seed() { seed = ops::draw_seed(x, dropout_p, training); }

args::SeededDropout Dropping::seeded_dropout() const {
  return {core::make_dropout(dropout_p), drops(dropout_p, seed) ? seed->const_data_ptr<int64_t>() : nullptr};
}

void check_dropout(const Dropping& arguments) {
  const double p = arguments.dropout_p;
  POSENC_CHECK(p >= 0.0 && p <= 1.0, arguments.op, "dropout_p must be in [0, 1], got ", p);
  const std::optional<at::Tensor>& seed = arguments.seed;
  if (!seed.has_value() || !seed->defined()) return;
  const at::Device device = arguments.x.device();
  POSENC_CHECK(seed->scalar_type() == at::kLong && seed->sym_numel() == 1 && seed->device() == device,
               arguments.op, "seed must be one int64 on the device of x (", device, "), got ",
               seed->scalar_type(), " ", seed->sym_sizes(), " on ", seed->device());
}

std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training) {
  if (!(training && dropout_p > 0.0 && dropout_p <= 1.0)) return std::nullopt;
  return at::randint(std::numeric_limits<int64_t>::max(), {1},
                     at::TensorOptions().dtype(at::kLong).device(x.device()));
}

Dropping check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                             const std::optional<at::Tensor>& seed) {
  const Dropping arguments{{"_scale_dropout", sizes_of(x), x.options()}, x, scale, dropout_p, seed};
  check_dtype(arguments.op, "x", x.scalar_type());
  check_finite(arguments.op, "scale", scale);
  check_dropout(arguments);
  return arguments;
}

args::ScaleDropout fill_args(Dropping& arguments, const at::Tensor& out) {
  at::Tensor& x = arguments.x;
  x = collapsible(x, x.dim());
  return {arguments.x_scale,     arguments.seeded_dropout(), to_core(x.scalar_type()),
          x.const_data_ptr(),    to_strided(x, x.dim()),     out.numel(),
          out.mutable_data_ptr()};
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { m.impl("_scale_dropout", kernel<Meta, check_scale_dropout>()); }

}  // namespace posenc_ext::ops
