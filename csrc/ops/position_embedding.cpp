#include "ops/position_embedding.h"

#include <ATen/ops/cat.h>
#include <torch/library.h>

#include <algorithm>
#include <string>

#include "ops/call.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

constexpr const char* kAddPositionEmbedding = "add_position_embedding";

bool has_sizes(const at::Tensor& tensor, const c10::SymInt& a, const c10::SymInt& b, const c10::SymInt& c) {
  return tensor.sym_size(0) == a && tensor.sym_size(1) == b && tensor.sym_size(2) == c;
}

// The axis of pos_embed's tokens: rows [L, D], or those with a dimension of one for the batch.
int64_t check_pos_embed(const at::Tensor& pos_embed, const c10::SymInt& rows, const c10::SymInt& dim,
                        bool batch_first) {
  if (pos_embed.dim() == 2 && pos_embed.sym_size(0) == rows && pos_embed.sym_size(1) == dim) return 0;
  if (pos_embed.dim() == 3) {
    if (has_sizes(pos_embed, 1, rows, dim)) return 1;
    if (!batch_first && has_sizes(pos_embed, rows, 1, dim)) return 0;
  }
  const char* op = kAddPositionEmbedding;
  POSENC_CHECK(!batch_first, op, "pos_embed must have shape [", rows, ", ", dim, "] or [1, ", rows, ", ", dim,
               "], got ", pos_embed.sym_sizes());
  POSENC_CHECK(false, op, "pos_embed must have shape [", rows, ", ", dim, "], [1, ", rows, ", ", dim,
               "] or [", rows, ", 1, ", dim, "], got ", pos_embed.sym_sizes());
}

void check_prefix(const at::Tensor& prefix, const char* argument, const EmbeddedShape& shape) {
  const int64_t batch_axis = shape.batch_first ? 0 : 1;
  const bool fits = prefix.dim() == 3 && prefix.sym_size(2) == shape.dim &&
                    (prefix.sym_size(batch_axis) == 1 || prefix.sym_size(batch_axis) == shape.batch);
  if (fits) return;
  const char* op = kAddPositionEmbedding;
  POSENC_CHECK(!shape.batch_first, op, argument, " must have shape [1 or ", shape.batch, ", k, ", shape.dim,
               "], got ", prefix.sym_sizes());
  POSENC_CHECK(false, op, argument, " must have shape [k, 1 or ", shape.batch, ", ", shape.dim, "], got ",
               prefix.sym_sizes());
}

}  // namespace

void check_like_x(const at::Tensor& tensor, const char* argument, const at::Tensor& x) {
  const char* op = kAddPositionEmbedding;
  check_dtype(op, argument, tensor.scalar_type());
  POSENC_CHECK(tensor.scalar_type() == x.scalar_type(), op, argument, " must have the dtype of x (",
               x.scalar_type(), "), got ", tensor.scalar_type());
  POSENC_CHECK(tensor.device() == x.device(), op, argument, " must be on the device of x (", x.device(),
               "), got ", tensor.device());
}

std::optional<at::ScalarType> promoted_dtype(const at::Tensor& x, const at::Tensor& pos_embed,
                                             at::TensorList prefix_tokens) {
  at::ScalarType type = c10::promoteTypes(x.scalar_type(), pos_embed.scalar_type());
  bool supported = is_supported(x.scalar_type()) && is_supported(pos_embed.scalar_type());
  for (const at::Tensor& prefix : prefix_tokens) {
    type = c10::promoteTypes(type, prefix.scalar_type());
    supported = supported && is_supported(prefix.scalar_type());
  }
  return supported ? std::optional<at::ScalarType>(type) : std::nullopt;
}

EmbeddedShape check_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                           at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                           bool batch_first, double dropout_p,
                                           const std::optional<at::Tensor>& seed) {
  const char* op = kAddPositionEmbedding;
  POSENC_CHECK(x.dim() == 3, op, "x must have 3 dimensions [B, N, D] or [N, B, D], got ", x.dim());
  check_dtype(op, "x", x.scalar_type());
  const int64_t token_axis = batch_first ? 1 : 0;
  EmbeddedShape shape{x.sym_size(1 - token_axis), x.sym_size(token_axis), 0, x.sym_size(2), 0, batch_first};
  for (size_t i = 0; i < prefix_tokens.size(); ++i) {
    const std::string argument = "prefix_tokens[" + std::to_string(i) + "]";
    check_like_x(prefix_tokens[i], argument.c_str(), x);
    check_prefix(prefix_tokens[i], argument.c_str(), shape);
    shape.prefix_length += prefix_tokens[i].sym_size(token_axis);
  }
  shape.length += shape.prefix_length;
  check_like_x(pos_embed, "pos_embed", x);
  const c10::SymInt rows = embed_prefix ? shape.length : shape.length - shape.prefix_length;
  shape.pos_token_axis = check_pos_embed(pos_embed, rows, shape.dim, batch_first);
  check_finite(op, "x_scale", x_scale);
  check_dropout(op, x, dropout_p, seed);
  return shape;
}

c10::SymDimVector check_sum_batch(const at::Tensor& grad, bool batch_first) {
  const char* op = "_sum_batch";
  POSENC_CHECK(grad.dim() == 3, op, "grad must have 3 dimensions [B, N, D] or [N, B, D], got ", grad.dim());
  check_dtype(op, "grad", grad.scalar_type());
  return {grad.sym_size(batch_first ? 1 : 0), grad.sym_size(2)};
}

