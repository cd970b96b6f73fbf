// The position-embedding ops on the CPU: how work is divided, and threads. No work is divided by thread
// count.
#include "ops/position_embedding.h"

#include "cpu/device.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"

namespace posenc_ext::cpu {
namespace {

void add_position_embedding(ops::AddPositionEmbedding& arguments, const at::Tensor& out) {
  AddPositionEmbedding a{ops::fill_args(arguments, out), wants_non_temporal_stores(out), 0, 0, false};
  // An item's rows of pos_embed stay in cache while it, and the next items, walk over the samples. Where the
  // channels of x are not adjacent, its cache lines must stay there instead: it is read in squares of 32
  // tokens.
  constexpr int64_t kItemElements = 16384, kSquare = 32;
  const int64_t rows = core::max_of<int64_t>(1, kItemElements / a.dim);
  a.whole_samples = a.x.channel_stride > a.x.token_stride;
  a.item_tokens = a.whole_samples         ? core::max_of(rows / kSquare * kSquare, kSquare)
                  : arguments.batch_first ? rows
                                          : 1;
  // Four samples share the rows of pos_embed in registers.
  a.item_samples = a.whole_samples ? 1 : arguments.batch_first ? 4 : rows;
  parallel_for(a.items(),
               core::min_of(a.item_tokens, a.length) * core::min_of(a.item_samples, a.batch) * a.dim,
               [&](int64_t begin, int64_t end) { kernels().add_position_embedding(a, begin, end); });
}

void sum_batch(ops::SumBatch& arguments, const at::Tensor& out) {
  const SumBatch a{ops::fill_args(arguments, out)};
  parallel_for(a.items(), core::min_of(a.columns, a.kBlock) * a.batch,
               [&](int64_t begin, int64_t end) { kernels().sum_batch(a, begin, end); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_position_embedding",
         ops::kernel<Cpu, ops::check_add_position_embedding, add_position_embedding>());
  m.impl("add_position_embedding.out",
         ops::out_kernel<Cpu, ops::check_add_position_embedding_out, add_position_embedding>());
  m.impl("_sum_batch", ops::kernel<Cpu, ops::check_sum_batch, sum_batch>());
}

}  // namespace posenc_ext::cpu
