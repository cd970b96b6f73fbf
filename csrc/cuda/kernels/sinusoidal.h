// CUDA kernels of the sinusoids: device pointers and a stream.
#pragma once

#include <cuda_runtime_api.h>

#include "args/add_sinusoidal.h"
#include "args/dropout.h"
#include "args/sinusoidal.h"

namespace posenc_ext::cuda {

using namespace args;

// Each needs at least one element of work.
void sinusoid_rows(const SinusoidRows&, cudaStream_t);
void sinusoid_backward(const SinusoidBackward&, cudaStream_t);
void add_sinusoidal(const AddSinusoidal&, cudaStream_t);
void scale_dropout(const ScaleDropout&, cudaStream_t);

}  // namespace posenc_ext::cuda
