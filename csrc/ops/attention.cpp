#include "ops/attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <cmath>

#include "ops/dropout.h"
#include "posenc_ext.h"

namespace posenc_ext::ops {

at::Tensor scores_of(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_dtype(op, "q", q.scalar_type());
  POSENC_CHECK(q.dim() >= 3, op, "q must have at least 3 dimensions [..., heads, Q, channels], got ",
               q.dim());
  const auto check_like_q = [&](const char* name, const at::Tensor& x) {
    const int64_t dim = q.dim();
    POSENC_CHECK(x.dim() == dim && x.sym_sizes().slice(0, dim - 2) == q.sym_sizes().slice(0, dim - 2), op,
                 name, " must have the samples and heads of q ", q.sym_sizes(), ", got ", x.sym_sizes());
    POSENC_CHECK(x.scalar_type() == q.scalar_type() && x.device() == q.device(), op, name,
                 " must have the dtype and device of q (", q.scalar_type(), " on ", q.device(), "), got ",
                 x.scalar_type(), " on ", x.device());
  };
  check_like_q("k", k);
  check_like_q("v", v);
  POSENC_CHECK(k.sym_size(-1) == q.sym_size(-1), op, "k must have the channels of q (", q.sym_size(-1),
               "), got ", k.sym_size(-1));
  POSENC_CHECK(v.sym_size(-2) == k.sym_size(-2), op, "v must have the keys of k (", k.sym_size(-2), "), got ",
               v.sym_size(-2));
  c10::SymDimVector sizes = sizes_of(q);
  sizes.back() = k.sym_size(-2);
  return at::empty_symint(sizes, q.options().device(at::kMeta));
}

namespace {

bool is_differentiated(const at::Tensor& x) {
  return torch::autograd::compute_requires_grad(x) || torch::autograd::isFwGradDefined(x);
}

double scale_or_default(std::optional<double> scale, const at::Tensor& q) {
  if (scale.has_value() || q.dim() == 0) return scale.value_or(1.0);  // a check will reject the latter
  return 1.0 / std::sqrt(static_cast<double>(q.sym_size(-1).guard_int(__FILE__, __LINE__)));
}

template <class Op, class... Args>
at::Tensor attend(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& table, Args... args, std::optional<double> scale,
                  const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                  bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
  check_dropout({{op, {}, {}}, q, 1.0, dropout_p});
  const double factor = scale_or_default(scale, q);
  const bool dropping = training && dropout_p > 0.0;
  const bool differentiated = is_differentiated(q) || is_differentiated(k) || is_differentiated(v) ||
                              is_differentiated(table) ||
                              (mask.has_value() && mask->defined() && is_differentiated(*mask));
  if (!dropping && !differentiated) {
    return call_attention<Op, Args...>(q, k, v, table, args..., factor, mask, regions, causal,
                                       std::move(q_offset));
  }
  check_attention<Op, Args...>(q, k, v, table, args..., factor, mask, regions, causal, q_offset);
  at::Tensor scores = at::matmul(q, k.transpose(-2, -1));
  if (is_plain(scores) && is_plain(table)) {
    call_bias_softmax_in_place<Op, Args...>(scores, table, args..., factor, mask, regions, causal, q_offset);
  } else {
    scores = call_bias_softmax<Op, Args...>(scores, table, args..., factor, mask, regions, causal, q_offset);
  }
  return at::matmul(drop(op, scores, dropout_p, training), v);
}

template <class Op, class Signature>
struct Attend;

template <class Op, class... Args>
struct Attend<Op, void (*)(const char*, const at::Tensor&, const BiasSizes&, Args...)> {
  static at::Tensor call_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& table, Args... args, std::optional<double> scale,
                            const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                            bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
    return attend<Op, Args...>(AttentionNames<Op>::name, q, k, v, table, args..., scale, mask, regions,
                               causal, std::move(q_offset), dropout_p, training);
  }
  static constexpr auto call = TORCH_FN(call_of);

