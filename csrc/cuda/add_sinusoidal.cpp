// Adding sinusoids on CUDA.
#include "ops/add_sinusoidal.h"

#include "cuda/device.h"
#include "cuda/kernels/sinusoidal.h"

namespace posenc_ext::cuda {

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_add_sinusoidal", ops::kernel<Cuda, ops::check_add_sinusoidal, launched<add_sinusoidal>>());
  m.impl("add_sinusoidal.out",
         ops::out_kernel<Cuda, ops::check_add_sinusoidal_out, launched<add_sinusoidal>>());
  m.impl("add_sinusoidal.offsets_out",
         ops::out_kernel<Cuda, ops::check_add_sinusoidal_offsets_out, launched<add_sinusoidal>>());
  m.impl("add_sinusoidal.positions_out",
         ops::out_kernel<Cuda, ops::check_add_sinusoidal_positions_out, launched<add_sinusoidal>>());
}

}  // namespace posenc_ext::cuda
