// Result shapes of the bias of any index, without data.
#include "ops/gather_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace posenc_ext::meta {
namespace {

at::Tensor gather_bias_meta(const at::Tensor& table, const at::Tensor& index) {
  ops::check_gather_bias(table, index);
  return at::empty_symint(ops::gather_bias_sizes(index, table.sym_size(1)), table.options());
}

at::Tensor& gather_bias_out_meta(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  ops::check_gather_bias_out(table, index, out);
  return out;
}

at::Tensor gather_bias_backward_meta(const at::Tensor& grad, const at::Tensor& index, c10::SymInt num_rows) {
  ops::check_gather_bias_backward(grad, index, num_rows);
  return at::empty_symint({std::move(num_rows), grad.sym_size(-3)}, grad.options());
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("gather_bias", TORCH_FN(gather_bias_meta));
  m.impl("gather_bias.out", TORCH_FN(gather_bias_out_meta));
  m.impl("_gather_bias_backward", TORCH_FN(gather_bias_backward_meta));
}

}  // namespace posenc_ext::meta
