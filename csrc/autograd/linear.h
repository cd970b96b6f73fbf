// One autograd rule for every op that is linear (or affine) in its tensors: the gradient is the adjoint, the
// tangent is the map. Ops with another derivative use the same node, and may save their result.
//
// The adjoint is a differentiable call, so derivatives of any order, forward mode and torch.func follow. A
// Node as in PyTorch's generated code: torch::autograd::Function supports neither torch.func nor forward
// mode.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "autograd/compiled.h"
#include "ops/call.h"
#include "ops/types.h"
#include "torch_compat.h"

namespace posenc_ext::autograd {

using torch::autograd::Node;

// A parameter of an adjoint that is the result of the forward call.
struct Output {
  at::Tensor tensor;
  bool was_view = false;  // and was written in place
};

// The result holds its node, so the node must not hold the result: such a SavedVariable does not.
struct SavedOutput : SavedVariable {
  SavedOutput() = default;
  SavedOutput(const at::Tensor& result, bool was_view)
      : SavedVariable(result, /*is_output=*/true, /*is_inplace_on_view=*/was_view) {}
};

// How an argument of type A is saved between forward and backward. `packed`: as compiled autograd takes it.
template <class A>
struct Saved {
  using type = A;
  using packed = type;
  static type save(const A& a) { return a; }
  static A unpack(const type& saved, Node&) { return saved; }
  static A unpack_from(const packed& saved) { return saved; }
};

template <>
struct Saved<std::string_view> {
  using type = std::string;
  using packed = type;
  static type save(std::string_view a) { return type(a); }
  static std::string_view unpack(const type& saved, Node&) { return saved; }
  static std::string_view unpack_from(const packed& saved) { return saved; }
};

template <>
struct Saved<c10::SymIntArrayRef> {
  using type = std::vector<c10::SymInt>;
  using packed = type;
  static type save(c10::SymIntArrayRef a) { return a.vec(); }
  static c10::SymIntArrayRef unpack(const type& saved, Node&) { return saved; }
  static c10::SymIntArrayRef unpack_from(const packed& saved) { return saved; }
};

template <>
struct Saved<at::OptionalSymIntArrayRef> {
  using type = std::optional<std::vector<c10::SymInt>>;
  using packed = type;
  static type save(at::OptionalSymIntArrayRef a) { return a.has_value() ? type(a->vec()) : type(); }
  static at::OptionalSymIntArrayRef unpack(const type& saved, Node&) { return unpack_from(saved); }
  static at::OptionalSymIntArrayRef unpack_from(const packed& saved) {
    return saved.has_value() ? at::OptionalSymIntArrayRef(*saved) : at::OptionalSymIntArrayRef();
  }
};

template <>
struct Saved<const at::Tensor&> {
  using type = SavedVariable;
  using packed = at::Tensor;
  static type save(const at::Tensor& a) { return type(a, /*is_output=*/false); }
  static at::Tensor unpack(const type& saved, Node&) { return saved.unpack(); }
  static at::Tensor unpack_from(const packed& saved) { return saved; }
};

template <>
struct Saved<const std::optional<at::Tensor>&> {
  using type = SavedVariable;
  using packed = at::Tensor;
  static type save(const std::optional<at::Tensor>& a) {
    return type(a.value_or(at::Tensor()), /*is_output=*/false);
  }
  static std::optional<at::Tensor> unpack(const type& saved, Node&) { return unpack_from(saved.unpack()); }
  static std::optional<at::Tensor> unpack_from(const packed& saved) {
    return saved.defined() ? std::optional<at::Tensor>(saved) : std::nullopt;
  }
};

template <>
struct Saved<const Output&> {
  using type = SavedOutput;
  using packed = at::Tensor;
  static type save(const Output& a) { return type(a.tensor, a.was_view); }
  static Output unpack(const type& saved, Node& node) { return {saved.unpack(node.getptr())}; }
  static Output unpack_from(const packed& saved) { return {saved}; }
};

// Which of several inputs need a gradient.
using OutputMask = std::vector<bool>;

// An adjoint is a function or an op: of the gradient and the saved arguments where the op has one
// differentiable input; of the gradient, the mask and the saved arguments, with a gradient for each input,
// where it has several.
template <class F>
struct Adjoint;

template <class... Args>
struct Adjoint<at::Tensor (*)(const at::Tensor&, Args...)> {
  static constexpr bool kSeveral = false;
  using SavedArgs = std::tuple<Saved<Args>...>;
};

template <class... Args, ops::Text name>
struct Adjoint<ops::Op<at::Tensor(const at::Tensor&, Args...), name>>
    : Adjoint<at::Tensor (*)(const at::Tensor&, Args...)> {};

template <class... Args>
struct Adjoint<variable_list (*)(const at::Tensor&, const OutputMask&, Args...)> {
  static constexpr bool kSeveral = true;
  using SavedArgs = std::tuple<Saved<Args>...>;
};

template <auto adjoint, class Rule = Adjoint<std::remove_const_t<decltype(adjoint)>>,
          class = typename Rule::SavedArgs>
struct BackwardNode;

template <auto adjoint, class Rule, class... S>
struct BackwardNode<adjoint, Rule, std::tuple<S...>>
    : CompiledNode<BackwardNode<adjoint, Rule, std::tuple<S...>>, S...> {
  const char* label = "";
  std::tuple<typename S::type...> saved;

  template <class... Args>
  void save(const Args&... args) {
    saved = std::tuple<typename S::type...>(S::save(args)...);
  }

  std::string name() const override { return label; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(this->num_outputs());
    const at::Tensor grad = std::move(grads[0]);
    return std::apply(
        [&](const auto&... args) { return gradients(grad, output_mask(), S::unpack(args, *this)...); },
        saved);
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(this->mutex_);
    each([](SavedVariable& variable, bool) { variable.reset_data(); }, [](auto&) {});
  }

  // Empty, without an allocation, for one input: its gradient is needed, or the node would not run.
  OutputMask output_mask() const {
    OutputMask mask;
    if constexpr (Rule::kSeveral) {
      for (size_t i = 0; i < this->num_outputs(); ++i) mask.push_back(this->task_should_compute_output(i));
    }
    return mask;
  }

  template <class... Args>
  static variable_list gradients(const at::Tensor& grad, const OutputMask& mask, const Args&... args) {
    if constexpr (Rule::kSeveral) {
      return adjoint(grad, mask, args...);
    } else {
      return {adjoint(grad, args...)};
    }
  }

  template <class OnVariable, class OnValue>
  void each(OnVariable on_variable, OnValue on_value) {
    const auto visit = [&]<class Member>(Member& member) {
      if constexpr (std::is_base_of_v<SavedVariable, Member>) {
        on_variable(member, std::is_same_v<Member, SavedOutput>);
      } else {
        on_value(member);
      }
    };
    std::apply([&visit](auto&... members) { (visit(members), ...); }, saved);
  }
};

inline bool has_tangent(const at::Tensor& input) { return torch::autograd::isFwGradDefined(input); }
inline bool has_tangent(at::TensorList inputs) { return torch::autograd::isFwGradDefinedTensorList(inputs); }

// The tangent of an input, or zeros, which take no memory.
inline at::Tensor tangent_or_zeros(const at::Tensor& input) {
  if (has_tangent(input)) return input._fw_grad(/*level=*/0);
  return at::zeros({}, input.options()).expand_symint(input.sym_sizes());
}

// Runs forward() below autograd. Where a gradient is recorded, record(node, result) saves what the adjoint
// takes; where an input has a tangent, tangent(result) is that of the result.
template <auto adjoint, class Forward, class Tangent, class Record, class... Inputs>
at::Tensor differentiable(const char* label, Forward forward, Tangent tangent, Record record,
                          const Inputs&... inputs) {
  using Backward = BackwardNode<adjoint>;
  NodePtr<Backward> node;
  if (torch::autograd::compute_requires_grad(inputs...)) {
    node = make_node<Backward>();
    node->label = label;
    node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  }
  at::Tensor result = [&] {
    at::AutoDispatchBelowADInplaceOrView below;
    return forward();
  }();
  if (node) torch::autograd::set_history(result, node);
  if ((has_tangent(inputs) || ...)) {
    result._set_fw_grad(tangent(result), /*level=*/0, /*is_inplace_op=*/false);
  }
  if (node) record(*node, result);  // with its tangent, and after forward has checked the arguments
  return result;
}

// The same of an op that writes its result over its first input.
template <auto adjoint, class Forward, class Tangent, class Record, class... Inputs>
at::Tensor& differentiable_in_place(const char* label, Forward forward, Tangent tangent, Record record,
                                    at::Tensor& self, const Inputs&... inputs) {
  using Backward = BackwardNode<adjoint>;
  NodePtr<Backward> node;
  const bool needs = torch::autograd::compute_requires_grad(self, inputs...);
  torch::autograd::check_inplace(self, needs);
  if (needs) {
    node = make_node<Backward>();
    node->label = label;
    node->set_next_edges(torch::autograd::collect_next_edges(self, inputs...));
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    forward();
  }
  torch::autograd::impl::bump_version(self);
  if (node) torch::autograd::rebase_history(self, node);
  if (has_tangent(self) || (has_tangent(inputs) || ...)) {
    const at::Tensor changed = tangent(self._fw_primal(/*level=*/0));
    if (has_tangent(self)) {
      at::Tensor own = self._fw_grad(/*level=*/0);
      own.copy_(changed);
    } else {
      self._set_fw_grad(changed, /*level=*/0, /*is_inplace_op=*/true);
    }
  }
  if (node) record(*node, self);
  return self;
}

// A map that is linear in x: record(node) saves what the adjoint takes.
template <auto adjoint, class Map, class Record>
at::Tensor linear(const char* label, const at::Tensor& x, Map map, Record record) {
  return differentiable<adjoint>(
      label, [&] { return map(x); }, [&](const at::Tensor&) { return map(x._fw_grad(/*level=*/0)); },
      [&](auto& node, const at::Tensor&) { record(node); }, x);
}

inline bool needs_grad(const at::Tensor& t) {
  return torch::autograd::compute_requires_grad(t) || has_tangent(t);
}
inline bool needs_grad(at::TensorList t) {
  return torch::autograd::compute_requires_grad(t) || has_tangent(t);
}
template <class T>
bool needs_grad(const T&) {
  return false;
}

// Calls an op that writes into `out`, its last argument: it is not differentiable, so no tensor may require a
// gradient.
template <class Call, class... Args>
at::Tensor& into(std::string_view op, Call call, Args&&... args) {
  at::Tensor& out = std::get<sizeof...(Args) - 1>(std::tie(args...));
  POSENC_CHECK(!needs_grad(out), op, "out must not require grad, got a tensor that does");
  POSENC_CHECK(!(needs_grad(args) || ...), op, "with out, no argument may require grad, got one that does");
  {
    at::AutoDispatchBelowADInplaceOrView below;
    call(std::forward<Args>(args)...);
  }
  torch::autograd::impl::bump_version(out);
  return out;
}

template <class Op>
struct Into;

template <class... Args, ops::Text text>
struct Into<ops::Op<at::Tensor&(Args...), text>> {
  using Op = ops::Op<at::Tensor&(Args...), text>;

  static at::Tensor& call(Args... args) { return into(Op::name, Op(), std::forward<Args>(args)...); }
};

// The autograd kernel of an op that writes into `out`, for m.impl().
template <auto op>
constexpr auto into_kernel() {
  return TORCH_FN(Into<std::remove_const_t<decltype(op)>>::call);
}

}  // namespace posenc_ext::autograd