std::vector<at::Tensor> in_few_prefixes(at::TensorList prefix_tokens, size_t count, int64_t batch,
                                        bool batch_first) {
  if (prefix_tokens.size() <= count) return prefix_tokens.vec();
  const int64_t batch_axis = batch_first ? 0 : 1;
  std::vector<at::Tensor> few = prefix_tokens.slice(0, count - 1).vec(), rest;
  for (const at::Tensor& prefix : prefix_tokens.slice(count - 1)) {
    c10::DimVector sizes(prefix.sizes().begin(), prefix.sizes().end());
    sizes[batch_axis] = batch;
    rest.push_back(prefix.expand(sizes));
  }
  few.push_back(at::cat(rest, 1 - batch_axis));
  return few;
}

at::Tensor call_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                       at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                       bool batch_first, double dropout_p,
                                       const std::optional<at::Tensor>& seed) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, at::TensorList, bool, double, bool, double,
                         const std::optional<at::Tensor>&)>("posenc_ext::_add_position_embedding");
  return op.call(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first, dropout_p, seed);
}

at::Tensor& call_add_position_embedding_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                            at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                            bool batch_first, double dropout_p, bool training,
                                            at::Tensor& out) {
  static const auto op =
      find_op<at::Tensor&(const at::Tensor&, const at::Tensor&, at::TensorList, bool, double, bool, double,
                          bool, at::Tensor&)>("posenc_ext::add_position_embedding", "out");
  return op.call(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first, dropout_p, training, out);
}

at::Tensor call_sum_batch(const at::Tensor& grad, bool batch_first) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, bool)>("posenc_ext::_sum_batch");
  return op.call(grad, batch_first);
}

namespace {

// No prefix, for a trace: AOTInductor hands an empty list of tensors to an op as None, so the list gets a
// tensor without tokens.
at::Tensor no_tokens(const at::Tensor& x, bool batch_first) {
  const int64_t first = batch_first ? 1 : 0;
  return x.new_empty_symint({first, 1 - first, x.sym_size(2)});
}

bool is_traced(const at::Tensor& x) { return x.key_set().has(c10::DispatchKey::Python); }

// The public op: runs before autograd and is traced through.
at::Tensor add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                  at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                  bool batch_first, double dropout_p, bool training) {
  if (prefix_tokens.empty() && x.dim() == 3 && is_traced(x)) {
    return add_position_embedding(x, pos_embed, no_tokens(x, batch_first), embed_prefix, x_scale, batch_first,
                                  dropout_p, training);
  }
  const std::optional<at::Tensor> seed = draw_seed(x, dropout_p, training);
  const auto type = promoted_dtype(x, pos_embed, prefix_tokens);
  const auto has_type = [&type](const at::Tensor& tensor) { return tensor.scalar_type() == *type; };
  if (!type.has_value() ||
      (has_type(x) && has_type(pos_embed) && std::ranges::all_of(prefix_tokens, has_type))) {
    return call_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first,
                                       dropout_p, seed);
  }
  std::vector<at::Tensor> promoted;
  for (const at::Tensor& prefix : prefix_tokens) promoted.push_back(prefix.to(*type));
  return call_add_position_embedding(x.to(*type), pos_embed.to(*type), promoted, embed_prefix, x_scale,
                                     batch_first, dropout_p, seed);
}

// Under vmap, which knows no loop over an op with a list of tensors: the same formula in ops that it can
// batch, in float64 as the kernels compute.
at::Tensor add_position_embedding_batched(const at::Tensor& x, const at::Tensor& pos_embed,
                                          at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                          bool batch_first, double dropout_p,
                                          const std::optional<at::Tensor>& seed) {
  const EmbeddedShape shape = check_add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale,
                                                           batch_first, dropout_p, seed);
  const int64_t batch_axis = batch_first ? 0 : 1, token_axis = 1 - batch_axis;
  at::Tensor pos = pos_embed.to(at::kDouble);
  if (pos.dim() == 3) pos = pos.squeeze(1 - shape.pos_token_axis);
  pos = pos.unsqueeze(batch_axis);
  at::Tensor patches = x.to(at::kDouble);
  if (x_scale != 1.0) patches = patches.mul(x_scale);
  if (!embed_prefix) patches = patches.add(pos);
  std::vector<at::Tensor> parts;
  for (const at::Tensor& prefix : prefix_tokens) {
    c10::SymDimVector sizes{-1, -1, -1};
    sizes[batch_axis] = shape.batch;
    parts.push_back(prefix.to(at::kDouble).expand_symint(sizes));
  }
  parts.push_back(patches);
  at::Tensor y = parts.size() == 1 ? patches : at::cat(parts, token_axis);
  if (embed_prefix) y = y.add(pos);
  if (drops(dropout_p, seed)) y = call_scale_dropout(y, 1.0, dropout_p, seed);
  return y.to(x.scalar_type());
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  m.impl("add_position_embedding", TORCH_FN(add_position_embedding));
}

TORCH_LIBRARY_IMPL(posenc_ext, FuncTorchBatched, m) {
  m.impl("add_position_embedding", TORCH_FN(add_position_embedding));
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_batched));
}

// The vmap of torch.autograd (is_grads_batched, gradcheck).
TORCH_LIBRARY_IMPL(posenc_ext, Batched, m) {
  m.impl("add_position_embedding", TORCH_FN(add_position_embedding));
  m.impl("_add_position_embedding", TORCH_FN(add_position_embedding_batched));
}

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                  at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                  bool batch_first, double dropout_p, bool training) {
  return ops::add_position_embedding(x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first,
                                     dropout_p, training);
}

}  // namespace posenc_ext
