// CUDA kernels of ALiBi.
#pragma once

#include <cuda_runtime_api.h>

#include "args/alibi_bias.h"
#include "cuda/kernels/chunks.h"

namespace posenc_ext::cuda {

using namespace args;

// Each needs at least one element of work. BiasBackward::partial is [heads, chunks] of doubles, chunks =
// split(queries * keys).count; it has no use where that is 1.
void alibi_forward(const core::AlibiScheme&, const BiasForward&, cudaStream_t);
void alibi_backward(const core::AlibiScheme&, const BiasBackward&, cudaStream_t);
void alibi_slopes(const AlibiSlopes&, cudaStream_t);

}  // namespace posenc_ext::cuda
