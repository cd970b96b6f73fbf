// Absolute position embeddings: checks, kernel arguments, and typed calls.
#pragma once

#include "args/position_embedding.h"
#include "ops/dropout.h"

namespace posenc_ext::ops {

struct AddPositionEmbedding : Dropping {
  at::Tensor pos_embed{};
  at::TensorList prefix_tokens{};
  std::vector<at::Tensor> few_prefixes{};  // the same tokens in at most kMaxPrefixes tensors
  bool embed_prefix = true, batch_first = true;
  int64_t pos_token_axis = 0;  // of pos_embed
  c10::SymInt prefix_length = 0;

  int64_t batch_axis() const { return batch_first ? 0 : 1; }
  int64_t token_axis() const { return batch_first ? 1 : 0; }
};

AddPositionEmbedding check_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                                  at::TensorList prefix_tokens, bool embed_prefix,
                                                  double x_scale, bool batch_first, double dropout_p,
                                                  const std::optional<at::Tensor>& seed);
AddPositionEmbedding check_add_position_embedding_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                                      at::TensorList prefix_tokens, bool embed_prefix,
                                                      double x_scale, bool batch_first, double dropout_p,
                                                      bool training, at::Tensor& out);
args::AddPositionEmbedding fill_args(AddPositionEmbedding& arguments, const at::Tensor& out);

// A second operand must have the dtype of x, which must be supported, and its device.
void check_like_x(const at::Tensor& tensor, const char* argument, const at::Tensor& x);

// The dtype that cat and add would promote to; none where a check will reject some dtype.
std::optional<at::ScalarType> promoted_dtype(const at::Tensor& x, const at::Tensor& pos_embed,
                                             at::TensorList prefix_tokens);

// [tokens, channels]: the sum over the samples of grad, [B, N, D] or [N, B, D].
struct SumBatch : Result {
  at::Tensor grad;
  bool batch_first;
};

SumBatch check_sum_batch(const at::Tensor& grad, bool batch_first);
args::SumBatch fill_args(SumBatch& arguments, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, at::TensorList, bool, double, bool,
                               double, const std::optional<at::Tensor>&),
                    "_add_position_embedding">
    call_add_position_embedding;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, at::TensorList, bool, double, bool,
                                double, bool, at::Tensor&),
                    "add_position_embedding.out">
    call_add_position_embedding_out;
inline constexpr Op<at::Tensor(const at::Tensor&, bool), "_sum_batch"> call_sum_batch;

}  // namespace posenc_ext::ops
