// The bias of any index: argument checks for Meta, CPU and CUDA, and typed calls through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/call.h"
#include "ops/out.h"

namespace posenc_ext::ops {

// Whether the values of the index are rows of the table is checked where they are read.
void check_gather_bias(const at::Tensor& table, const at::Tensor& index);
void check_gather_bias_backward(const at::Tensor& grad, const at::Tensor& index, const c10::SymInt& num_rows);

// [..., Q, K] -> [..., heads, Q, K]
c10::SymDimVector gather_bias_sizes(const at::Tensor& index, const c10::SymInt& heads);

// check_gather_bias, and the rules on `out`, which is given the result's shape where it is empty.
void check_gather_bias_out(const at::Tensor& table, const at::Tensor& index, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&), "gather_bias"> call_gather_bias;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, at::Tensor&), "gather_bias.out">
    call_gather_bias_out;
inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt), "_gather_bias_backward">
    call_gather_bias_backward;

}  // namespace posenc_ext::ops
