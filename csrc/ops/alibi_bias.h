// ALiBi: argument checks for Meta, CPU and CUDA, and typed calls through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/call.h"
#include "ops/out.h"

namespace posenc_ext::ops {

void check_alibi_bias(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                      const c10::SymInt& q_offset);
void check_alibi_bias_out(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                          const c10::SymInt& q_offset, const at::Tensor& out);
void check_alibi_bias_backward(const at::Tensor& grad, const c10::SymInt& q_offset);
void check_alibi_slopes(int64_t num_heads, at::ScalarType dtype);

// The result of alibi_slopes.out must have its shape; an empty one is given it.
void resize_alibi_slopes(int64_t num_heads, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool), "alibi_bias">
    call_alibi_bias;
inline constexpr Op<at::Tensor&(const at::Tensor&, c10::SymInt, c10::SymInt, c10::SymInt, bool, at::Tensor&),
                    "alibi_bias.out">
    call_alibi_bias_out;
inline constexpr Op<at::Tensor(const at::Tensor&, c10::SymInt, bool), "_alibi_bias_backward">
    call_alibi_bias_backward;
inline constexpr Op<at::Tensor&(int64_t, at::Tensor&), "alibi_slopes.out"> call_alibi_slopes_out;

}  // namespace posenc_ext::ops
