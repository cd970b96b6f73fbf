// The position-embedding ops on the CPU: from tensors to pointers, and threads. No work is cut by thread
// count.
#include "ops/position_embedding.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/dropout.h"
#include "cpu/kernels/position_embedding.h"
#include "cpu/parallel.h"

namespace posenc_ext::cpu {
namespace {

Tokens tokens_of(const at::Tensor& tensor, int64_t batch_axis) {
  const int64_t batch_stride = tensor.size(batch_axis) == 1 ? 0 : tensor.stride(batch_axis);
  return {tensor.const_data_ptr(), batch_stride, tensor.stride(1 - batch_axis), tensor.stride(2)};
}

at::Tensor add_position_embedding_cpu(const at::Tensor& x, const at::Tensor& pos_embed,
                                      at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                      bool batch_first, double dropout_p,
                                      const std::optional<at::Tensor>& seed) {
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, seed);
  at::Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(shape.sizes()), x.options());
  if (out.numel() == 0) return out;
  const int64_t batch_axis = batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  AddPositionEmbedding a{};
  if (prefix_tokens.size() > static_cast<size_t>(a.kMaxPrefixes)) {
    // More than the kernel's list holds: the last place goes to all of the rest.
    std::vector<at::Tensor> few = prefix_tokens.slice(0, a.kMaxPrefixes - 1).vec(), rest;
    for (const at::Tensor& prefix : prefix_tokens.slice(a.kMaxPrefixes - 1)) {
      c10::DimVector sizes(prefix.sizes().begin(), prefix.sizes().end());
      sizes[batch_axis] = x.size(batch_axis);
      rest.push_back(prefix.expand(sizes));
    }
    few.push_back(at::cat(rest, token_axis));
    return add_position_embedding_cpu(x, pos_embed, few, embed_prefix, x_scale, batch_first, dropout_p, seed);
  }
  a.dtype = ops::to_core(x.scalar_type());
  a.batch = out.size(batch_axis);
  a.length = out.size(token_axis);
  a.dim = out.size(2);
  a.x = tokens_of(x, batch_axis);
  a.x_scale = x_scale;
  for (const at::Tensor& prefix : prefix_tokens) {
    a.prefix_length += prefix.size(token_axis);
    a.prefix[a.prefixes] = tokens_of(prefix, batch_axis);
    a.prefix_end[a.prefixes++] = a.prefix_length;
  }
  a.pos = pos_embed.const_data_ptr();
  a.pos_token_stride = pos_embed.stride(shape.pos_token_axis);
  a.pos_channel_stride = pos_embed.stride(-1);
  a.first_embedded = embed_prefix ? 0 : a.prefix_length;
  a.dropout = seeded(dropout_p, seed);
  a.out = out.mutable_data_ptr();
  a.out_batch_stride = out.stride(batch_axis);
  a.out_token_stride = out.stride(token_axis);
  // An item's rows of pos_embed stay in cache while it, and the next items, walk over the samples. Where x
  // has its channels apart, its cache lines must stay there instead, and it is read in squares of 32 tokens.
  constexpr int64_t kItemElements = 16384, kSquare = 32;
  const int64_t rows = core::max_of<int64_t>(1, kItemElements / a.dim);
  a.whole_samples = a.x.channel_stride > a.x.token_stride;
  a.item_tokens = a.whole_samples ? core::max_of(rows / kSquare * kSquare, kSquare) : batch_first ? rows : 1;
  a.item_samples = a.whole_samples || batch_first ? 1 : rows;
  parallel_for(a.items(),
               core::min_of(a.item_tokens, a.length) * core::min_of(a.item_samples, a.batch) * a.dim,
               [&](int64_t begin, int64_t end) { POSENC_AT_LEVEL(add_position_embedding, a, begin, end); });
  return out;
}

at::Tensor sum_batch_cpu(const at::Tensor& grad, bool batch_first) {
  at::Tensor out =
      at::empty(C10_AS_INTARRAYREF_SLOW(ops::check_sum_batch(grad, batch_first)), grad.options());
  if (out.numel() == 0) return out;
  const int64_t tokens = out.size(0), channels = out.size(1);
  const int64_t token_stride = grad.stride(batch_first ? 1 : 0), channel_stride = grad.stride(2);
  SumBatch a{};
  a.dtype = ops::to_core(grad.scalar_type());
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
  parallel_for(a.items(), core::min_of(a.columns, a.kBlock) * a.batch,
               [&](int64_t begin, int64_t end) { POSENC_AT_LEVEL(sum_batch, a, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_cpu));
  m.impl("_sum_batch", TORCH_FN(sum_batch_cpu));
}

}  // namespace posenc_ext::cpu
