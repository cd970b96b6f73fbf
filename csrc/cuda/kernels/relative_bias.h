// CUDA kernels of the relative-position biases, for every scheme of core/schemes.h.
#pragma once

#include <cuda_runtime_api.h>

#include "args/relative_bias.h"
#include "cuda/kernels/chunks.h"

namespace posenc_ext::cuda {

using namespace args;

// Chunks of the longest row, of the slots of all samples; others have fewer.
template <class Scheme>
Chunks split_rows(const Scheme& scheme, int64_t batch = 1) {
  return split(batch * core::make_device_scheme(scheme).max_slots());
}

// Each needs at least one element of work. BiasBackward::partial is [rows, heads, chunks] in the
// accumulator's type; it has no use where there is one chunk.
template <class Scheme>
struct BiasKernels {
  void (*forward)(const Scheme&, const BiasForward&, cudaStream_t);
  void (*backward)(const Scheme&, const BiasBackward&, cudaStream_t);
};

extern const core::SchemeTable<BiasKernels> kBiasKernels;  // kBiasKernels[scheme]

}  // namespace posenc_ext::cuda
