// From torch's types to core's, and the wording every argument check shares.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <cmath>

#include "core/scalar.h"
#include "core/strided.h"

// posenc_ext::op: rule, got value
#define POSENC_CHECK(condition, op, ...) TORCH_CHECK(condition, "posenc_ext::", op, ": ", __VA_ARGS__)

namespace posenc_ext::ops {

inline bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble;
}

inline void check_dtype(const char* op, const char* argument, at::ScalarType type) {
  POSENC_CHECK(is_supported(type), op, argument, " must be float64, float32, float16 or bfloat16, got ",
               type);
}

inline void check_finite(const char* op, const char* argument, double value) {
  POSENC_CHECK(std::isfinite(value), op, argument, " must be finite, got ", value);
}

inline core::DType to_core(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return core::DType::float64;
    case at::kFloat:
      return core::DType::float32;
    case at::kHalf:
      return core::DType::float16;
    default:
      return core::DType::bfloat16;
  }
}

inline std::optional<core::PositionType> to_position_type(at::ScalarType type) {
  using core::PositionType;
  switch (type) {
    case at::kByte:
      return PositionType::u8;
    case at::kChar:
      return PositionType::i8;
    case at::kShort:
      return PositionType::i16;
    case at::kInt:
      return PositionType::i32;
    case at::kLong:
      return PositionType::i64;
    case at::kUInt16:
      return PositionType::u16;
    case at::kUInt32:
      return PositionType::u32;
    case at::kUInt64:
      return PositionType::u64;
    case at::kDouble:
      return PositionType::f64;
    case at::kFloat:
      return PositionType::f32;
    case at::kHalf:
      return PositionType::f16;
    case at::kBFloat16:
      return PositionType::bf16;
    default:
      return std::nullopt;
  }
}

// The geometry of a tensor's first `dims` dimensions; neighbours that step alike are merged.
core::Strided to_strided(const at::Tensor& tensor, int64_t dims);

// A tensor whose geometry `to_strided` can hold: itself, but for more than core::kMaxDims dimensions that do
// not merge.
at::Tensor with_few_dims(const at::Tensor& tensor, int64_t dims);

// The argument `out` must have the shape of the result; an empty one is given it.
void resize_out(const char* op, c10::SymIntArrayRef shape, const at::Tensor& out);

// The same for an op on tensors: besides, `out` has the dtype and device of `input`.
void resize_out_like(const char* op, const char* argument, const at::Tensor& input, c10::SymIntArrayRef shape,
                     const at::Tensor& out);

// How `out` lies to an input: apart; the very same memory; or not to be told, so that a result goes to memory
// of its own first. An error where they share some of their elements.
enum class Overlap { apart, same, unknown };
Overlap check_overlap(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out);

// An error where they share all of them, too.
Overlap check_apart(const char* op, const char* argument, const at::Tensor& input, const at::Tensor& out);

// Has write(t) fill `out`, by way of a tensor t of its own where `out` is not contiguous or may lie between
// the elements of an input.
template <class Write, class... Inputs>
at::Tensor& write_contiguous(at::Tensor& out, Write write, const Inputs&... inputs) {
  if (out.is_contiguous() && !(out.is_alias_of(inputs) || ...)) {
    write(out);
    return out;
  }
  at::Tensor contiguous = at::empty(out.sizes(), out.options());
  write(contiguous);
  return out.copy_(contiguous);
}

}  // namespace posenc_ext::ops
