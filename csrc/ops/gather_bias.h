// The bias of any index: argument checks for Meta, CPU and CUDA, and typed calls through the dispatcher.
#pragma once

#include "ops/call.h"
#include "ops/kernel.h"

namespace posenc_ext::ops {

// [..., heads, Q, K] of an index [..., Q, K]. Whether its values are rows of the table is checked where they
// are read.
struct GatherBias : Result {
  at::Tensor table, index;
};

GatherBias check_gather_bias(const at::Tensor& table, const at::Tensor& index);
GatherBias check_gather_bias_out(const at::Tensor& table, const at::Tensor& index, at::Tensor& out);

struct GatherBiasBackward : Result {
  at::Tensor grad, index;
};

GatherBiasBackward check_gather_bias_backward(const at::Tensor& grad, const at::Tensor& index,
                                              c10::SymInt num_rows);

inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&), "gather_bias"> call_gather_bias;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, at::Tensor&), "gather_bias.out">
    call_gather_bias_out;
inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt), "_gather_bias_backward">
    call_gather_bias_backward;

}  // namespace posenc_ext::ops
