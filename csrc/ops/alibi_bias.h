// ALiBi: argument checks for Meta, CPU and CUDA, and typed calls through the dispatcher.
#pragma once

#include "ops/call.h"
#include "ops/kernel.h"

namespace posenc_ext::ops {

struct AlibiBias : Result {
  at::Tensor slopes;
  c10::SymInt q_offset;
  bool causal;
};

AlibiBias check_alibi_bias(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool causal);
AlibiBias check_alibi_bias_out(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                               c10::SymInt q_offset, bool causal, at::Tensor& out);

struct AlibiBiasBackward : Result {
  at::Tensor grad;
  c10::SymInt q_offset;
  bool causal;
};

AlibiBiasBackward check_alibi_bias_backward(const at::Tensor& grad, c10::SymInt q_offset, bool causal);

struct AlibiSlopes : Result {};

AlibiSlopes check_alibi_slopes(int64_t num_heads, at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool), "alibi_bias">
    call_alibi_bias;
inline constexpr Op<at::Tensor&(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool, at::Tensor&),
                    "alibi_bias.out">
    call_alibi_bias_out;
inline constexpr Op<at::Tensor(const at::Tensor&, c10::SymInt, bool), "_alibi_bias_backward">
    call_alibi_bias_backward;
inline constexpr Op<at::Tensor&(int64_t, at::Tensor&), "alibi_slopes.out"> call_alibi_slopes_out;

}  // namespace posenc_ext::ops
