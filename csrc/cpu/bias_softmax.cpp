// softmax(scores * scale + bias + mask) on the CPU: from tensors to pointers, and threads. No work is split
// by thread count.
#include "ops/bias_softmax.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "cpu/blocks.h"
#include "cpu/device.h"
#include "cpu/gather_bias.h"
#include "cpu/kernels/kernels.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "ops/bias_args.h"

namespace posenc_ext::cpu {
namespace {

struct FillSoftmax {
  template <class Op, class... Args>
  void operator()(ops::BiasSoftmax<Op, Args...>& arguments, const at::Tensor& out) const {
    const auto scheme = arguments.scheme();
    if constexpr (std::is_same_v<typename Op::Scheme, IndexScheme>) {
      check_range(arguments.op, std::get<0>(arguments.rest), scheme.rows());
    }
    std::vector<at::Tensor> storage;
    BiasSoftmax a = ops::softmax_args(out.sizes(), out.scalar_type(), arguments.table, Op::kHeadsFirst,
                                      arguments.softmax, storage);
    const at::Tensor scores = arguments.scores.contiguous();
    a.scores = scores.const_data_ptr();
    a.out = out.mutable_data_ptr();
    parallel_for(
        a.bias.heads * a.batch * scheme.queries(), 2 * scheme.keys(),
        [&](int64_t begin, int64_t end) { kernels().softmax[scheme].forward(scheme, a, begin, end); });
  }
};

struct FillSoftmaxBackward {
  template <class Op, class... Args>
  void operator()(ops::BiasSoftmaxBackward<Op, Args...>& arguments, const at::Tensor& grad_scores,
                  const at::Tensor& grad_table) const {
    if (grad_scores.numel() == 0) return void(grad_table.zero_());
    const auto scheme = arguments.scheme();
    if constexpr (std::is_same_v<typename Op::Scheme, IndexScheme>) {
      check_range(arguments.op, std::get<0>(arguments.rest), scheme.rows());
    }
    constexpr bool kPairs = std::is_same_v<typename Op::Scheme, PairScheme>;
    const at::Tensor& grad = arguments.grad;
    int64_t heads = grad.size(-3);
    const int64_t rows = scheme.rows(), plane = scheme.queries() * scheme.keys();
    const int64_t batch = grad.numel() / (heads * plane);
    const Chunks blocks = kPairs ? Chunks{1, scheme.queries()}
                                 : split_into_blocks(batch * kernels().softmax[scheme].tiles(scheme),
                                                     batch * plane, rows, heads);
    at::Tensor partial;
    if (blocks.count > 1 && !kPairs) {
      partial = at::empty({heads, blocks.count, rows}, grad_table.options());
    }
    std::vector<at::Tensor> storage;
    BiasSoftmaxBackward a = ops::softmax_backward_args(
        grad, arguments.result, Op::kHeadsFirst, arguments.scale, grad_scores, partial, grad_table, storage);
    a.non_temporal = wants_non_temporal_stores(grad_scores);
    if (a.grad_table == nullptr) {  // in the order of memory
      a.heads *= std::exchange(a.batch, 1);
      heads = a.heads;
    }
    parallel_for(heads * blocks.count, a.batch * plane / blocks.count, [&](int64_t begin, int64_t end) {
      kernels().softmax[scheme].backward(scheme, a, blocks, begin, end);
    });
    if (!partial.defined()) return;
    const BiasReduce reduce{ops::to_core(grad_table.scalar_type()),
                            rows,
                            heads,
                            blocks.count,
                            a.partial,
                            a.grad_table,
                            a.row_stride,
                            a.head_stride};
    parallel_for(heads, blocks.count * rows,
                 [&](int64_t begin, int64_t end) { kernels().bias_reduce(reduce, begin, end); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  ops::register_bias_softmax_ops<ops::BiasSoftmaxOn<Cpu, FillSoftmax{}, FillSoftmaxBackward{}>::Kernels>(m);
}

}  // namespace posenc_ext::cpu
