// CUDA as ops::Kernel takes it.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/alibi_bias.h"
#include "ops/gather_bias.h"
#include "ops/positions.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cuda {

struct Cuda {
  static constexpr bool kComputes = true;

  using Guard = c10::cuda::CUDAGuard;

  static at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions& options) {
    return at::empty(C10_AS_INTARRAYREF_SLOW(sizes), options);
  }

  // Kernels check other values where they read them: an error here would have to wait for the device.
  static void check_values(const ops::Result&) {}
  static void check_values(const ops::AddPositions&);
  static void check_values(const ops::SumPositions&);
  static void check_values(const ops::GatherBias&);
  static void check_values(const ops::GatherBiasBackward&);

  // Whether a kernel can write into memory of this layout.
  static bool takes(const ops::Result&, const at::Tensor& out) { return out.is_contiguous(); }
  static bool takes(const ops::SinusoidalTable&, const at::Tensor&) { return true; }
  static bool takes(const ops::AlibiSlopes&, const at::Tensor&) { return true; }
};

// Launches a kernel on the current stream: with the arguments that CPU and CUDA share, or with others.
template <auto kernel>
struct Launched {
  template <class Arguments>
  void operator()(Arguments& arguments, const at::Tensor& out) const {
    if constexpr (requires { arguments.encoding; }) {
      (*this)(ops::fill_args(arguments, core::make_sinusoid(arguments.encoding), out));
    } else {
      (*this)(ops::fill_args(arguments, out));
    }
  }

  template <class... Arguments>
  void operator()(const Arguments&... arguments) const {
    kernel(arguments..., c10::cuda::getCurrentCUDAStream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

template <auto kernel>
inline constexpr Launched<kernel> launched;

}  // namespace posenc_ext::cuda
