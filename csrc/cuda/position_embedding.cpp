// The position-embedding ops on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/position_embedding.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/dropout.h"
#include "ops/position_embedding.h"

namespace posenc_ext::cuda {
namespace {

// Writes the checked sum into `out`, which is contiguous and apart from the inputs.
void embed_into(const ops::EmbeddedShape& shape, const at::Tensor& x, const at::Tensor& pos_embed,
                at::TensorList prefix_tokens, bool embed_prefix, double x_scale, double dropout_p,
                const std::optional<at::Tensor>& seed, at::Tensor& out) {
  if (out.numel() == 0) return;
  AddPositionEmbedding a{};
  const auto few = ops::in_few_prefixes(prefix_tokens, a.kMaxPrefixes, x.size(shape.batch_first ? 0 : 1),
                                        shape.batch_first);
  ops::describe(a, shape, x, pos_embed, few, embed_prefix, x_scale, out);
  a.dropout = seeded(dropout_p, seed);
  add_position_embedding(a, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor add_position_embedding_cuda(const at::Tensor& x, const at::Tensor& pos_embed,
                                       at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                       bool batch_first, double dropout_p,
                                       const std::optional<at::Tensor>& seed) {
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, seed);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(shape.sizes()), x.options());
  embed_into(shape, x, pos_embed, prefix_tokens, embed_prefix, x_scale, dropout_p, seed, out);
  return out;
}

at::Tensor& add_position_embedding_out_cuda(const at::Tensor& x, const at::Tensor& pos_embed,
                                            at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                            bool batch_first, double dropout_p, bool training,
                                            at::Tensor& out) {
  const char* op = "add_position_embedding";
  const auto shape = ops::check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                       batch_first, dropout_p, std::nullopt);
  const c10::cuda::CUDAGuard guard(x.device());
  ops::resize_out_like(op, "x", x, shape.sizes(), out);
  bool direct = out.is_contiguous();
  const auto check = [&](const char* argument, const at::Tensor& input) {
    direct = ops::check_apart(op, argument, input, out) == ops::Overlap::apart && direct;
  };
  check("x", x);
  check("pos_embed", pos_embed);
  for (const at::Tensor& prefix : prefix_tokens) check("prefix_tokens", prefix);
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : at::empty(C10_AS_INTARRAYREF_SLOW(shape.sizes()), x.options());
  embed_into(shape, x, pos_embed, prefix_tokens, embed_prefix, x_scale, dropout_p, seed, result);
  if (!direct) out.copy_(result);
  return out;
}

at::Tensor sum_batch_cuda(const at::Tensor& grad, bool batch_first) {
  const c10::SymDimVector sizes = ops::check_sum_batch(grad, batch_first);
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(sizes), grad.options());
  if (out.numel() == 0) return out;
  SumBatch a{};
  ops::describe_sum(a, grad, batch_first, out);
  sum_batch(a, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_cuda));
  m.impl("add_position_embedding.out", TORCH_FN(add_position_embedding_out_cuda));
  m.impl("_sum_batch", TORCH_FN(sum_batch_cuda));
}

}  // namespace posenc_ext::cuda
