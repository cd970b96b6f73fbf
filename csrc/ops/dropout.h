// Dropout, which ops that end in it share: its checks, its seed or mask, and typed calls of its ops.
//
// A `seed` is one int64 that draws the mask, or that mask: uint8, a bit for each element of the result in
// linear order, the lowest first, set where the element is kept. CUDA, where drawing costs next to nothing,
// takes no masks.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/philox.h"

namespace posenc_ext::ops {

// `sizes`: of the result.
void check_dropout(const char* op, const at::Tensor& x, double dropout_p,
                   const std::optional<at::Tensor>& seed, c10::SymIntArrayRef sizes);

void check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                         const std::optional<at::Tensor>& seed);

void check_dropout_mask(const at::Tensor& seed, const c10::SymInt& count, double dropout_p);

// Bytes of a mask of `count` elements.
inline c10::SymInt mask_bytes(const c10::SymInt& count) { return (count + 7) / 8; }

// One draw from the generator of x's device, left where it is drawn: no synchronisation, and safe to capture
// in a CUDA graph. None where nothing is dropped, and where dropout_p is an error yet to be raised.
std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training);

// For a call that backward follows: the mask of a seed, where reading it takes less time than drawing it
// again. Else the seed.
std::optional<at::Tensor> kept_for_backward(const std::optional<at::Tensor>& seed, double dropout_p,
                                            const at::Tensor& x, c10::SymIntArrayRef sizes);

inline bool drops(double dropout_p, const std::optional<at::Tensor>& seed) {
  return dropout_p > 0.0 && seed.has_value() && seed->defined();
}

at::Tensor call_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed);
at::Tensor call_dropout_mask(const at::Tensor& seed, c10::SymInt count, double dropout_p);

}  // namespace posenc_ext::ops
