// Every relative-position bias is linear in its table; the gradient of the table is the adjoint op, and the
// other way round.
#include "ops/relative_bias.h"

#include <torch/library.h>

#include "autograd/linear.h"

namespace posenc_ext::autograd {
namespace {

template <class Op, class Signature>
struct Bias;

template <class Op, class... Args>
struct Bias<Op, ops::BiasShape (*)(const c10::SymInt&, Args...)> {
  static at::Tensor forward(const at::Tensor& table, Args... args) {
    return linear<&ops::call_bias_backward<Op, Args...>>(
        Op::name, table, [&](const at::Tensor& t) { return ops::call_bias<Op, Args...>(t, args...); },
        [&](auto& node) { node.save(table.sym_size(0), args...); });
  }

  static at::Tensor& forward_out(const at::Tensor& table, Args... args, at::Tensor& out) {
    return into(Op::name, ops::call_bias_out<Op, Args...>, table, args..., out);
  }

  static at::Tensor backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
    return linear<&ops::call_bias<Op, Args...>>(
        Op::backward_name, grad,
        [&](const at::Tensor& g) { return ops::call_bias_backward<Op, Args...>(g, num_rows, args...); },
        [&](auto& node) { node.save(args...); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Autograd, m) { ops::register_bias_ops<Bias>(m); }

}  // namespace posenc_ext::autograd
