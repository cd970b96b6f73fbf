// Gradients of the position-embedding ops. The sum is linear in x, pos_embed and every prefix token at once:
// its backward splits the gradient again, its tangent is the sum of the tangents.
#include "ops/position_embedding.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

// The inputs' order in the lists below: x, pos_embed, the prefix tokens.
constexpr size_t kX = 0, kPosEmbed = 1, kPrefix = 2;

// What backward must know of the arguments: pos_embed's batch axis (-1: it has none), and each prefix's
// sizes.
variable_list split_gradient(const at::Tensor& grad, const OutputMask& mask, int64_t pos_batch_axis,
                             c10::SymIntArrayRef prefix_lengths, c10::SymIntArrayRef prefix_batches,
                             bool embed_prefix, double x_scale, bool batch_first, double dropout_p,
                             const std::optional<at::Tensor>& seed) {
  const int64_t batch_axis = batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  const bool drops = ops::drops(dropout_p, seed);
  const at::Tensor retained = drops ? ops::call_scale_dropout(grad, 1.0, dropout_p, seed) : grad;
  c10::SymInt prefix_length = 0;
  for (const c10::SymInt& length : prefix_lengths) prefix_length += length;
  const at::Tensor patches =
      prefix_lengths.empty()
          ? retained
          : retained.narrow_symint(token_axis, prefix_length, retained.sym_size(token_axis) - prefix_length);
  variable_list gradients(mask.size());
  if (mask[kX]) {
    gradients[kX] = x_scale == 1.0 ? patches : ops::call_scale_dropout(patches, x_scale, 0.0, std::nullopt);
  }
  if (mask[kPosEmbed]) {
    // A sum also over a batch of one: this gradient must not share memory with that of x.
    const at::Tensor sum = ops::call_sum_batch(embed_prefix ? retained : patches, batch_first);
    gradients[kPosEmbed] = pos_batch_axis < 0 ? sum : sum.unsqueeze(pos_batch_axis);
  }
  c10::SymInt first = 0;
  for (size_t i = 0; i < prefix_lengths.size(); ++i) {
    if (mask[kPrefix + i]) {
      const at::Tensor own = retained.narrow_symint(token_axis, first, prefix_lengths[i]);
      const bool shared = prefix_batches[i] == 1 && retained.sym_size(batch_axis) != 1;
      gradients[kPrefix + i] = shared ? ops::call_sum_batch(own, batch_first).unsqueeze(batch_axis) : own;
    }
    first += prefix_lengths[i];
  }
  return gradients;
}

at::Tensor add_position_embedding_autograd(const at::Tensor& x, const at::Tensor& pos_embed,
                                           at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                           bool batch_first, double dropout_p,
                                           const std::optional<at::Tensor>& seed) {
  const auto add = [&](const at::Tensor& x, const at::Tensor& pos_embed, at::TensorList prefix_tokens) {
    return ops::call_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first,
                                            dropout_p, seed);
  };
  const auto tangent = [&](const at::Tensor&) {
    std::vector<at::Tensor> prefixes;
    for (const at::Tensor& prefix : prefix_tokens) prefixes.push_back(tangent_or_zeros(prefix));
    return add(tangent_or_zeros(x), tangent_or_zeros(pos_embed), prefixes);
  };
  const auto record = [&](auto& node, const at::Tensor&) {
    int64_t pos_batch_axis = -1;
    if (pos_embed.dim() == 3) {
      pos_batch_axis = 1 - ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix,
                                                             x_scale, batch_first, dropout_p, seed)
                               .pos_token_axis;
    }
    std::vector<c10::SymInt> lengths, batches;
    for (const at::Tensor& prefix : prefix_tokens) {
      lengths.push_back(prefix.sym_size(batch_first ? 1 : 0));
      batches.push_back(prefix.sym_size(batch_first ? 0 : 1));
    }
    node.save(pos_batch_axis, lengths, batches, embed_prefix, x_scale, batch_first, dropout_p, seed);
  };
  return differentiable<&split_gradient>(
      "add_position_embedding", [&] { return add(x, pos_embed, prefix_tokens); }, tangent, record, x,
      pos_embed, prefix_tokens);
}

at::Tensor expand_batch(const at::Tensor& sum, c10::SymInt batch, bool batch_first) {
  const int64_t batch_axis = batch_first ? 0 : 1;
  c10::SymDimVector sizes{-1, -1, -1};
  sizes[batch_axis] = std::move(batch);
  return sum.unsqueeze(batch_axis).expand_symint(sizes);
}

at::Tensor sum_batch_autograd(const at::Tensor& grad, bool batch_first) {
  return linear<&expand_batch>(
      "_sum_batch", grad, [&](const at::Tensor& g) { return ops::call_sum_batch(g, batch_first); },
      [&](auto& node) { node.save(grad.sym_size(batch_first ? 0 : 1), batch_first); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_autograd));
  m.impl("add_position_embedding.out", into_kernel<ops::call_add_position_embedding_out>());
  m.impl("_sum_batch", TORCH_FN(sum_batch_autograd));
}

}  // namespace posenc_ext::autograd
