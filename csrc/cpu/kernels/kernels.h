// Every CPU kernel: a table of functions per CPU level. kernels() is that of the level in use.
#pragma once

#include "args/alibi_bias.h"
#include "args/bias_softmax.h"
#include "args/gather_bias.h"
#include "args/relative_bias.h"
#include "cpu/kernels/arguments.h"
#include "cpu/kernels/levels.h"

namespace posenc_ext::cpu {

using namespace args;

// A kernel works on the items [begin, end); its arguments say what an item is.
template <class Args>
using Kernel = void (*)(const Args&, int64_t begin, int64_t end);

// Of the result an item is a query of a head; of the sums it is a block of a head's queries, as is a part of
// BiasBackward::partial, [heads, blocks, rows], which has no use where there is one block.
template <class Scheme>
struct BiasKernels {
  void (*forward)(const Scheme&, const BiasForward&, bool non_temporal, int64_t begin, int64_t end);
  int64_t (*parts)(const Scheme&);  // what queries are grouped into, before blocks are
  void (*backward)(const Scheme&, const BiasBackward&, const Chunks& blocks, int64_t begin, int64_t end);
};

// Of the result an item is a query of a sample of a head, in the order head, sample, query; of the gradients
// it is a block of the tiles of a head's samples, or of PairScheme a query of a head.
template <class Scheme>
struct SoftmaxKernels {
  void (*forward)(const Scheme&, const BiasSoftmax&, int64_t begin, int64_t end);
  int64_t (*tiles)(const Scheme&);  // of a sample
  void (*backward)(const Scheme&, const BiasSoftmaxBackward&, const Chunks& blocks, int64_t begin,
                   int64_t end);
};

struct Kernels {
  Kernel<SinusoidRows> sinusoid_rows;
  void (*sinusoid_steps)(const Frequencies&, int64_t sixteens, SixteenPairs* steps, float* doubt);
  void (*sinusoid_anchors)(const Frequencies&, const AngleSteps&, AnchorPairs*);
  Kernel<SinusoidTable> sinusoid_table;
  Kernel<SinusoidBackward> sinusoid_backward;
  Kernel<AddSinusoidal> add_sinusoidal;
  Kernel<ScaleDropout> scale_dropout;
  Kernel<AddPositionEmbedding> add_position_embedding;
  Kernel<SumBatch> sum_batch;
  Kernel<AddPositions> add_positions;
  Kernel<SumPositions> sum_positions;
  Kernel<BiasReduce> bias_reduce;
  core::SchemeTable<BiasKernels> bias;  // bias[scheme]
  void (*find_out_of_range)(const Index&, int64_t rows, int64_t begin, int64_t end, int64_t* place);
  void (*gather_forward)(const GatherForward&, bool non_temporal, int64_t begin, int64_t end);
  void (*gather_backward)(const GatherBackward&, const Chunks& blocks, int64_t begin, int64_t end);
  void (*alibi_forward)(const core::AlibiScheme&, const BiasForward&, bool non_temporal, int64_t begin,
                        int64_t end);
  void (*alibi_backward)(const core::AlibiScheme&, const BiasBackward&, int64_t begin, int64_t end);
  void (*alibi_reduce)(const core::AlibiScheme&, const BiasBackward&, int64_t begin, int64_t end);
  core::SchemeTable<SoftmaxKernels, SoftmaxSchemes> softmax;  // softmax[scheme]
};

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

const Kernels& kernels();

}  // namespace posenc_ext::cpu
