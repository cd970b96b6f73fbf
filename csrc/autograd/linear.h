// One autograd rule for every op that is linear (or affine) in its tensor: the gradient is the adjoint, the
// tangent is the map.
//
// The adjoint is an op of its own with this same rule, so derivatives of any order, forward mode and
// torch.func follow. A hand-written Node, as PyTorch's generated code has: the form that TorchScript in C++,
// torch.func and compiled autograd take.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
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

// The backward of one call: adjoint(grad, arguments...).
template <auto adjoint, class = decltype(adjoint)>
struct LinearBackward;

template <auto adjoint, class... Args>
struct LinearBackward<adjoint, at::Tensor (*)(const at::Tensor&, Args...)> : torch::autograd::Node {
  const char* label = "";
  std::tuple<typename Kept<Args>::type...> kept;

  std::string name() const override { return label; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    const at::Tensor grad = std::move(grads[0]);
    return {std::apply([&grad](const auto&... k) { return adjoint(grad, Kept<Args>::give(k)...); }, kept)};
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
    each([&packed](SavedVariable& variable) { packed.pack<at::Tensor>(variable.unpack()); },
         [&packed](auto& value) { packed.pack(value); });
    const std::vector<at::TypePtr> schema{
        compiled::IValuePacker<typename Kept<Args>::packed>::packed_type()...};
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
  static variable_list functional(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    const std::tuple<typename Kept<Args>::packed...> arguments{
        packed.unpack<typename Kept<Args>::packed>()...};
    if (!grads[0].defined()) return {at::Tensor()};
    return {std::apply([&grads](const auto&... a) { return adjoint(grads[0], Kept<Args>::give(a)...); },
                       arguments)};
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

template <class F>
struct ArgumentsAfterTensor;

template <class... Args>
struct ArgumentsAfterTensor<at::Tensor (*)(const at::Tensor&, Args...)> {
  // Runs `forward` below autograd on x. Its gradient is adjoint(grad, args...), its tangent is
  // tangent(tangent of x).
  template <auto adjoint, class Forward, class Tangent>
  static at::Tensor differentiable(const char* label, const at::Tensor& x, Forward forward, Tangent tangent,
                                   Args... args) {
    using Backward = LinearBackward<adjoint>;
    c10::intrusive_ptr<Backward> node;
    if (torch::autograd::compute_requires_grad(x)) {
      node = c10::make_intrusive<Backward>();
      node->label = label;
      node->kept = std::tuple<typename Kept<Args>::type...>(Kept<Args>::keep(args)...);
      node->set_next_edges(torch::autograd::collect_next_edges(x));
    }
    at::Tensor result = [&] {
      at::AutoDispatchBelowADInplaceOrView below;
      return forward(x);
    }();
    if (node) torch::autograd::set_history(result, node);
    if (torch::autograd::isFwGradDefined(x)) {
      result._set_fw_grad(tangent(x._fw_grad(/*level=*/0)), /*level=*/0, /*is_inplace_op=*/false);
    }
    return result;
  }
};

template <auto adjoint, class Forward, class Tangent, class... Args>
at::Tensor differentiable(const char* label, const at::Tensor& x, Forward forward, Tangent tangent,
                          Args&&... args) {
  return ArgumentsAfterTensor<decltype(adjoint)>::template differentiable<adjoint>(
      label, x, forward, tangent, std::forward<Args>(args)...);
}

// A linear map: its tangent is itself.
template <auto adjoint, class Map, class... Args>
at::Tensor linear(const char* label, const at::Tensor& x, Map map, Args&&... args) {
  return differentiable<adjoint>(label, x, map, map, std::forward<Args>(args)...);
}

// Runs write(out), which nothing is differentiated through.
template <class Write>
at::Tensor& into(const char* op, at::Tensor& out, Write write) {
  POSENC_CHECK(!torch::autograd::compute_requires_grad(out) && !torch::autograd::isFwGradDefined(out), op,
               "out must not require grad, got a tensor that does");
  {
    at::AutoDispatchBelowADInplaceOrView below;
    write(out);
  }
  torch::autograd::impl::bump_version(out);
  return out;
}

}  // namespace posenc_ext::autograd
