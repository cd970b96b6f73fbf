// Dropout, which ops that end in it share: its checks, its seed, and a typed call of its op. A seed is one
// int64.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/philox.h"

namespace posenc_ext::ops {

void check_dropout(const char* op, const at::Tensor& x, double dropout_p,
                   const std::optional<at::Tensor>& seed);

void check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                         const std::optional<at::Tensor>& seed);

// One draw from the generator of x's device, left where it is drawn: no synchronisation, and safe to capture
// in a CUDA graph. None where nothing is dropped, and where dropout_p is an error yet to be raised.
std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training);

inline bool drops(double dropout_p, const std::optional<at::Tensor>& seed) {
  return dropout_p > 0.0 && seed.has_value() && seed->defined();
}

at::Tensor call_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed);

}  // namespace posenc_ext::ops
