// The op that scales and drops, on CUDA.
#include "ops/dropout.h"

#include "cuda/device.h"
#include "cuda/kernels/sinusoidal.h"

namespace posenc_ext::cuda {

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_scale_dropout", ops::kernel<Cuda, ops::check_scale_dropout, launched<scale_dropout>>());
}

}  // namespace posenc_ext::cuda
