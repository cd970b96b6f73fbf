#include "ops/types.h"

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

at::Tensor collapsible(const at::Tensor& tensor, int64_t dims) {
  core::Strided ignored{};
  return merge(tensor, dims, ignored) ? tensor : tensor.contiguous();
}

}  // namespace posenc_ext::ops
