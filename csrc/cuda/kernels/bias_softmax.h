// CUDA kernels of softmax(scores * scale + bias + mask), for every scheme of args/bias_softmax.h.
#pragma once

#include <cuda_runtime_api.h>

#include "args/bias_softmax.h"
#include "cuda/kernels/gather_bias.h"
#include "cuda/kernels/relative_bias.h"

namespace posenc_ext::cuda {

// Where the sums of a table's gradient are cut. BiasSoftmaxBackward::partial has rows x heads sums of each
// chunk, in the accumulator's type; it has no use where there is one chunk, except of an index.
template <class Scheme>
Chunks split_table(const Scheme& scheme, int64_t batch) {
  return split_rows(scheme, batch);
}
inline Chunks split_table(const IndexScheme& scheme, int64_t batch) {
  return split_index(batch * scheme.queries() * scheme.keys(), scheme.rows());
}
// Of samples, which a thread adds.
inline Chunks split_table(const PairScheme&, int64_t batch) { return split(batch, /*min_size=*/64); }

// Each needs at least one element of work and one row. Rows of scores have fewer than 2^31 keys; what windows
// divide fits 32 bits (DeviceWindow::fits, of the gradients slots_fit); an index has fewer than 2^31 places
// in all samples, and a value outside [0, rows) is a failed assertion on the device. The gradients need
// `dots`.
template <class Scheme>
struct SoftmaxKernels {
  void (*forward)(const Scheme&, const BiasSoftmax&, cudaStream_t);
  void (*backward)(const Scheme&, const BiasSoftmaxBackward&, cudaStream_t);
};

extern const core::SchemeTable<SoftmaxKernels, SoftmaxSchemes> kSoftmaxKernels;  // kSoftmaxKernels[scheme]

}  // namespace posenc_ext::cuda
