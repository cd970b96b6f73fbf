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

// One more operand beside x: a dtype of ours that is the dtype of x, on the device of x.
void check_like_x(const at::Tensor& tensor, const char* argument, const at::Tensor& x);

// The dtype that cat and add would promote to; none where some dtype is an error yet to be raised.
std::optional<at::ScalarType> promoted_dtype(const at::Tensor& x, const at::Tensor& pos_embed,
                                             at::TensorList prefix_tokens);

// [tokens, channels] of the sum over the samples of grad, [B, N, D] or [N, B, D].
c10::SymDimVector check_sum_batch(const at::Tensor& grad, bool batch_first);

// The same tokens in at most `count` tensors: what is beyond is concatenated.
std::vector<at::Tensor> in_few_prefixes(at::TensorList prefix_tokens, size_t count, int64_t batch,
                                        bool batch_first);

template <class Tokens>
void describe_tokens(Tokens& a, const at::Tensor& tensor, int64_t batch_axis) {
  const int64_t batch_stride = tensor.size(batch_axis) == 1 ? 0 : tensor.stride(batch_axis);
  a = {tensor.const_data_ptr(), batch_stride, tensor.stride(1 - batch_axis), tensor.stride(2)};
}

// From checked tensors to the pointers and strides that the kernels of either device take. Prefix tokens
// stand in at most kMaxPrefixes tensors.
template <class Arguments>
void describe(Arguments& a, const EmbeddedShape& shape, const at::Tensor& x, const at::Tensor& pos_embed,
              at::TensorList prefix_tokens, bool embed_prefix, double x_scale, at::Tensor& out) {
  const int64_t batch_axis = shape.batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  a.dtype = to_core(x.scalar_type());
  a.batch = out.size(batch_axis);
  a.length = out.size(token_axis);
  a.dim = out.size(2);
  describe_tokens(a.x, x, batch_axis);
  a.x_scale = x_scale;
  for (const at::Tensor& prefix : prefix_tokens) {
    a.prefix_length += prefix.size(token_axis);
    describe_tokens(a.prefix[a.prefixes], prefix, batch_axis);
    a.prefix_end[a.prefixes++] = a.prefix_length;
  }
  a.pos = pos_embed.const_data_ptr();
  a.pos_token_stride = pos_embed.stride(shape.pos_token_axis);
  a.pos_channel_stride = pos_embed.stride(-1);
  a.first_embedded = embed_prefix ? 0 : a.prefix_length;
  a.out = out.mutable_data_ptr();
  a.out_batch_stride = out.stride(batch_axis);
  a.out_token_stride = out.stride(token_axis);
}

// out [tokens, channels]: rows and columns of the sum such that columns lie close to each other in grad.
template <class Arguments>
void describe_sum(Arguments& a, const at::Tensor& grad, bool batch_first, at::Tensor& out) {
  const int64_t tokens = out.size(0), channels = out.size(1);
  const int64_t token_stride = grad.stride(batch_first ? 1 : 0), channel_stride = grad.stride(2);
  a.dtype = to_core(grad.scalar_type());
  a.batch = grad.size(batch_first ? 0 : 1);
  a.grad = grad.const_data_ptr();
  a.batch_stride = grad.stride(batch_first ? 0 : 1);
  a.out = out.mutable_data_ptr();
  if (tokens == 1 || token_stride == channels * channel_stride) {  // one row of everything
    a.rows = 1;
    a.columns = tokens * channels;
    a.column_stride = channel_stride;
    a.out_column_stride = 1;
  } else if (channel_stride <= token_stride) {
    a.rows = tokens;
    a.columns = channels;
    a.row_stride = token_stride;
    a.column_stride = channel_stride;
    a.out_row_stride = channels;
    a.out_column_stride = 1;
  } else {  // tokens lie closer
    a.rows = channels;
    a.columns = tokens;
    a.row_stride = channel_stride;
    a.column_stride = token_stride;
    a.out_row_stride = 1;
    a.out_column_stride = channels;
  }
}

at::Tensor call_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                       at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                       bool batch_first, double dropout_p,
                                       const std::optional<at::Tensor>& seed);
at::Tensor& call_add_position_embedding_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                            at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                            bool batch_first, double dropout_p, bool training,
                                            at::Tensor& out);
at::Tensor call_sum_batch(const at::Tensor& grad, bool batch_first);

}  // namespace posenc_ext::ops
