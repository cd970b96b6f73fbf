// The relative-position bias ops: for each, a struct that checks its arguments and makes its scheme. Meta,
// autograd, CPU and CUDA kernels are templates over BiasOps below; adding an op to that list registers all of
// them.
#pragma once

#include <tuple>

#include "core/schemes.h"
#include "ops/call.h"
#include "ops/kernel.h"

namespace posenc_ext::ops {

// What a table of bias rows is spread over.
struct BiasShape {
  c10::SymInt rows, queries, keys;
};

// The rules that ops on two sequences share.
void check_lengths(const char* op, const c10::SymInt& q_len, const c10::SymInt& k_len,
                   const c10::SymInt& q_offset);

// Each has the rules on its arguments, with the rows that the table has or is to have, and the scheme that
// they make.
struct WindowBias {
  static constexpr const char* name = "window_bias";
  static constexpr const char* backward_name = "_window_bias_backward";
  using Scheme = core::WindowScheme;

  static BiasShape shape(const c10::SymInt& num_rows, c10::SymIntArrayRef window,
                         at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens);
  // With the op that errors name.
  static BiasShape shape_of(const char* op, const c10::SymInt& num_rows, c10::SymIntArrayRef window,
                            at::OptionalSymIntArrayRef query_size, int64_t prefix_tokens);
  static Scheme scheme(int64_t num_rows, c10::SymIntArrayRef window, at::OptionalSymIntArrayRef query_size,
                       int64_t prefix_tokens);
};

struct T5Bias {
  static constexpr const char* name = "t5_bias";
  static constexpr const char* backward_name = "_t5_bias_backward";
  using Scheme = core::T5Scheme;

  static BiasShape shape(const c10::SymInt& num_rows, c10::SymInt q_len, c10::SymInt k_len,
                         c10::SymInt q_offset, bool bidirectional, int64_t max_distance);
  static void check_rows(const char* op, const c10::SymInt& num_rows, bool bidirectional,
                         int64_t max_distance);
  static Scheme scheme(int64_t num_rows, const c10::SymInt& q_len, const c10::SymInt& k_len,
                       const c10::SymInt& q_offset, bool bidirectional, int64_t max_distance);
};

template <class... Ops>
struct OpList {
  template <class F>
  static void for_each(F f) {
    (f(static_cast<Ops*>(nullptr)), ...);
  }
};

using BiasOps = OpList<WindowBias, T5Bias>;

// [heads, queries, keys] of a table [rows, heads].
template <class Op, class... Args>
struct Bias : Result {
  at::Tensor table;
  std::tuple<Args...> rest;

  typename Op::Scheme scheme() const {
    return std::apply([this](const Args&... args) { return Op::scheme(table.size(0), args...); }, rest);
  }
};

template <class Op, class... Args>
Bias<Op, Args...> check_bias(const at::Tensor& table, Args... args) {
  POSENC_CHECK(table.dim() == 2, Op::name, "table must have 2 dimensions [rows, heads], got ", table.dim());
  check_dtype(Op::name, "table", table.scalar_type());
  const BiasShape shape = Op::shape(table.sym_size(0), args...);
  return {{Op::name, {table.sym_size(1), shape.queries, shape.keys}, table.options()}, table, {args...}};
}

template <class Op, class... Args>
Bias<Op, Args...> check_bias_out(const at::Tensor& table, Args... args, at::Tensor& out) {
  Bias<Op, Args...> arguments = check_bias<Op, Args...>(table, args...);
  check_out_like(Op::name, "table", table, out);
  arguments.inputs = {{"table", table}};
  return arguments;
}

// The gradient of the table [num_rows, heads], of a gradient [heads, queries, keys].
template <class Op, class... Args>
struct BiasBackward : Result {
  at::Tensor grad;
  std::tuple<Args...> rest;

  typename Op::Scheme scheme() const {
    const int64_t num_rows = sizes[0].expect_int();
    return std::apply([num_rows](const Args&... args) { return Op::scheme(num_rows, args...); }, rest);
  }
};

template <class Op, class... Args>
BiasBackward<Op, Args...> check_bias_backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
  const BiasShape shape = Op::shape(num_rows, args...);
  check_dtype(Op::backward_name, "grad", grad.scalar_type());
  POSENC_CHECK(grad.dim() == 3 && grad.sym_size(1) == shape.queries && grad.sym_size(2) == shape.keys,
               Op::backward_name, "grad must have shape [heads, ", shape.queries, ", ", shape.keys, "], got ",
               grad.sym_sizes());
  return {{Op::backward_name, {std::move(num_rows), grad.sym_size(0)}, grad.options()}, grad, {args...}};
}

template <class Op, class... Args>
at::Tensor call_bias(const at::Tensor& table, Args... args) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, Args...)>(Op::name);
  return op.call(table, args...);
}

template <class Op, class... Args>
at::Tensor& call_bias_out(const at::Tensor& table, Args... args, at::Tensor& out) {
  static const auto op = find_op<at::Tensor&(const at::Tensor&, Args..., at::Tensor&)>(Op::name, "out");
  return op.call(table, args..., out);
}

template <class Op, class... Args>
at::Tensor call_bias_backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
  static const auto op = find_op<at::Tensor(const at::Tensor&, c10::SymInt, Args...)>(Op::backward_name);
  return op.call(grad, std::move(num_rows), args...);
}

// Registers `Kernels<Op>::forward`, `forward_out` and `backward` for every op under the dispatch key of
// `library`.
template <template <class Op, class Signature> class Kernels, class Library>
void register_bias_ops(Library& library) {
  BiasOps::for_each([&library]<class Op>(Op*) {
    using Implementation = Kernels<Op, decltype(&Op::shape)>;
    library.impl(Op::name, Implementation::forward);
    library.impl((std::string(Op::name) + ".out").c_str(), Implementation::forward_out);
    library.impl(Op::backward_name, Implementation::backward);
  });
}

// The kernels of a device, for register_bias_ops: fill(Bias&, out) and fill_backward(BiasBackward&, out)
// write results.
template <class Device, auto fill = nullptr, auto fill_backward = nullptr>
struct BiasOn {
  template <class Op, class Signature>
  struct Kernels;

  template <class Op, class... Args>
  struct Kernels<Op, BiasShape (*)(const c10::SymInt&, Args...)> {
    static constexpr auto forward = kernel<Device, check_bias<Op, Args...>, fill>();
    static constexpr auto forward_out = out_kernel<Device, check_bias_out<Op, Args...>, fill>();
    static constexpr auto backward = kernel<Device, check_bias_backward<Op, Args...>, fill_backward>();
  };
};

}  // namespace posenc_ext::ops
