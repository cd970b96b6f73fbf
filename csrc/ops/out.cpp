#include "ops/out.h"

#include <ATen/MemoryOverlap.h>

namespace posenc_ext::ops {
namespace {

enum class Overlap { none, same, unknown };

Overlap check_overlap(const char* op, const Input& input, const at::Tensor& out, const char* name) {
  const at::MemOverlapStatus status = at::get_overlap_status(input.tensor, out);
  if (status == at::MemOverlapStatus::No) return Overlap::none;
  if (status == at::MemOverlapStatus::TooHard) {
    return input.tensor.storage().is_alias_of(out.storage()) ? Overlap::unknown : Overlap::none;
  }
  const bool same =
      status == at::MemOverlapStatus::Full && input.tensor.strides() == out.strides() && input.may_be_out;
  POSENC_CHECK(same, op, name, " must not overlap ", input.name, ", got one that does");
  return Overlap::same;
}

}  // namespace

void check_out_like(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out) {
  POSENC_CHECK(out.scalar_type() == input.scalar_type(), op, "out must have the dtype of ", argument, " (",
               input.scalar_type(), "), got ", out.scalar_type());
  POSENC_CHECK(out.device() == input.device(), op, "out must be on the device of ", argument, " (",
               input.device(), "), got ", out.device());
}

void resize_out(const char* op, c10::SymIntArrayRef shape, const at::Tensor& out) {
  POSENC_CHECK(at::has_internal_overlap(out) != at::MemOverlap::Yes, op,
               "out must not overlap itself, got strides ", out.sym_strides());
  if (out.sym_sizes() == shape) return;
  POSENC_CHECK(out.sym_numel() == 0, op, "out must be empty or have shape ", shape, ", got ",
               out.sym_sizes());
  out.resize__symint(shape);
}

bool check_inputs(const char* op, const std::vector<Input>& inputs, const at::Tensor& out, const char* name) {
  bool separate = true;
  for (const Input& input : inputs) separate &= check_overlap(op, input, out, name) != Overlap::unknown;
  return separate;
}

}  // namespace posenc_ext::ops
