#include "ops/position_embedding.h"

#include <ATen/ops/cat.h>
#include <torch/library.h>

#include <algorithm>
#include <string>

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

void check_prefix(const at::Tensor& prefix, const char* argument, const at::Tensor& x, bool batch_first) {
  const int64_t batch_axis = batch_first ? 0 : 1;
  const c10::SymInt batch = x.sym_size(batch_axis), dim = x.sym_size(2);
  const bool fits = prefix.dim() == 3 && prefix.sym_size(2) == dim &&
                    (prefix.sym_size(batch_axis) == 1 || prefix.sym_size(batch_axis) == batch);
  if (fits) return;
  const char* op = kAddPositionEmbedding;
  POSENC_CHECK(!batch_first, op, argument, " must have shape [1 or ", batch, ", k, ", dim, "], got ",
               prefix.sym_sizes());
  POSENC_CHECK(false, op, argument, " must have shape [k, 1 or ", batch, ", ", dim, "], got ",
               prefix.sym_sizes());
}

args::Tokens fill_tokens(const at::Tensor& tensor, int64_t batch_axis) {
  const int64_t batch_stride = tensor.size(batch_axis) == 1 ? 0 : tensor.stride(batch_axis);
  return {tensor.const_data_ptr(), batch_stride, tensor.stride(1 - batch_axis), tensor.stride(2)};
}

// At most `count` tensors: those beyond are concatenated.
std::vector<at::Tensor> concatenate_rest(at::TensorList prefix_tokens, size_t count, int64_t batch,
                                         int64_t batch_axis) {
  if (prefix_tokens.size() <= count) return prefix_tokens.vec();
  std::vector<at::Tensor> few = prefix_tokens.slice(0, count - 1).vec(), rest;
  for (const at::Tensor& prefix : prefix_tokens.slice(count - 1)) {
    c10::DimVector sizes(prefix.sizes().begin(), prefix.sizes().end());
    sizes[batch_axis] = batch;
    rest.push_back(prefix.expand(sizes));
  }
  few.push_back(at::cat(rest, 1 - batch_axis));
  return few;
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

AddPositionEmbedding check_add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                                  at::TensorList prefix_tokens, bool embed_prefix,
                                                  double x_scale, bool batch_first, double dropout_p,
                                                  const std::optional<at::Tensor>& seed) {
  const char* op = kAddPositionEmbedding;
  POSENC_CHECK(x.dim() == 3, op, "x must have 3 dimensions [B, N, D] or [N, B, D], got ", x.dim());
  check_dtype(op, "x", x.scalar_type());
  AddPositionEmbedding arguments{{{op, sizes_of(x), x.options()}, x, x_scale, dropout_p, seed},
                                 pos_embed,
                                 prefix_tokens,
                                 {},
                                 embed_prefix,
                                 batch_first};
  const int64_t token_axis = arguments.token_axis();
  for (size_t i = 0; i < prefix_tokens.size(); ++i) {
    const std::string argument = "prefix_tokens[" + std::to_string(i) + "]";
    check_like_x(prefix_tokens[i], argument.c_str(), x);
    check_prefix(prefix_tokens[i], argument.c_str(), x, batch_first);
    arguments.prefix_length += prefix_tokens[i].sym_size(token_axis);
  }
  c10::SymInt& length = arguments.sizes[token_axis];
  length += arguments.prefix_length;
  check_like_x(pos_embed, "pos_embed", x);
  const c10::SymInt rows = embed_prefix ? length : length - arguments.prefix_length;
  arguments.pos_token_axis = check_pos_embed(pos_embed, rows, x.sym_size(2), batch_first);
  check_finite(op, "x_scale", x_scale);
  check_dropout(arguments);
  return arguments;
}

AddPositionEmbedding check_add_position_embedding_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                                      at::TensorList prefix_tokens, bool embed_prefix,
                                                      double x_scale, bool batch_first, double dropout_p,
                                                      bool training, at::Tensor& out) {
  AddPositionEmbedding arguments = check_add_position_embedding(
      x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first, dropout_p, std::nullopt);
  check_out_like(arguments.op, "x", x, out);
  arguments.inputs = {{"x", x}, {"pos_embed", pos_embed}};
  for (const at::Tensor& prefix : prefix_tokens) arguments.inputs.push_back({"prefix_tokens", prefix});
  arguments.training = training;
  return arguments;
}

