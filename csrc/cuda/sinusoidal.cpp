// The sinusoid ops on CUDA.
#include "cuda/kernels/sinusoidal.h"

#include "cuda/device.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cuda {

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("sinusoidal_table.out",
         ops::out_kernel<Cuda, ops::check_sinusoidal_table, launched<sinusoid_rows>>());
  m.impl("sinusoidal.out", ops::out_kernel<Cuda, ops::check_sinusoidal_out, launched<sinusoid_rows>>());
  m.impl("_sinusoidal", ops::kernel<Cuda, ops::check_sinusoidal, launched<sinusoid_rows>>());
  m.impl("_sinusoidal_backward",
         ops::kernel<Cuda, ops::check_sinusoidal_backward, launched<sinusoid_backward>>());
}

}  // namespace posenc_ext::cuda
