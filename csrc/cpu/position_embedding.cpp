// The position-embedding ops on the CPU: from tensors to pointers, and threads. No work is cut by thread
// count.
#include "ops/position_embedding.h"

#include <torch/library.h>

#include "cpu/dropout.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"
#include "cpu/memory.h"

namespace posenc_ext::cpu {
namespace {

// Writes the checked sum into `out`, which is contiguous and apart from the inputs.
void embed_into(const ops::EmbeddedShape& shape, const at::Tensor& x, const at::Tensor& pos_embed,
                at::TensorList prefix_tokens, bool embed_prefix, double x_scale, double dropout_p,
                const std::optional<at::Tensor>& seed, at::Tensor& out) {
  if (out.numel() == 0) return;
  AddPositionEmbedding a{};
  if (prefix_tokens.size() > static_cast<size_t>(a.kMaxPrefixes)) {
    const auto few = ops::in_few_prefixes(prefix_tokens, a.kMaxPrefixes, x.size(shape.batch_first ? 0 : 1),
                                          shape.batch_first);
    return embed_into(shape, x, pos_embed, few, embed_prefix, x_scale, dropout_p, seed, out);
  }
  ops::describe(a, shape, x, pos_embed, prefix_tokens, embed_prefix, x_scale, out);
  a.dropout = seeded(dropout_p, seed);
  a.past_caches = writes_past_caches(out);
  // An item's rows of pos_embed stay in cache while it, and the next items, walk over the samples. Where x
  // has its channels apart, its cache lines must stay there instead, and it is read in squares of 32 tokens.
  constexpr int64_t kItemElements = 16384, kSquare = 32;
  const int64_t rows = core::max_of<int64_t>(1, kItemElements / a.dim);
  a.whole_samples = a.x.channel_stride > a.x.token_stride;
  a.item_tokens = a.whole_samples     ? core::max_of(rows / kSquare * kSquare, kSquare)
                  : shape.batch_first ? rows
                                      : 1;
  // Four samples share the rows of pos_embed in registers.
  a.item_samples = a.whole_samples ? 1 : shape.batch_first ? 4 : rows;
  parallel_for(a.items(),
               core::min_of(a.item_tokens, a.length) * core::min_of(a.item_samples, a.batch) * a.dim,
               [&](int64_t begin, int64_t end) { kernels().add_position_embedding(a, begin, end); });
}

at::Tensor add_position_embedding_cpu(const at::Tensor& x, const at::Tensor& pos_embed,
                                      at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                      bool batch_first, double dropout_p,
                                      const std::optional<at::Tensor>& seed) {
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, seed);
  at::Tensor out = new_result(C10_AS_INTARRAYREF_SLOW(shape.sizes()), x.scalar_type());
  embed_into(shape, x, pos_embed, prefix_tokens, embed_prefix, x_scale, dropout_p, seed, out);
  return out;
}

at::Tensor& add_position_embedding_out_cpu(const at::Tensor& x, const at::Tensor& pos_embed,
                                           at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                           bool batch_first, double dropout_p, bool training,
                                           at::Tensor& out) {
  const char* op = "add_position_embedding";
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, std::nullopt);
  ops::resize_out_like(op, "x", x, shape.sizes(), out);
  bool direct = out.is_contiguous();
  const auto check = [&](const char* argument, const at::Tensor& input) {
    direct = ops::check_apart(op, argument, input, out) == ops::Overlap::apart && direct;
  };
  check("x", x);
  check("pos_embed", pos_embed);
  for (const at::Tensor& prefix : prefix_tokens) check("prefix_tokens", prefix);
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : new_result(C10_AS_INTARRAYREF_SLOW(shape.sizes()), x.scalar_type());
  embed_into(shape, x, pos_embed, prefix_tokens, embed_prefix, x_scale, dropout_p, seed, result);
  if (!direct) out.copy_(result);
  return out;
}

at::Tensor sum_batch_cpu(const at::Tensor& grad, bool batch_first) {
  at::Tensor out =
      new_result(C10_AS_INTARRAYREF_SLOW(ops::check_sum_batch(grad, batch_first)), grad.scalar_type());
  if (out.numel() == 0) return out;
  SumBatch a{};
  ops::describe_sum(a, grad, batch_first, out);
  parallel_for(a.items(), core::min_of(a.columns, a.kBlock) * a.batch,
               [&](int64_t begin, int64_t end) { kernels().sum_batch(a, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_cpu));
  m.impl("add_position_embedding.out", TORCH_FN(add_position_embedding_out_cpu));
  m.impl("_sum_batch", TORCH_FN(sum_batch_cpu));
}

}  // namespace posenc_ext::cpu
