// Attention whose bias is never stored: two matrix products, with softmax(scores * scale + bias + mask)
// between them.
#pragma once

#include "ops/bias_softmax.h"

namespace posenc_ext::ops {

// Of the ops with attention: the public one is `name`, and `_name` computes it where no gradient is needed.
template <class Op>
struct AttentionNames;
template <>
struct AttentionNames<WindowSoftmax> {
  static constexpr const char *name = "window_attention", *inference_name = "_window_attention";
};
template <>
struct AttentionNames<DiagonalSoftmax> {
  static constexpr const char *name = "diagonal_attention", *inference_name = "_diagonal_attention";
};

using AttentionOps = OpList<WindowSoftmax, DiagonalSoftmax>;

// The checked arguments; the result is [..., heads, queries, channels of v].
template <class Op, class... Args>
struct Attention : Result {
  at::Tensor q, k, v, table;
  std::tuple<std::decay_t<Args>...> rest;
  SoftmaxOptions softmax;

  typename Op::Scheme scheme() const {
    const int64_t sizes[] = {q.size(-3), q.size(-2), k.size(-2)};
    return std::apply([&](const Args&... args) { return Op::scheme(table.sizes(), sizes, args...); }, rest);
  }
};

// Checks q, k and v; a tensor of the sizes and dtype of their scores, without data.
at::Tensor scores_of(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

template <class Op, class... Args>
Attention<Op, Args...> check_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const at::Tensor& table, Args... args, double scale,
                                       const std::optional<at::Tensor>& mask,
                                       const std::optional<at::Tensor>& regions, bool causal,
                                       c10::SymInt q_offset) {
  const char* op = AttentionNames<Op>::name;
  SoftmaxOptions options{scale, mask, regions, causal, std::move(q_offset)};
  const at::Tensor scores = scores_of(op, q, k, v);
  check_softmax(op, scores, Op::table_name, table, options, q.device());
  Op::check(op, table, bias_sizes(scores), args...);
  c10::SymDimVector sizes = sizes_of(q);
  sizes.back() = v.sym_size(-1);
  return {{op, std::move(sizes), q.options()}, q, k, v, table, {args...}, std::move(options)};
}

template <class Op, class... Args>
at::Tensor call_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& table, Args... args, double scale,
                          const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                          bool causal, c10::SymInt q_offset) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, Args...,
                         double, const std::optional<at::Tensor>&, const std::optional<at::Tensor>&, bool,
                         c10::SymInt)>(AttentionNames<Op>::inference_name);
  return op.call(q, k, v, table, args..., scale, mask, regions, causal, std::move(q_offset));
}

// Registers `Kernels<Op>::inference` for every op under the dispatch key of `library`.
template <template <class Op, class Signature> class Kernels, class Library>
void register_attention_ops(Library& library) {
  AttentionOps::for_each([&library]<class Op>(Op*) {
    library.impl(AttentionNames<Op>::inference_name, Kernels<Op, decltype(&Op::check)>::inference);
  });
}

template <class Device, auto fill = nullptr>
struct AttentionOn {
  template <class Op, class Signature>
  struct Kernels;

  template <class Op, class... Args>
  struct Kernels<Op, void (*)(const char*, const at::Tensor&, const BiasSizes&, Args...)> {
    static constexpr auto inference = kernel<Device, check_attention<Op, Args...>, fill>();
  };
};

}  // namespace posenc_ext::ops