args::AddPositionEmbedding fill_args(AddPositionEmbedding& arguments, const at::Tensor& out) {
  const int64_t batch_axis = arguments.batch_axis(), token_axis = arguments.token_axis();
  const at::Tensor& x = arguments.x;
  const at::Tensor& pos_embed = arguments.pos_embed;
  args::AddPositionEmbedding a{};
  a.dtype = to_core(x.scalar_type());
  a.batch = out.size(batch_axis);
  a.length = out.size(token_axis);
  a.dim = out.size(2);
  a.x = fill_tokens(x, batch_axis);
  a.x_scale = arguments.x_scale;
  arguments.few_prefixes = concatenate_rest(arguments.prefix_tokens, a.kMaxPrefixes, a.batch, batch_axis);
  for (const at::Tensor& prefix : arguments.few_prefixes) {
    a.prefix_length += prefix.size(token_axis);
    a.prefix[a.prefixes] = fill_tokens(prefix, batch_axis);
    a.prefix_end[a.prefixes++] = a.prefix_length;
  }
  a.pos = pos_embed.const_data_ptr();
  a.pos_token_stride = pos_embed.stride(arguments.pos_token_axis);
  a.pos_channel_stride = pos_embed.stride(-1);
  a.first_embedded = arguments.embed_prefix ? 0 : a.prefix_length;
  a.dropout = arguments.seeded_dropout();
  a.out = out.mutable_data_ptr();
  a.out_batch_stride = out.stride(batch_axis);
  a.out_token_stride = out.stride(token_axis);
  return a;
}

SumBatch check_sum_batch(const at::Tensor& grad, bool batch_first) {
  const char* op = "_sum_batch";
  POSENC_CHECK(grad.dim() == 3, op, "grad must have 3 dimensions [B, N, D] or [N, B, D], got ", grad.dim());
  check_dtype(op, "grad", grad.scalar_type());
  return {{op, {grad.sym_size(batch_first ? 1 : 0), grad.sym_size(2)}, grad.options()}, grad, batch_first};
}

// Rows and columns of the sum such that columns are close to each other in grad.
args::SumBatch fill_args(SumBatch& arguments, const at::Tensor& out) {
  const at::Tensor& grad = arguments.grad;
  const int64_t batch_axis = arguments.batch_first ? 0 : 1;
  const int64_t tokens = out.size(0), channels = out.size(1);
  const int64_t token_stride = grad.stride(1 - batch_axis), channel_stride = grad.stride(2);
  args::SumBatch a{};
  a.dtype = to_core(grad.scalar_type());
  a.batch = grad.size(batch_axis);
  a.grad = grad.const_data_ptr();
  a.batch_stride = grad.stride(batch_axis);
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
  } else {  // tokens are closer
    a.rows = channels;
    a.columns = tokens;
    a.row_stride = channel_stride;
    a.column_stride = token_stride;
    a.out_row_stride = 1;
    a.out_column_stride = channels;
  }
  return a;
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
  const auto seed = draw_seed(x, dropout_p, training);
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

// Under vmap, which cannot loop over an op with a list of tensors: the same formula in ops that it can batch,
// in float64.
at::Tensor add_position_embedding_batched(const at::Tensor& x, const at::Tensor& pos_embed,
                                          at::TensorList prefix_tokens, bool embed_prefix, double x_scale,
                                          bool batch_first, double dropout_p,
                                          const std::optional<at::Tensor>& seed) {
  const AddPositionEmbedding arguments = check_add_position_embedding(
      x, pos_embed, prefix_tokens, embed_prefix, x_scale, batch_first, dropout_p, seed);
  const int64_t batch_axis = arguments.batch_axis(), token_axis = arguments.token_axis();
  at::Tensor pos = pos_embed.to(at::kDouble);
  if (pos.dim() == 3) pos = pos.squeeze(1 - arguments.pos_token_axis);
  pos = pos.unsqueeze(batch_axis);
  at::Tensor patches = x.to(at::kDouble);
  if (x_scale != 1.0) patches = patches.mul(x_scale);
  if (!embed_prefix) patches = patches.add(pos);
  std::vector<at::Tensor> parts;
  for (const at::Tensor& prefix : prefix_tokens) {
    c10::SymDimVector sizes{-1, -1, -1};
    sizes[batch_axis] = arguments.sizes[batch_axis];
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

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("_add_position_embedding", kernel<Meta, check_add_position_embedding>());
  m.impl("add_position_embedding.out", out_kernel<Meta, check_add_position_embedding_out>());
  m.impl("_sum_batch", kernel<Meta, check_sum_batch>());
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
