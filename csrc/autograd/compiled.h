// What compiled autograd asks of a node: the part of autograd whose interface changes most between versions
// of torch. Without it, torch.compile of backward raises an error that names the node.
#pragma once

#include "torch_compat.h"

#if POSENC_COMPILED_AUTOGRAD
#include <torch/csrc/dynamo/compiled_autograd.h>
#endif

#include <string>
#include <vector>

namespace posenc_ext::autograd {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

#if POSENC_COMPILED_AUTOGRAD

// The base of `Derived`, which saves arguments as `Saved...`.
template <class Derived, class... Saved>
struct CompiledNode : torch::autograd::Node {
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    const_cast<Derived&>(derived()).each(
        [&args](SavedVariable& variable, bool is_output) { args.collect(variable, is_output); },
        [&args](auto& value) { args.collect(value); });
  }

  // Puts a call of `functional` into the graph, which is traced later; gradients here are placeholders.
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    namespace compiled = torch::dynamo::autograd;
    Derived& node = static_cast<Derived&>(*this);
    node.each([&saved](SavedVariable& variable, bool) { saved.before(variable); },
              [&saved](auto& value) { saved.before(value); });
    compiled::PackedArgs packed;
    packed.pack(node.output_mask());
    node.each([&](SavedVariable& variable, bool) { packed.pack<at::Tensor>(variable.unpack(getptr())); },
              [&packed](auto& value) { packed.pack(value); });
    const std::vector<at::TypePtr> schema{compiled::IValuePacker<std::vector<bool>>::packed_type(),
                                          compiled::IValuePacker<typename Saved::packed>::packed_type()...};
    const auto& interface = compiled::getPyCompilerInterface();
    const std::string function =
        interface->bind_function(saved.get_py_compiler(), node.name(), functional, schema,
                                 /*is_custom_function=*/true);
    const at::IValue metadata =
        compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            compiled::get_input_metadata(next_edges()));
    variable_list result = interface->call_function(saved.get_py_compiler(), "apply_functional", function,
                                                    grads, packed.vec(), metadata);
    node.each([&saved](SavedVariable& variable, bool) { saved.after(variable); },
              [&saved](auto& value) { saved.after(value); });
    return result;
  }

 private:
  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  static variable_list functional(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    const auto mask = packed.unpack<std::vector<bool>>();
    const std::tuple<typename Saved::packed...> arguments{packed.unpack<typename Saved::packed>()...};
    if (!grads[0].defined()) return variable_list(mask.empty() ? 1 : mask.size());
    return std::apply(
        [&](const auto&... a) { return Derived::gradients(grads[0], mask, Saved::unpack_from(a)...); },
        arguments);
  }
};

#else

template <class Derived, class... Saved>
using CompiledNode = torch::autograd::Node;

#endif

}  // namespace posenc_ext::autograd
