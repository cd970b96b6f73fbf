// ALiBi: argument checks for Meta, CPU and CUDA, and typed calls through the dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/types.h"

namespace posenc_ext::ops {

void check_alibi_bias(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                      const c10::SymInt& q_offset);
void check_alibi_bias_out(const at::Tensor& slopes, const c10::SymInt& q_len, const c10::SymInt& k_len,
                          const c10::SymInt& q_offset, const at::Tensor& out);
void check_alibi_bias_backward(const at::Tensor& grad, const c10::SymInt& q_offset);
void check_alibi_slopes(int64_t num_heads, at::ScalarType dtype);

// The result of alibi_slopes.out must have its shape; an empty one is given it.
void resize_alibi_slopes(int64_t num_heads, const at::Tensor& out);

at::Tensor call_alibi_bias(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                           c10::SymInt q_offset, bool causal);
at::Tensor& call_alibi_bias_out(const at::Tensor& slopes, c10::SymInt q_len, c10::SymInt k_len,
                                c10::SymInt q_offset, bool causal, at::Tensor& out);
at::Tensor call_alibi_bias_backward(const at::Tensor& grad, c10::SymInt q_offset, bool causal);
at::Tensor& call_alibi_slopes_out(int64_t num_heads, at::Tensor& out);

}  // namespace posenc_ext::ops
