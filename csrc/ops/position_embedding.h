// Absolute position embeddings: argument checks and result shapes for Meta, CPU and CUDA, and typed calls.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/dropout.h"
#include "ops/types.h"

namespace posenc_ext::ops {

struct EmbeddedShape {
  c10::SymInt batch, length, prefix_length, dim;  // length: prefix tokens and those of x
  int64_t pos_token_axis;                         // of pos_embed
  bool batch_first;

  c10::SymDimVector sizes() const {
    return batch_first ? c10::SymDimVector{batch, length, dim} : c10::SymDimVector{length, batch, dim};
  }
};

EmbeddedShape check_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                           at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                           bool batch_first, double dropout_p,
                                           const std::optional<at::Tensor>& seed);

// [tokens, channels] of the sum over the samples of grad, [B, N, D] or [N, B, D].
c10::SymDimVector check_sum_batch(const at::Tensor& grad, bool batch_first);

at::Tensor call_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                       at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                       bool batch_first, double dropout_p,
                                       const std::optional<at::Tensor>& seed);
at::Tensor call_sum_batch(const at::Tensor& grad, bool batch_first);

}  // namespace posenc_ext::ops
