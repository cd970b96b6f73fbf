// softmax(scores * scale + bias + mask): argument checks for Meta, CPU and CUDA, and typed calls through the
// dispatcher. Each op has a struct that says what its bias is made from; Meta, autograd, CPU and CUDA kernels
// are templates over BiasSoftmaxOps below.
#pragma once

#include <tuple>

#include "args/bias_softmax.h"
#include "ops/call.h"
#include "ops/kernel.h"
#include "ops/relative_bias.h"

namespace posenc_ext::ops {

// The sizes of the bias that scores [..., heads, queries, keys] ask for.
struct BiasSizes {
  c10::SymInt heads, queries, keys;
};

// What hides keys, and by what scores are multiplied: the arguments that every op ends with.
struct SoftmaxOptions {
  double scale;
  std::optional<at::Tensor> mask, regions;
  bool causal;
  c10::SymInt q_offset;
};

// Each has
//   name, in_place_name, backward_name
//   table_name                                the argument that the bias is made from
//   kHeadsFirst                               whether the table is [heads, ...]; else it is [rows, heads]
//   check(op, table, sizes, args...)          the rules on the table (or what stands for it)
//   scheme(table_sizes, sizes, args...)       for kernels
//   expand(table, sizes, args...)             the bias [heads, queries, keys] by differentiable calls
//   collect(grad, table_sizes, args...)       its adjoint
struct WindowSoftmax {
  static constexpr const char* name = "window_bias_softmax";
  static constexpr const char* in_place_name = "_window_bias_softmax_";
  static constexpr const char* backward_name = "_window_bias_softmax_backward";
  static constexpr const char* table_name = "table";
  static constexpr bool kHeadsFirst = false;
  using Scheme = core::WindowScheme;

  static void check(const char* op, const at::Tensor& table, const BiasSizes& sizes,
                    c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens);
  static Scheme scheme(at::IntArrayRef table_sizes, at::IntArrayRef sizes, c10::SymIntArrayRef window,
                       at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens);
  static at::Tensor expand(const at::Tensor& table, const BiasSizes& sizes, c10::SymIntArrayRef window,
                           at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens);
  static at::Tensor collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes,
                            c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                            int64_t prefix_tokens);
};

struct DiagonalSoftmax {
  static constexpr const char* name = "diagonal_bias_softmax";
  static constexpr const char* in_place_name = "_diagonal_bias_softmax_";
  static constexpr const char* backward_name = "_diagonal_bias_softmax_backward";
  static constexpr const char* table_name = "diagonals";
  static constexpr bool kHeadsFirst = true;
  using Scheme = args::DiagonalScheme;

  static void check(const char* op, const at::Tensor& diagonals, const BiasSizes& sizes);
  static Scheme scheme(at::IntArrayRef table_sizes, at::IntArrayRef sizes);
  static at::Tensor expand(const at::Tensor& diagonals, const BiasSizes& sizes);
  static at::Tensor collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes);
};

struct GatherSoftmax {
  static constexpr const char* name = "gather_bias_softmax";
  static constexpr const char* in_place_name = "_gather_bias_softmax_";
  static constexpr const char* backward_name = "_gather_bias_softmax_backward";
  static constexpr const char* table_name = "table";
  static constexpr bool kHeadsFirst = false;
  using Scheme = args::IndexScheme;

  static void check(const char* op, const at::Tensor& table, const BiasSizes& sizes, const at::Tensor& index);
  static Scheme scheme(at::IntArrayRef table_sizes, at::IntArrayRef sizes, const at::Tensor& index);
  static at::Tensor expand(const at::Tensor& table, const BiasSizes& sizes, const at::Tensor& index);
  static at::Tensor collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes, const at::Tensor& index);
};

struct PairSoftmax {
  static constexpr const char* name = "bias_softmax";
  static constexpr const char* in_place_name = "_bias_softmax_";
  static constexpr const char* backward_name = "_bias_softmax_backward";
  static constexpr const char* table_name = "bias";
  static constexpr bool kHeadsFirst = true;
  using Scheme = args::PairScheme;

  static void check(const char* op, const at::Tensor& bias, const BiasSizes& sizes);
  static Scheme scheme(at::IntArrayRef table_sizes, at::IntArrayRef sizes);
  static at::Tensor expand(const at::Tensor& bias, const BiasSizes& sizes);
  static at::Tensor collect(const at::Tensor& grad, c10::SymIntArrayRef table_sizes);
};

