// Dropout: checks, seeds, and the op that scales and drops.
#pragma once

#include "args/dropout.h"
#include "ops/call.h"
#include "ops/kernel.h"

namespace posenc_ext::ops {

// The checked arguments of an op that ends in dropout: y = dropout(f(x * x_scale)). No seed, no dropout.
struct Dropping : Result {
  at::Tensor x{};
  double x_scale = 1.0, dropout_p = 0.0;
  std::optional<at::Tensor> seed{};
  bool training = false;  // the overload that writes into `out` generates its own seed

  void draw_seed();
  args::SeededDropout seeded_dropout() const;
};

// Checks dropout_p and the seed.
void check_dropout(const Dropping& arguments);

// One number from the generator of x's device, which stays there: no synchronization, and a captured CUDA
// graph generates a new one at each replay. None without dropout, and for a dropout_p that a check will
// reject.
std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training);

inline bool drops(double dropout_p, const std::optional<at::Tensor>& seed) {
  return dropout_p > 0.0 && seed.has_value() && seed->defined();
}

Dropping check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                             const std::optional<at::Tensor>& seed);
args::ScaleDropout fill_args(Dropping& arguments, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, double, double, const std::optional<at::Tensor>&),
                    "_scale_dropout">
    call_scale_dropout;

}  // namespace posenc_ext::ops
