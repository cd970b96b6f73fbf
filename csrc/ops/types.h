// From torch's types to core's, and the wording every argument check shares.
#pragma once

#include <ATen/core/Tensor.h>
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

// The geometry of a tensor's first `dims` dimensions, as few as possible: adjacent ones with a common stride
// are merged.
core::Strided to_strided(const at::Tensor& tensor, int64_t dims);

// The tensor, or a contiguous copy where its geometry does not merge into core::kMaxDims dimensions.
at::Tensor collapsible(const at::Tensor& tensor, int64_t dims);

}  // namespace posenc_ext::ops
