// One autograd rule for every op that is linear (or affine) in its tensors: the gradient is the adjoint, the
// tangent is the map.
//
// The adjoint is an op of its own with this same rule, so derivatives of any order, forward mode and
// torch.func follow. A hand-written Node, as PyTorch's generated code has: the form that TorchScript in C++,
// torch.func and compiled autograd take.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "ops/types.h"
#include "torch_compat.h"

namespace posenc_ext::autograd {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// How an argument of type A is kept from forward to backward, and given back.
template <class A>
struct Kept {
  using type = A;
  using packed = type;
  static type keep(const A& a) { return a; }
  static A give(const type& kept) { return kept; }
};

template <>
struct Kept<std::string_view> {
  using type = std::string;
  using packed = type;
  static type keep(std::string_view a) { return type(a); }
  static std::string_view give(const type& kept) { return kept; }
};

template <>
struct Kept<c10::SymIntArrayRef> {
  using type = std::vector<c10::SymInt>;
  using packed = type;
  static type keep(c10::SymIntArrayRef a) { return a.vec(); }
  static c10::SymIntArrayRef give(const type& kept) { return kept; }
};

template <>
struct Kept<at::OptionalSymIntArrayRef> {
  using type = std::optional<std::vector<c10::SymInt>>;
  using packed = type;
  static type keep(at::OptionalSymIntArrayRef a) { return a.has_value() ? type(a->vec()) : type(); }
  static at::OptionalSymIntArrayRef give(const type& kept) {
    return kept.has_value() ? at::OptionalSymIntArrayRef(*kept) : at::OptionalSymIntArrayRef();
  }
};

template <>
struct Kept<const at::Tensor&> {
  using type = SavedVariable;
  using packed = at::Tensor;
  static type keep(const at::Tensor& a) { return type(a, /*is_output=*/false); }
  static at::Tensor give(const type& kept) { return kept.unpack(); }
  static at::Tensor give(const at::Tensor& unpacked) { return unpacked; }
};

template <>
struct Kept<const std::optional<at::Tensor>&> {
  using type = SavedVariable;
  using packed = at::Tensor;
  static type keep(const std::optional<at::Tensor>& a) {
    return type(a.value_or(at::Tensor()), /*is_output=*/false);
  }
  static std::optional<at::Tensor> give(const type& kept) { return give(kept.unpack()); }
  static std::optional<at::Tensor> give(const at::Tensor& unpacked) {
    return unpacked.defined() ? std::optional<at::Tensor>(unpacked) : std::nullopt;
  }
};

// Which of several inputs' gradients are asked for.
using Wanted = std::vector<bool>;

// What an adjoint takes between the gradient and the kept arguments: nothing for one input, Wanted for
// several.
template <class F>
struct Adjoint;

template <class... Args>
struct Adjoint<at::Tensor (*)(const at::Tensor&, Args...)> {
  static constexpr bool kSeveral = false;
  using KeptArgs = std::tuple<Kept<Args>...>;
};

template <class... Args>
struct Adjoint<variable_list (*)(const at::Tensor&, const Wanted&, Args...)> {
  static constexpr bool kSeveral = true;
  using KeptArgs = std::tuple<Kept<Args>...>;
};

// The backward of one call: adjoint(grad, arguments...) where the op has one differentiable input, and
// adjoint(grad, wanted, arguments...) with a gradient for each input where it has several.
template <auto adjoint, class = typename Adjoint<decltype(adjoint)>::KeptArgs>
struct LinearBackward;

template <auto adjoint, class... K>
struct LinearBackward<adjoint, std::tuple<K...>> : torch::autograd::Node {
  static constexpr bool kSeveral = Adjoint<decltype(adjoint)>::kSeveral;
  const char* label = "";
  std::tuple<typename K::type...> kept;

  template <class... Args>
  void keep(const Args&... args) {
    kept = std::tuple<typename K::type...>(K::keep(args)...);
  }

  std::string name() const override { return label; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(num_outputs());
    const at::Tensor grad = std::move(grads[0]);
    return std::apply([&](const auto&... k) { return gradients(grad, wanted(), K::give(k)...); }, kept);
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    each([](SavedVariable& variable) { variable.reset_data(); }, [](auto&) {});
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    const_cast<LinearBackward*>(this)->each(
        [&args](SavedVariable& variable) { args.collect(variable, false); },
        [&args](auto& value) { args.collect(value); });
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    each([&saved](auto& value) { saved.before(value); }, [&saved](auto& value) { saved.before(value); });
    // Compiled autograd traces later: a call of `functional` goes into its graph; the gradients here are
    // placeholders.
    namespace compiled = torch::dynamo::autograd;
    compiled::PackedArgs packed;
    packed.pack(wanted());
    each([&packed](SavedVariable& variable) { packed.pack<at::Tensor>(variable.unpack()); },
         [&packed](auto& value) { packed.pack(value); });
    const std::vector<at::TypePtr> schema{compiled::IValuePacker<Wanted>::packed_type(),
                                          compiled::IValuePacker<typename K::packed>::packed_type()...};
    const auto& interface = compiled::getPyCompilerInterface();
    const std::string function = interface->bind_function(saved.get_py_compiler(), label, functional, schema,
                                                          /*is_custom_function=*/true);
    const at::IValue metadata =
        compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            compiled::get_input_metadata(next_edges()));
    variable_list result = interface->call_function(saved.get_py_compiler(), "apply_functional", function,
                                                    grads, packed.vec(), metadata);
    each([&saved](auto& value) { saved.after(value); }, [&saved](auto& value) { saved.after(value); });
    return result;
  }

