// The CPU as ops::Kernel takes it.
#pragma once

#include <c10/core/SymIntArrayRef.h>

#include "cpu/memory.h"
#include "ops/add_sinusoidal.h"
#include "ops/alibi_bias.h"
#include "ops/gather_bias.h"
#include "ops/positions.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cpu {

struct Cpu {
  static constexpr bool kComputes = true;

  struct Guard {
    explicit Guard(at::Device) {}
  };

  static at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
    return new_result(C10_AS_INTARRAYREF_SLOW(sizes), c10::typeMetaToScalarType(options.dtype()));
  }

  // Rules that only the values of a tensor can break.
  static void check_values(const ops::Result&) {}
  static void check_values(const ops::Sinusoidal&);
  static void check_values(const ops::AddSinusoidal&);
  static void check_values(const ops::AddPositions&);
  static void check_values(const ops::SumPositions&);
  static void check_values(const ops::GatherBias&);
  static void check_values(const ops::GatherBiasBackward&);

  // Whether a kernel can write into memory of this layout.
  static bool takes(const ops::Result&, const at::Tensor& out) { return out.is_contiguous(); }
  static bool takes(const ops::SinusoidalTable&, const at::Tensor& out) { return out.stride(1) == 1; }
  static bool takes(const ops::Sinusoidal&, const at::Tensor& out) {
    return out.is_contiguous() || (out.dim() == 2 && out.stride(1) == 1);
  }
  static bool takes(const ops::AlibiSlopes&, const at::Tensor&) { return true; }
};

}  // namespace posenc_ext::cpu
