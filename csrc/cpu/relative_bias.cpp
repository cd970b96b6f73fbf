// The relative-position biases on the CPU: from tensors to pointers, and threads. No work is split by thread
// count.
#include "cpu/kernels/kernels.h"

#include <ATen/ops/empty.h>

#include "cpu/blocks.h"
#include "cpu/device.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "ops/bias_args.h"
#include "ops/relative_bias.h"

namespace posenc_ext::cpu {
namespace {

struct Fill {
  template <class Arguments>
  void operator()(Arguments& arguments, const at::Tensor& out) const {
    const auto scheme = arguments.scheme();
    const BiasForward a = ops::bias_forward_args(arguments.table, out);
    const bool non_temporal = wants_non_temporal_stores(out, kBiasShare);
    parallel_ranges(a.heads * scheme.queries(), grain(scheme.keys() * out.element_size()),
                    [&](int64_t begin, int64_t end) {
                      kernels().bias[scheme].forward(scheme, a, non_temporal, begin, end);
                    });
  }
};

struct FillBackward {
  template <class Arguments>
  void operator()(Arguments& arguments, const at::Tensor& out) const {
    const at::Tensor& grad = arguments.grad;
    if (grad.numel() == 0) return void(out.zero_());
    const auto scheme = arguments.scheme();
    const int64_t heads = grad.size(0), rows = scheme.rows();
    const Chunks blocks = split_into_blocks(kernels().bias[scheme].parts(scheme),
                                            scheme.queries() * scheme.keys(), rows, heads);
    at::Tensor partial;
    if (blocks.count > 1) {
      partial =
          at::empty({heads, blocks.count, rows}, grad.options().dtype(ops::sum_type(grad.scalar_type())));
    }
    const BiasBackward a = ops::bias_backward_args(grad, partial, out);
    const int64_t block_bytes = scheme.queries() * scheme.keys() * grad.element_size() / blocks.count;
    parallel_ranges(heads * blocks.count, grain(block_bytes), [&](int64_t begin, int64_t end) {
      kernels().bias[scheme].backward(scheme, a, blocks, begin, end);
    });
    if (blocks.count == 1) return;
    const BiasReduce reduce{a.dtype, rows, heads, blocks.count, a.partial, a.out, heads, 1};
    parallel_for(heads, blocks.count * rows,
                 [&](int64_t begin, int64_t end) { kernels().bias_reduce(reduce, begin, end); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  ops::register_bias_ops<ops::BiasOn<Cpu, Fill{}, FillBackward{}>::Kernels>(m);
}

}  // namespace posenc_ext::cpu