 private:
  // No allocation where there is one input: it is wanted, or this would not run.
  Wanted wanted() const {
    Wanted result;
    if constexpr (kSeveral) {
      for (size_t i = 0; i < num_outputs(); ++i) result.push_back(task_should_compute_output(i));
    }
    return result;
  }

  template <class... Args>
  static variable_list gradients(const at::Tensor& grad, const Wanted& wanted, const Args&... args) {
    if constexpr (kSeveral) {
      return adjoint(grad, wanted, args...);
    } else {
      return {adjoint(grad, args...)};
    }
  }

  static variable_list functional(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    const auto wanted = packed.unpack<Wanted>();
    const std::tuple<typename K::packed...> arguments{packed.unpack<typename K::packed>()...};
    if (!grads[0].defined()) return variable_list(kSeveral ? wanted.size() : 1);
    return std::apply([&](const auto&... a) { return gradients(grads[0], wanted, K::give(a)...); },
                      arguments);
  }

  template <class OnVariable, class OnValue>
  void each(OnVariable on_variable, OnValue on_value) {
    const auto visit = [&](auto& member) {
      if constexpr (std::is_same_v<std::decay_t<decltype(member)>, SavedVariable>) {
        on_variable(member);
      } else {
        on_value(member);
      }
    };
    std::apply([&visit](auto&... members) { (visit(members), ...); }, kept);
  }
};

inline bool has_tangent(const at::Tensor& input) { return torch::autograd::isFwGradDefined(input); }
inline bool has_tangent(at::TensorList inputs) { return torch::autograd::isFwGradDefinedTensorList(inputs); }

// The tangent of an input, or zeros, which take no memory.
inline at::Tensor tangent_or_zeros(const at::Tensor& input) {
  if (has_tangent(input)) return input._fw_grad(/*level=*/0);
  return at::zeros({}, input.options()).expand_symint(input.sym_sizes());
}

// Runs `forward` below autograd. Where a gradient is recorded, `record` gives the node what it keeps; where
// an input has a tangent, `tangent` makes that of the result.
template <class Backward, class Forward, class Tangent, class Record, class... Inputs>
at::Tensor differentiable_in(const char* label, Forward forward, Tangent tangent, Record record,
                             const Inputs&... inputs) {
  NodePtr<Backward> node;
  if (torch::autograd::compute_requires_grad(inputs...)) {
    node = make_node<Backward>();
    node->label = label;
    record(*node);
    node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  }
  at::Tensor result = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return forward();
  }();
  if (node) torch::autograd::set_history(result, node);
  if ((has_tangent(inputs) || ...)) {
    result._set_fw_grad(tangent(), /*level=*/0, /*is_inplace_op=*/false);
  }
  return result;
}

// Runs `forward` below autograd on x. Its gradient is adjoint(grad, args...), its tangent is
// tangent(tangent of x).
template <auto adjoint, class Forward, class Tangent, class... Args>
at::Tensor differentiable(const char* label, const at::Tensor& x, Forward forward, Tangent tangent,
                          const Args&... args) {
  using Backward = LinearBackward<adjoint>;
  return differentiable_in<Backward>(
      label, [&] { return forward(x); }, [&] { return tangent(x._fw_grad(/*level=*/0)); },
      [&](Backward& node) { node.keep(args...); }, x);
}

// A linear map: its tangent is itself.
template <auto adjoint, class Map, class... Args>
at::Tensor linear(const char* label, const at::Tensor& x, Map map, const Args&... args) {
  return differentiable<adjoint>(label, x, map, map, args...);
}

// Runs write(out), which nothing is differentiated through: neither out nor an input may require it.
template <class Write, class... Inputs>
at::Tensor& into(const char* op, at::Tensor& out, Write write, const Inputs&... inputs) {
  POSENC_CHECK(!torch::autograd::compute_requires_grad(out) && !has_tangent(out), op,
               "out must not require grad, got a tensor that does");
  if constexpr (sizeof...(inputs) > 0) {
    POSENC_CHECK(!torch::autograd::compute_requires_grad(inputs...) && !(has_tangent(inputs) || ...), op,
                 "with out, no argument may require grad, got one that does");
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    write(out);
  }
  torch::autograd::impl::bump_version(out);
  return out;
}

}  // namespace posenc_ext::autograd
