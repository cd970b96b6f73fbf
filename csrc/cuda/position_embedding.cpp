// The position-embedding ops on CUDA.
#include "ops/position_embedding.h"

#include "cuda/device.h"
#include "cuda/kernels/position_embedding.h"

namespace posenc_ext::cuda {

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("_add_position_embedding",
         ops::kernel<Cuda, ops::check_add_position_embedding, launched<add_position_embedding>>());
  m.impl("add_position_embedding.out",
         ops::out_kernel<Cuda, ops::check_add_position_embedding_out, launched<add_position_embedding>>());
  m.impl("_sum_batch", ops::kernel<Cuda, ops::check_sum_batch, launched<sum_batch>>());
}

}  // namespace posenc_ext::cuda
