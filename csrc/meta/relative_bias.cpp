// Result shapes of the relative-position biases, without data.
#include "ops/relative_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

template <class Op, class Signature>
struct Bias;

template <class Op, class... Args>
struct Bias<Op, ops::BiasShape (*)(const c10::SymInt&, Args...)> {
  static at::Tensor forward(const at::Tensor& table, Args... args) {
    const ops::BiasShape shape = ops::check_bias<Op>(table, args...);
    return at::empty_symint({table.sym_size(1), shape.queries, shape.keys}, table.options());
  }

  static at::Tensor& forward_out(const at::Tensor& table, Args... args, at::Tensor& out) {
    ops::check_bias_out<Op>(table, out, args...);
    return out;
  }

  static at::Tensor backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
    ops::check_bias_backward<Op>(grad, num_rows, args...);
    return at::empty_symint({num_rows, grad.sym_size(0)}, grad.options());
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) { ops::register_bias_ops<Bias>(m); }

}  // namespace posenc_ext::meta
