// Gradients of softmax(scores * scale + bias + mask). One kernel gives those of scores and table; where they
// are differentiated again, and for tangents, the same is computed by differentiable calls.
#include "ops/bias_softmax.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include "autograd/linear.h"
#include "ops/bias_args.h"

namespace posenc_ext::autograd {
namespace {

// The order of the inputs.
constexpr size_t kScores = 0, kTable = 1, kMask = 2;

// The gradient, or the tangent, of softmax: its Jacobian is symmetric.
at::Tensor softmax_jacobian(const at::Tensor& result, const at::Tensor& x) {
  const at::Tensor product = result * x;
  return product - result * product.sum(-1, /*keepdim=*/true);
}

// The gradient of softmax's argument, in the accumulator's type.
at::Tensor grad_of_sums(const at::Tensor& grad, const at::Tensor& result) {
  const at::Tensor wide = grad.to(ops::sum_type(grad.scalar_type()));
  return softmax_jacobian(result.to(wide.scalar_type()), wide);
}

// [heads, queries, keys]
at::Tensor sum_samples(const at::Tensor& grad) {
  return grad.sym_size(-3) == 0 || grad.sym_numel() == 0
             ? at::zeros_symint(grad.sym_sizes().slice(grad.dim() - 3), grad.options())
             : grad.reshape_symint({-1, grad.sym_size(-3), grad.sym_size(-2), grad.sym_size(-1)}).sum(0);
}

template <class Op, class Signature>
struct BiasSoftmax;

template <class Op, class... Args>
struct BiasSoftmax<Op, void (*)(const char*, const at::Tensor&, const ops::BiasSizes&, Args...)> {
  using Options = const std::optional<at::Tensor>&;

  static variable_list adjoint(const at::Tensor& grad, const OutputMask& needs, const Output& output,
                               c10::SymIntArrayRef table_sizes, int64_t table_type, Args... args,
                               double scale, c10::SymIntArrayRef mask_sizes, int64_t mask_type) {
    const at::Tensor& result = output.tensor;
    const auto to_type = [](const at::Tensor& x, int64_t type) {
      return x.to(static_cast<at::ScalarType>(type));
    };
    variable_list gradients(needs.size());
    if (needs[kMask])
      gradients[kMask] = to_type(at::sum_to(grad_of_sums(grad, result), mask_sizes), mask_type);
    // torch's softmax backward is not used for scores alone: its bits depend on the number of threads.
    if (needs[kScores] && !needs[kTable]) {
      const c10::SymInt no_bias = 0;
      gradients[kScores] =
          std::get<0>(ops::call_bias_softmax_backward<ops::PairSoftmax>(grad, result, {&no_bias, 1}, scale));
    } else if (needs[kTable]) {
      auto [scores, table] =
          ops::call_bias_softmax_backward<Op, Args...>(grad, result, table_sizes, args..., scale);
      if (needs[kScores]) gradients[kScores] = std::move(scores);
      if (needs[kTable]) gradients[kTable] = to_type(table, table_type);
    }
    return gradients;
  }

  // That of softmax's argument, of a shape that broadcasts to it.
  static at::Tensor tangent(const at::Tensor& result, const at::Tensor& scores, const at::Tensor& table,
                            Args... args, double scale, const at::Tensor& mask) {
    at::Tensor sum = tangent_or_zeros(scores) * scale;
    if (has_tangent(table)) {
      sum = sum + Op::expand(table._fw_grad(/*level=*/0), ops::bias_sizes(result), args...);
    }
    if (has_tangent(mask)) sum = sum + mask._fw_grad(/*level=*/0);
    return softmax_jacobian(result, sum.to(result.scalar_type()));
  }

  // What is differentiated of a mask.
  static at::Tensor added(Options mask) {
    return mask.has_value() && mask->defined() && mask->scalar_type() != at::kBool ? *mask : at::Tensor();
  }

  template <class BackwardNode>
  static void record(BackwardNode& node, const Output& output, const at::Tensor& table,
                     const at::Tensor& mask, Args... args, double scale) {
    const c10::SymIntArrayRef mask_sizes = mask.defined() ? mask.sym_sizes() : c10::SymIntArrayRef();
    const auto mask_type = static_cast<int64_t>(mask.defined() ? mask.scalar_type() : at::kFloat);
    node.save(output, table.sym_sizes(), static_cast<int64_t>(table.scalar_type()), args..., scale,
              mask_sizes, mask_type);
  }

  static at::Tensor forward(const at::Tensor& scores, const at::Tensor& table, Args... args, double scale,
                            Options mask, Options regions, bool causal, c10::SymInt q_offset) {
    const at::Tensor added_mask = added(mask);
    return differentiable<&adjoint>(
        Op::name,
        [&] {
          return ops::call_bias_softmax<Op, Args...>(scores, table, args..., scale, mask, regions, causal,
                                                     q_offset);
        },
        [&](const at::Tensor& result) { return tangent(result, scores, table, args..., scale, added_mask); },
        [&](auto& node, const at::Tensor& result) {
          record(node, Output{result}, table, added_mask, args..., scale);
        },
        scores, table, added_mask);
  }

  static at::Tensor& in_place(at::Tensor& scores, const at::Tensor& table, Args... args, double scale,
                              Options mask, Options regions, bool causal, c10::SymInt q_offset) {
    const at::Tensor added_mask = added(mask);
    return differentiable_in_place<&adjoint>(
        Op::in_place_name,
        [&] {
          ops::call_bias_softmax_in_place<Op, Args...>(scores, table, args..., scale, mask, regions, causal,
                                                       q_offset);
        },
        [&](const at::Tensor& result) { return tangent(result, scores, table, args..., scale, added_mask); },
        [&](auto& node, const at::Tensor& result) {
          record(node, Output{result, result.is_view()}, table, added_mask, args..., scale);
        },
        scores, table, added_mask);
  }

  static std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& result,
                                                     c10::SymIntArrayRef table_sizes, Args... args,
                                                     double scale) {
    if (needs_grad(grad) || needs_grad(result)) {
      const at::Tensor sums = grad_of_sums(grad, result);
      return {(sums * scale).to(grad.scalar_type()), Op::collect(sum_samples(sums), table_sizes, args...)};
    }
    at::AutoDispatchBelowADInplaceOrView below;
    return ops::call_bias_softmax_backward<Op, Args...>(grad, result, table_sizes, args..., scale);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) { ops::register_bias_softmax_ops<BiasSoftmax>(m); }

}  // namespace posenc_ext::autograd
