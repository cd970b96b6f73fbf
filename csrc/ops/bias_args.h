// From tensors to the arguments of the bias kernels, for CPU and CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include "args/gather_bias.h"
#include "args/relative_bias.h"
#include "ops/types.h"

namespace posenc_ext::ops {

// The type that sums of elements of a type are carried in.
inline at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// `out` is contiguous. `table` is [rows, heads], or ALiBi's slopes [heads].
inline args::BiasForward bias_forward_args(const at::Tensor& table, const at::Tensor& out) {
  return {to_core(table.scalar_type()),
          table.const_data_ptr(),
          table.dim() == 2 ? table.stride(0) : 0,
          table.stride(-1),
          table.size(-1),
          out.mutable_data_ptr()};
}

// `grad` is [heads, queries, keys]; `partial` may be undefined where kernels have no use for it.
inline args::BiasBackward bias_backward_args(const at::Tensor& grad, const at::Tensor& partial,
                                             const at::Tensor& out) {
  return {to_core(grad.scalar_type()),
          grad.const_data_ptr(),
          /*batch=*/1,
          /*batch_stride=*/0,
          grad.stride(0),
          grad.stride(1),
          grad.stride(2),
          grad.size(0),
          partial.defined() ? partial.mutable_data_ptr() : nullptr,
          out.mutable_data_ptr()};
}

// `index` is [..., queries, keys], of dimensions that to_strided can hold.
inline args::Index index_args(const at::Tensor& index) {
  const int64_t queries = index.size(-2), keys = index.size(-1), plane = queries * keys;
  return {index.const_data_ptr(),
          index.scalar_type() == at::kLong,
          to_strided(index, index.dim()),
          index.stride(-1),
          plane == 0 ? 0 : index.numel() / plane,
          queries,
          keys};
}

inline args::GatherForward gather_forward_args(const at::Tensor& table, const args::Index& index,
                                               const at::Tensor& out) {
  return {index,
          to_core(table.scalar_type()),
          table.const_data_ptr(),
          table.stride(0),
          table.stride(1),
          table.size(0),
          table.size(1),
          out.mutable_data_ptr()};
}

// `grad` is [..., heads, queries, keys]. One of more dimensions than kernels take is copied to `storage`.
inline args::GatherBackward gather_backward_args(const at::Tensor& grad, const args::Index& index,
                                                 const at::Tensor& partial, const at::Tensor& out,
                                                 at::Tensor& storage) {
  const at::Tensor one_head = grad.select(-3, 0);
  storage = collapsible(one_head, one_head.dim()).is_same(one_head) ? grad : grad.contiguous();
  return {index,
          out.size(0),
          out.size(1),
          to_core(grad.scalar_type()),
          storage.const_data_ptr(),
          to_strided(storage.select(-3, 0), one_head.dim()),
          storage.stride(-1),
          storage.stride(-3),
          partial.mutable_data_ptr(),
          out.mutable_data_ptr()};
}

}  // namespace posenc_ext::ops