using BiasSoftmaxOps = OpList<WindowSoftmax, DiagonalSoftmax, GatherSoftmax, PairSoftmax>;

BiasSizes bias_sizes(const at::Tensor& scores);

// The rules on scores and options; all tensors are to be on the device.
void check_softmax(const char* op, const at::Tensor& scores, const char* table_name, const at::Tensor& table,
                   const SoftmaxOptions& options, at::Device device);

template <class Op, class... Args>
struct BiasSoftmax : Result {
  static constexpr const char* kWritten = "scores";  // by the op in place
  at::Tensor scores, table;
  std::tuple<std::decay_t<Args>...> rest;
  SoftmaxOptions softmax;

  typename Op::Scheme scheme() const {
    return std::apply(
        [this](const Args&... args) {
          return Op::scheme(table.sizes(), scores.sizes().slice(scores.dim() - 3), args...);
        },
        rest);
  }
};

template <class Op, class... Args>
BiasSoftmax<Op, Args...> check_bias_softmax(const at::Tensor& scores, const at::Tensor& table, Args... args,
                                            double scale, const std::optional<at::Tensor>& mask,
                                            const std::optional<at::Tensor>& regions, bool causal,
                                            c10::SymInt q_offset) {
  SoftmaxOptions options{scale, mask, regions, causal, std::move(q_offset)};
  check_softmax(Op::name, scores, Op::table_name, table, options, scores.device());
  Op::check(Op::name, table, bias_sizes(scores), args...);
  return {{Op::name, sizes_of(scores), scores.options()}, scores, table, {args...}, std::move(options)};
}

template <class Op, class... Args>
BiasSoftmax<Op, Args...> check_bias_softmax_in_place(at::Tensor& scores, const at::Tensor& table,
                                                     Args... args, double scale,
                                                     const std::optional<at::Tensor>& mask,
                                                     const std::optional<at::Tensor>& regions, bool causal,
                                                     c10::SymInt q_offset) {
  BiasSoftmax<Op, Args...> arguments = check_bias_softmax<Op, Args...>(scores, table, args..., scale, mask,
                                                                       regions, causal, std::move(q_offset));
  arguments.inputs = {{Op::table_name, table}};
  const auto add = [&arguments](const char* name, const std::optional<at::Tensor>& input) {
    if (input.has_value() && input->defined()) arguments.inputs.push_back({name, *input});
  };
  add("mask", mask);
  add("regions", regions);
  [[maybe_unused]] const auto add_index = [&add]<class Arg>(const Arg& arg) {
    if constexpr (std::is_same_v<Arg, at::Tensor>) add("index", arg);
  };
  (add_index(args), ...);
  return arguments;
}

// The gradients of scores and table; the latter in the accumulator's type.
template <class Op, class... Args>
struct BiasSoftmaxBackward : Result {
  at::Tensor grad, result;
  std::tuple<std::decay_t<Args>...> rest;
  double scale;
  Result second;  // the gradient of the table

  typename Op::Scheme scheme() const {
    return std::apply(
        [this](const Args&... args) {
          return Op::scheme(C10_AS_INTARRAYREF_SLOW(second.sizes), grad.sizes().slice(grad.dim() - 3),
                            args...);
        },
        rest);
  }
};

// The sizes of a bias of which no gradient is needed, for PairSoftmax.
inline bool is_no_bias(c10::SymIntArrayRef table_sizes) {
  return table_sizes.size() == 1 && table_sizes[0] == 0;
}

Result grad_of_table(const char* op, const at::Tensor& grad, const at::Tensor& result,
                     c10::SymIntArrayRef table_sizes, double scale);

template <class Op, class... Args>
BiasSoftmaxBackward<Op, Args...> check_bias_softmax_backward(const at::Tensor& grad, const at::Tensor& result,
                                                             c10::SymIntArrayRef table_sizes, Args... args,
                                                             double scale) {
  Result second = grad_of_table(Op::backward_name, grad, result, table_sizes, scale);
  if (!std::is_same_v<Op, PairSoftmax> || !is_no_bias(table_sizes)) {
    Op::check(Op::backward_name, at::empty_symint(table_sizes, second.options.device(at::kMeta)),
              bias_sizes(grad), args...);
  }
  return {
      {Op::backward_name, sizes_of(grad), grad.options()}, grad, result, {args...}, scale, std::move(second)};
}

