#include "ops/attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <cmath>

#include "ops/dropout.h"

namespace posenc_ext::ops {

at::Tensor scores_of(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_dtype(op, "q", q.scalar_type());
  POSENC_CHECK(q.dim() >= 3, op, "q must have at least 3 dimensions [..., heads, Q, channels], got ", q.dim());
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
  if (scale.has_value()) return *scale;
  return 1.0 / std::sqrt(static_cast<double>(q.sym_size(-1).guard_int(__FILE__, __LINE__)));
}

template <class Op, class... Args>
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& table,
                  Args... args, std::optional<double> scale, const std::optional<at::Tensor>& mask,
                  const std::optional<at::Tensor>& regions, bool causal, c10::SymInt q_offset,
                  double dropout_p, bool training) {
  const char* op = AttentionNames<Op>::name;
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
  static constexpr auto call = TORCH_FN((attend<Op, Args...>));

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

at::Tensor t5_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& table,
                        bool bidirectional, int64_t max_distance, std::optional<double> scale,
                        const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                        bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
  const char* op = "t5_attention";
  const BiasSizes sizes = bias_sizes(scores_of(op, q, k, v));
  check_dtype(op, "table", table.scalar_type());
  return attend<DiagonalSoftmax>(
      q, k, v, t5_diagonals(op, table, sizes, bidirectional, max_distance, q_offset), scale, mask, regions,
      causal, q_offset, dropout_p, training);
}

at::Tensor alibi_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& slopes, std::optional<double> scale,
                           const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                           bool causal, c10::SymInt q_offset, double dropout_p, bool training) {
  const char* op = "alibi_attention";
  const BiasSizes sizes = bias_sizes(scores_of(op, q, k, v));
  check_dtype(op, "slopes", slopes.scalar_type());
  return attend<DiagonalSoftmax>(q, k, v, alibi_diagonals(op, slopes, sizes, q_offset), scale, mask, regions,
                                 causal, q_offset, dropout_p, training);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  AttentionOps::for_each([&m]<class Op>(Op*) {
    m.impl(AttentionNames<Op>::name, Attend<Op, decltype(&Op::check)>::call);
  });
  m.impl("t5_attention", TORCH_FN(t5_attention));
  m.impl("alibi_attention", TORCH_FN(alibi_attention));
}

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) { register_attention_ops<Attend>(m); }

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { register_attention_ops<AttentionOn<Meta>::Kernels>(m); }

}  // namespace
}  // namespace posenc_ext::ops
