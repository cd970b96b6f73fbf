// Every CPU kernel: a table of functions per CPU level. kernels() is that of the level in use.
#pragma once

#include "args/alibi_bias.h"
#include "args/gather_bias.h"
#include "args/relative_bias.h"
#include "cpu/kernels/arguments.h"
#include "cpu/kernels/levels.h"

namespace posenc_ext::cpu {

using namespace args;

// A kernel works on the items [begin, end); its arguments say what an item is.
template <class Args>
using Kernel = void (*)(const Args&, int64_t begin, int64_t end);

template <class Scheme>
struct BiasKernels {
  void (*forward)(const Scheme&, const BiasForward&, void* scratch, int64_t begin, int64_t end);
  void (*backward)(const Scheme&, const BiasBackward&, void* scratch, int64_t begin, int64_t end);
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
  Kernel<ReverseTable> reverse_table;
  Kernel<BiasReduce> bias_reduce;
  BiasKernels<core::WindowScheme> window_bias;
  BiasKernels<core::T5Scheme> t5_bias;
  // The first place, counted through the lines, whose value is not in [0, rows), or -1.
  void (*find_out_of_range)(const LinesOfIndex&, int64_t rows, int64_t begin, int64_t end, int64_t* place);
  Kernel<GatherForward> gather_forward;
  Kernel<GatherBackward> gather_backward;
  Kernel<AlibiForward> alibi_forward;
  Kernel<AlibiBackward> alibi_backward;
  Kernel<AlibiReduce> alibi_reduce;

  const BiasKernels<core::WindowScheme>& bias(const core::WindowScheme&) const { return window_bias; }
  const BiasKernels<core::T5Scheme>& bias(const core::T5Scheme&) const { return t5_bias; }
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