template <class Op, class... Args>
at::Tensor call_bias_softmax(const at::Tensor& scores, const at::Tensor& table, Args... args, double scale,
                             const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& regions,
                             bool causal, c10::SymInt q_offset) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, const at::Tensor&, Args..., double,
                                            const std::optional<at::Tensor>&,
                                            const std::optional<at::Tensor>&, bool, c10::SymInt)>(Op::name);
  return op.call(scores, table, args..., scale, mask, regions, causal, std::move(q_offset));
}

template <class Op, class... Args>
at::Tensor& call_bias_softmax_in_place(at::Tensor& scores, const at::Tensor& table, Args... args,
                                       double scale, const std::optional<at::Tensor>& mask,
                                       const std::optional<at::Tensor>& regions, bool causal,
                                       c10::SymInt q_offset) {
  static const auto op =
      find_op<at::Tensor&(at::Tensor&, const at::Tensor&, Args..., double, const std::optional<at::Tensor>&,
                          const std::optional<at::Tensor>&, bool, c10::SymInt)>(Op::in_place_name);
  return op.call(scores, table, args..., scale, mask, regions, causal, std::move(q_offset));
}

template <class Op, class... Args>
std::tuple<at::Tensor, at::Tensor> call_bias_softmax_backward(const at::Tensor& grad,
                                                              const at::Tensor& result,
                                                              c10::SymIntArrayRef table_sizes, Args... args,
                                                              double scale) {
  static const auto op = find_op<std::tuple<at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef, Args..., double)>(Op::backward_name);
  return op.call(grad, result, table_sizes, args..., scale);
}

// Registers `Kernels<Op>::forward`, `in_place` and `backward` for every op under the dispatch key of
// `library`.
template <template <class Op, class Signature> class Kernels, class Library>
void register_bias_softmax_ops(Library& library) {
  BiasSoftmaxOps::for_each([&library]<class Op>(Op*) {
    using Implementation = Kernels<Op, decltype(&Op::check)>;
    library.impl(Op::name, Implementation::forward);
    library.impl(Op::in_place_name, Implementation::in_place);
    library.impl(Op::backward_name, Implementation::backward);
  });
}

// The kernels of a device, for register_bias_softmax_ops: fill(BiasSoftmax&, out) and
// fill_backward(BiasSoftmaxBackward&, grad_scores, grad_table) write results.
template <class Device, auto fill = nullptr, auto fill_backward = nullptr>
struct BiasSoftmaxOn {
  template <class Op, class Signature>
  struct Kernels;

  template <class Op, class... Args>
  struct Kernels<Op, void (*)(const char*, const at::Tensor&, const BiasSizes&, Args...)> {
    static constexpr auto forward = kernel<Device, check_bias_softmax<Op, Args...>, fill>();
    static constexpr auto in_place =
        in_place_kernel<Device, check_bias_softmax_in_place<Op, Args...>, fill>();
    static constexpr auto backward =
        two_result_kernel<Device, check_bias_softmax_backward<Op, Args...>, fill_backward>();
  };
};

// Whether an op sees tensors as they are: where they are traced or transformed, nothing is written in place.
bool is_plain(const at::Tensor& x);

// Kernel arguments. `storage` has the tensors that they point to; `heads_first` is Op::kHeadsFirst. Scores of
// these sizes and their result are to be set.
args::BiasSoftmax softmax_args(at::IntArrayRef sizes, at::ScalarType type, const at::Tensor& table,
                               bool heads_first, const SoftmaxOptions& options,
                               std::vector<at::Tensor>& storage);
args::BiasSoftmaxBackward softmax_backward_args(const at::Tensor& grad, const at::Tensor& result,
                                                bool heads_first, double scale, const at::Tensor& grad_scores,
                                                const at::Tensor& partial, const at::Tensor& grad_table,
                                                std::vector<at::Tensor>& storage);

// The diagonals [heads, Q + K - 1] of T5's bias and of ALiBi's, by differentiable calls.
at::Tensor t5_diagonals(const char* op, const at::Tensor& table, const BiasSizes& sizes, bool bidirectional,
                        int64_t max_distance, const c10::SymInt& q_offset);
at::Tensor alibi_diagonals(const char* op, const at::Tensor& slopes, const at::Tensor& scores,
                           const c10::SymInt& q_offset);

// With attention dropout, where training.
at::Tensor drop(const char* op, const at::Tensor& result, double dropout_p, bool training);

}  // namespace posenc_ext::ops
