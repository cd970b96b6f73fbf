// From an op's arguments to its result: the steps that Meta, CPU and CUDA share.
//
// A check has the signature of its op. It returns the checked arguments: a struct derived from Result.
// A device says how memory is allocated and which rules only the values of tensors can break; its kernel
// takes the checked arguments and fills the result.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <torch/library.h>

#include <tuple>
#include <vector>

#include "ops/out.h"

namespace posenc_ext::ops {

// What an op returns: the base of its checked arguments.
struct Result {
  const char* op;  // that errors name
  c10::SymDimVector sizes;
  at::TensorOptions options;
  std::vector<Input> inputs{};  // that `out` must not overlap
};

inline c10::SymDimVector sizes_of(const at::Tensor& tensor) { return c10::SymDimVector(tensor.sym_sizes()); }

// A device without data.
struct Meta {
  static constexpr bool kComputes = false;

  struct Guard {
    explicit Guard(at::Device) {}
  };

  static at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
    return at::empty_symint(sizes, options);
  }

  template <class Arguments>
  static void check_values(const Arguments&) {}
};

// `fill(arguments, out)` writes a result that is not empty.
template <class Device, auto check, auto fill, class Check = decltype(check)>
struct Kernel;

template <class Device, auto check, auto fill, class Arguments, class... Args>
struct Kernel<Device, check, fill, Arguments (*)(Args...)> {
  static at::Tensor call(Args... args) {
    Arguments arguments = check(std::forward<Args>(args)...);
    Device::check_values(arguments);
    const typename Device::Guard guard(arguments.options.device());
    at::Tensor result = Device::empty(arguments.sizes, arguments.options);
    if constexpr (Device::kComputes) {
      if (result.numel() != 0) fill(arguments, result);
    }
    return result;
  }

  // Of a check whose last argument is `out`.
  static at::Tensor& call_out(Args... args) {
    at::Tensor& out = std::get<sizeof...(Args) - 1>(std::tie(args...));
    Arguments arguments = check(std::forward<Args>(args)...);
    Device::check_values(arguments);
    const typename Device::Guard guard(out.device());
    resize_out(arguments.op, arguments.sizes, out);
    const bool separate = check_inputs(arguments.op, arguments.inputs, out);
    if constexpr (Device::kComputes) {
      // After every check: a call that raises generates no random number.
      if constexpr (requires { arguments.draw_seed(); }) arguments.draw_seed();
      const bool direct = separate && Device::takes(arguments, out);
      at::Tensor result = direct ? out : Device::empty(arguments.sizes, out.options());
      if (result.numel() != 0) fill(arguments, result);
      if (!direct) out.copy_(result);
    }
    return out;
  }

  // Of a check whose first argument, Arguments::kWritten, is replaced by the result.
  static at::Tensor& call_in_place(Args... args) {
    at::Tensor& self = std::get<0>(std::tie(args...));
    Arguments arguments = check(std::forward<Args>(args)...);
    Device::check_values(arguments);
    const typename Device::Guard guard(self.device());
    POSENC_CHECK(at::has_internal_overlap(self) != at::MemOverlap::Yes, arguments.op, Arguments::kWritten,
                 " must not overlap itself, got strides ", self.sym_strides());
    const bool separate = check_inputs(arguments.op, arguments.inputs, self, Arguments::kWritten);
    if constexpr (Device::kComputes) {
      const bool direct = separate && self.is_contiguous();
      at::Tensor result = direct ? self : Device::empty(arguments.sizes, arguments.options);
      if (result.numel() != 0) fill(arguments, result);
      if (!direct) self.copy_(result);
    }
    return self;
  }

  // Of checked arguments with a second result, `arguments.second`.
  static std::tuple<at::Tensor, at::Tensor> call_two(Args... args) {
    Arguments arguments = check(std::forward<Args>(args)...);
    Device::check_values(arguments);
    const typename Device::Guard guard(arguments.options.device());
    at::Tensor first = Device::empty(arguments.sizes, arguments.options);
    at::Tensor second = Device::empty(arguments.second.sizes, arguments.second.options);
    if constexpr (Device::kComputes) fill(arguments, first, second);
    return {std::move(first), std::move(second)};
  }
};

// The kernel of an op on a device, for m.impl().
template <class Device, auto check, auto fill = nullptr>
constexpr auto kernel() {
  return TORCH_FN((Kernel<Device, check, fill>::call));
}

template <class Device, auto check, auto fill = nullptr>
constexpr auto out_kernel() {
  return TORCH_FN((Kernel<Device, check, fill>::call_out));
}

template <class Device, auto check, auto fill = nullptr>
constexpr auto in_place_kernel() {
  return TORCH_FN((Kernel<Device, check, fill>::call_in_place));
}

template <class Device, auto check, auto fill = nullptr>
constexpr auto two_result_kernel() {
  return TORCH_FN((Kernel<Device, check, fill>::call_two));
}

}  // namespace posenc_ext::ops
