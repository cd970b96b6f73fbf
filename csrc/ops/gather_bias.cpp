#include "ops/gather_bias.h"

#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

void check_index(const char* op, const char* tensor, const at::Tensor& index, at::Device device) {
  POSENC_CHECK(index.scalar_type() == at::kInt || index.scalar_type() == at::kLong, op,
               "index must be int32 or int64, got ", index.scalar_type());
  POSENC_CHECK(index.dim() >= 2, op, "index must have at least 2 dimensions [..., Q, K], got ", index.dim());
  POSENC_CHECK(index.device() == device, op, "index must be on the device of ", tensor, " (", device,
               "), got ", index.device());
}

}  // namespace

GatherBias check_gather_bias(const at::Tensor& table, const at::Tensor& index) {
  const char* op = "gather_bias";
  POSENC_CHECK(table.dim() == 2, op, "table must have 2 dimensions [rows, heads], got ", table.dim());
  check_dtype(op, "table", table.scalar_type());
  check_index(op, "table", index, table.device());
  c10::SymDimVector sizes = sizes_of(index);
  sizes.insert(sizes.end() - 2, table.sym_size(1));
  return {{op, std::move(sizes), table.options()}, table, index};
}

GatherBias check_gather_bias_out(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  GatherBias arguments = check_gather_bias(table, index);
  check_out_like(arguments.op, "table", table, out);
  arguments.inputs = {{"table", table}, {"index", index}};
  return arguments;
}

GatherBiasBackward check_gather_bias_backward(const at::Tensor& grad, const at::Tensor& index,
                                              c10::SymInt num_rows) {
  const char* op = "_gather_bias_backward";
  check_dtype(op, "grad", grad.scalar_type());
  check_index(op, "grad", index, grad.device());
  const int64_t batch = index.dim() - 2;
  POSENC_CHECK(grad.dim() == batch + 3 &&
                   grad.sym_sizes().slice(0, batch) == index.sym_sizes().slice(0, batch) &&
                   grad.sym_sizes().slice(batch + 1) == index.sym_sizes().slice(batch),
               op, "grad must have shape [..., heads, Q, K] for an index of shape ", index.sym_sizes(),
               ", got ", grad.sym_sizes());
  POSENC_CHECK(num_rows >= 0, op, "num_rows must be non-negative, got ", num_rows);
  return {{op, {std::move(num_rows), grad.sym_size(-3)}, grad.options()}, grad, index};
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("gather_bias", kernel<Meta, check_gather_bias>());
  m.impl("gather_bias.out", out_kernel<Meta, check_gather_bias_out>());
  m.impl("_gather_bias_backward", kernel<Meta, check_gather_bias_backward>());
}

}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor gather_bias(const at::Tensor& table, const at::Tensor& index) {
  return ops::call_gather_bias(table, index);
}

}  // namespace posenc_ext
