#include "ops/types.h"

#include <ATen/MemoryOverlap.h>

namespace posenc_ext::ops {
namespace {

// Merges dimensions from the last to the first; returns false where more than kMaxDims are left.
bool merge(const at::Tensor& tensor, int64_t dims, core::Strided& out) {
  int64_t size[64], stride[64];
  int32_t count = 0;
  for (int64_t d = dims - 1; d >= 0; --d) {
    if (tensor.size(d) == 1) continue;
    if (count > 0 && tensor.stride(d) == stride[count - 1] * size[count - 1]) {
      size[count - 1] *= tensor.size(d);
      continue;
    }
    if (count == 64) return false;
    size[count] = tensor.size(d);
    stride[count++] = tensor.stride(d);
  }
  if (count > core::kMaxDims) return false;
  out.dims = count;
  for (int32_t d = 0; d < count; ++d) {
    out.size[d] = size[count - 1 - d];
    out.stride[d] = stride[count - 1 - d];
  }
  return true;
}

}  // namespace

core::Strided to_strided(const at::Tensor& tensor, int64_t dims) {
  core::Strided result{};
  TORCH_INTERNAL_ASSERT(merge(tensor, dims, result));
  return result;
}

at::Tensor with_few_dims(const at::Tensor& tensor, int64_t dims) {
  core::Strided ignored{};
  return merge(tensor, dims, ignored) ? tensor : tensor.contiguous();
}

void resize_out(const char* op, c10::SymIntArrayRef shape, const at::Tensor& out) {
  POSENC_CHECK(at::has_internal_overlap(out) != at::MemOverlap::Yes, op,
               "out must not overlap itself, got strides ", out.sym_strides());
  if (out.sym_sizes() == shape) return;
  POSENC_CHECK(out.sym_numel() == 0, op, "out must be empty or have shape ", shape, ", got ",
               out.sym_sizes());
  out.resize__symint(shape);
}

void resize_out_like(const char* op, const char* argument, const at::Tensor& input, c10::SymIntArrayRef shape,
                     const at::Tensor& out) {
  POSENC_CHECK(out.scalar_type() == input.scalar_type(), op, "out must have the dtype of ", argument, " (",
               input.scalar_type(), "), got ", out.scalar_type());
  POSENC_CHECK(out.device() == input.device(), op, "out must be on the device of ", argument, " (",
               input.device(), "), got ", out.device());
  resize_out(op, shape, out);
}

Overlap check_overlap(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out) {
  const at::MemOverlapStatus status = at::get_overlap_status(input, out);
  if (status == at::MemOverlapStatus::No) return Overlap::apart;
  if (status == at::MemOverlapStatus::Full && input.strides() == out.strides()) return Overlap::same;
  if (status == at::MemOverlapStatus::TooHard) {
    return input.storage().is_alias_of(out.storage()) ? Overlap::unknown : Overlap::apart;
  }
  POSENC_CHECK(false, op, "out must not overlap ", argument, ", got one that does");
}

Overlap check_apart(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out) {
  const Overlap overlap = check_overlap(op, argument, input, out);
  POSENC_CHECK(overlap != Overlap::same, op, "out must not overlap ", argument, ", got one that does");
  return overlap;
}

}  // namespace posenc_ext::ops