  // Where there is no kernel for the whole.
  static at::Tensor inference_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& table, Args... args, double scale,
                                 const std::optional<at::Tensor>& mask,
                                 const std::optional<at::Tensor>& regions, bool causal,
                                 c10::SymInt q_offset) {
    check_attention<Op, Args...>(q, k, v, table, args..., scale, mask, regions, causal, q_offset);
    at::Tensor scores = at::matmul(q, k.transpose(-2, -1));
    call_bias_softmax_in_place<Op, Args...>(scores, table, args..., scale, mask, regions, causal, q_offset);
    return at::matmul(scores, v);
  }
  static constexpr auto inference = TORCH_FN(inference_of);
};

at::Tensor t5_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const at::Tensor& table, bool bidirectional, int64_t max_distance,
                        std::optional<double> scale, const std::optional<at::Tensor>& mask,
                        const std::optional<at::Tensor>& regions, bool causal, c10::SymInt q_offset,
                        double dropout_p, bool training) {
  const char* op = "t5_attention";
  const at::Tensor scores = scores_of(op, q, k, v);
  check_softmax(op, scores, "table", table, {scale_or_default(scale, q), mask, regions, causal, q_offset},
                q.device());
  const BiasSizes sizes = bias_sizes(scores);
  return attend<DiagonalSoftmax>(op, q, k, v,
                                 t5_diagonals(op, table, sizes, bidirectional, max_distance, q_offset), scale,
                                 mask, regions, causal, q_offset, dropout_p, training);
}

at::Tensor alibi_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& slopes, std::optional<double> scale,
                           const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                           bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
  const char* op = "alibi_attention";
  const at::Tensor scores = scores_of(op, q, k, v);
  check_softmax(op, scores, "slopes", slopes, {scale_or_default(scale, q), mask, regions, causal, q_offset},
                q.device());
  return attend<DiagonalSoftmax>(op, q, k, v, alibi_diagonals(op, slopes, scores, q_offset), scale, mask,
                                 regions, causal, q_offset, dropout_p, training);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  AttentionOps::for_each(
      [&m]<class Op>(Op*) { m.impl(AttentionNames<Op>::name, Attend<Op, decltype(&Op::check)>::call); });
  m.impl("t5_attention", TORCH_FN(t5_attention));
  m.impl("alibi_attention", TORCH_FN(alibi_attention));
}

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) { register_attention_ops<Attend>(m); }

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { register_attention_ops<AttentionOn<Meta>::Kernels>(m); }

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {
namespace {

template <ops::Text name, class... Args>
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& table,
                     Args... args, std::optional<double> scale, const AttentionOptions& options) {
  using Optional = const std::optional<at::Tensor>&;
  static const auto op = ops::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                 const at::Tensor&, Args..., std::optional<double>, Optional,
                                                 Optional, bool, c10::SymInt, double, bool)>(name.value);
  return op.call(q, k, v, table, args..., scale, options.mask, options.regions, options.causal,
                 options.q_offset, options.dropout_p, options.training);
}

}  // namespace

at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& table, at::IntArrayRef window,
                            at::OptionalIntArrayRef query_size, int64_t prefix_tokens,
                            const AttentionOptions& options) {
  at::OptionalSymIntArrayRef queries;
  if (query_size.has_value()) queries = c10::fromIntArrayRefSlow(*query_size);
  return attention<"window_attention", c10::SymIntArrayRef, at::OptionalSymIntArrayRef, int64_t>(
      q, k, v, table, c10::fromIntArrayRefSlow(window), queries, prefix_tokens, options.scale, options);
}

at::Tensor diagonal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& diagonals, const AttentionOptions& options) {
  return attention<"diagonal_attention">(q, k, v, diagonals, options.scale, options);
}

at::Tensor t5_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const at::Tensor& table, bool bidirectional, int64_t max_distance,
                        const AttentionOptions& options) {
  return attention<"t5_attention", bool, int64_t>(q, k, v, table, bidirectional, max_distance,
                                                  options.scale.value_or(1.0), options);
}

at::Tensor alibi_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& slopes, const AttentionOptions& options) {
  return attention<"alibi_attention">(q, k, v, slopes, options.scale, options);
}

}  // namespace posenc_ext
