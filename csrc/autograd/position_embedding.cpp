// Gradients of the position-embedding ops. The sum is linear in x, pos_embed and every prefix token at once:
// its backward cuts the gradient up again, its tangent is the sum of the tangents.
#include "ops/position_embedding.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

// The inputs' order in the lists below: x, pos_embed, the prefix tokens.
constexpr size_t kX = 0, kPosEmbed = 1, kPrefix = 2;

// What backward must know of the arguments: pos_embed's batch axis (-1: it has none), and each prefix's
// sizes.
variable_list cut_gradient(const at::Tensor& grad, const Wanted& wanted, int64_t pos_batch_axis,
                           c10::SymIntArrayRef prefix_lengths, c10::SymIntArrayRef prefix_batches,
                           bool embed_prefix, double x_scale, bool batch_first, double dropout_p,
                           const std::optional<at::Tensor>& seed) {
  const int64_t batch_axis = batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  const bool drops = ops::drops(dropout_p, seed);
  const at::Tensor kept = drops ? ops::call_scale_dropout(grad, 1.0, dropout_p, seed) : grad;
  c10::SymInt prefix_length = 0;
  for (const c10::SymInt& length : prefix_lengths) prefix_length += length;
  const at::Tensor patches =
      prefix_lengths.empty()
          ? kept
          : kept.narrow_symint(token_axis, prefix_length, kept.sym_size(token_axis) - prefix_length);
  variable_list gradients(wanted.size());
  if (wanted[kX]) {
    gradients[kX] = x_scale == 1.0 ? patches : ops::call_scale_dropout(patches, x_scale, 0.0, std::nullopt);
  }
  if (wanted[kPosEmbed]) {
    // A sum also over a batch of one: this gradient must not share memory with that of x.
    const at::Tensor sum = ops::call_sum_batch(embed_prefix ? kept : patches, batch_first);
    gradients[kPosEmbed] = pos_batch_axis < 0 ? sum : sum.unsqueeze(pos_batch_axis);
  }
  c10::SymInt first = 0;
  for (size_t i = 0; i < prefix_lengths.size(); ++i) {
    if (wanted[kPrefix + i]) {
      const at::Tensor own = kept.narrow_symint(token_axis, first, prefix_lengths[i]);
      const bool shared = prefix_batches[i] == 1 && kept.sym_size(batch_axis) != 1;
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
  const int64_t batch_axis = batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  const auto forward = [&] {
    return ops::call_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first,
                                            dropout_p, seed);
  };
  const auto tangent = [&] {
    std::vector<at::Tensor> prefixes;
    for (const at::Tensor& prefix : prefix_tokens) prefixes.push_back(tangent_or_zeros(prefix));
    return ops::call_add_position_embedding(tangent_or_zeros(x), tangent_or_zeros(pos_embed), prefixes,
                                            embed_prefix, x_scale, batch_first, dropout_p, seed);
  };
  const auto record = [&](LinearBackward<&cut_gradient>& node) {
    int64_t pos_batch_axis = -1;
    // Forward checks the arguments; what is read of them here has to be checked before.
    if (pos_embed.dim() == 3 || !prefix_tokens.empty()) {
      const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                           batch_first, dropout_p, seed);
      if (pos_embed.dim() == 3) pos_batch_axis = 1 - shape.pos_token_axis;
    }
    std::vector<c10::SymInt> lengths, batches;
    for (const at::Tensor& prefix : prefix_tokens) {
      lengths.push_back(prefix.sym_size(token_axis));
      batches.push_back(prefix.sym_size(batch_axis));
    }
    node.keep(pos_batch_axis, lengths, batches, embed_prefix, x_scale, batch_first, dropout_p, seed);
  };
  return differentiable_in<LinearBackward<&cut_gradient>>("add_position_embedding", forward, tangent, record,
                                                          x, pos_embed, prefix_tokens);
}

at::Tensor& add_position_embedding_out_autograd(const at::Tensor& x, const at::Tensor& pos_embed,
                                                at::TensorList prefix_tokens, bool embed_prefix,
                                                double x_scale, bool batch_first, double dropout_p,
                                                bool training, at::Tensor& out) {
  return into(
      "add_position_embedding", out,
      [&](at::Tensor& o) {
        ops::call_add_position_embedding_out(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first,
                                             dropout_p, training, o);
      },
      x, pos_embed, prefix_tokens);
}

at::Tensor expand_batch(const at::Tensor& sum, c10::SymInt batch, bool batch_first) {
  const int64_t batch_axis = batch_first ? 0 : 1;
  c10::SymDimVector sizes{-1, -1, -1};
  sizes[batch_axis] = std::move(batch);
  return sum.unsqueeze(batch_axis).expand_symint(sizes);
}

at::Tensor sum_batch_autograd(const at::Tensor& grad, bool batch_first) {
  ops::check_sum_batch(grad, batch_first);  // the size below needs its dimensions
  return linear<&expand_batch>(
      "_sum_batch", grad, [&](const at::Tensor& g) { return ops::call_sum_batch(g, batch_first); },
      grad.sym_size(batch_first ? 0 : 1), batch_first);
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_autograd));
  m.impl("add_position_embedding.out", TORCH_FN(add_position_embedding_out_autograd));
  m.impl("_sum_batch", TORCH_FN(sum_batch_autograd));
}

}  // namespace posenc_ext::autograd
