// The bias of any index on the CPU: from tensors to pointers, and threads. No work is cut by thread count.
#include "cpu/kernels/kernels.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>

#include "cpu/parallel.h"
#include "cpu/memory.h"
#include "ops/gather_bias.h"

namespace posenc_ext::cpu {
namespace {

LinesOfIndex lines_of(const at::Tensor& index) {
  return {index.const_data_ptr(),
          index.scalar_type() == at::kLong,
          ops::to_strided(index, index.dim() - 1),
          index.stride(-1),
          index.size(-2),
          index.size(-1)};
}

// An error that names the first value outside the table.
void check_range(const char* op, const at::Tensor& index, const LinesOfIndex& lines, int64_t rows) {
  if (index.numel() == 0) return;
  std::atomic<int64_t> first{index.numel()};
  parallel_for(index.numel() / lines.keys, lines.keys, [&](int64_t begin, int64_t end) {
    int64_t place = -1;
    kernels().find_out_of_range(lines, rows, begin, end, &place);
    int64_t known = first;
    while (place >= 0 && place < known && !first.compare_exchange_weak(known, place)) {
    }
  });
  int64_t place = first;
  if (place == index.numel()) return;
  c10::DimVector at(index.dim());
  int64_t offset = 0;
  for (int64_t d = index.dim() - 1; d >= 0; --d) {
    at[d] = place % index.size(d);
    place /= index.size(d);
    offset += at[d] * index.stride(d);
  }
  const int64_t value =
      lines.wide ? index.const_data_ptr<int64_t>()[offset] : index.const_data_ptr<int32_t>()[offset];
  POSENC_CHECK(false, op, "index must be in [0, ", rows, "), got ", value, " at ", at::IntArrayRef(at));
}

// `out` is contiguous and has the result's shape.
void gather(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  const at::Tensor few = ops::with_few_dims(index, index.dim() - 1);
  const LinesOfIndex lines = lines_of(few);
  const int64_t rows = table.size(0), heads = table.size(1);
  check_range("gather_bias", few, lines, rows);
  if (out.numel() == 0) return;
  at::Tensor reversed = at::empty({heads, rows}, table.options());
  const ReverseTable reverse{table.element_size(),   rows,
                             table.const_data_ptr(), table.stride(0),
                             table.stride(1),        reversed.mutable_data_ptr()};
  parallel_for(heads, rows,
               [&](int64_t begin, int64_t end) { kernels().reverse_table(reverse, begin, end); });
  const GatherForward a{lines, table.element_size(),   reversed.const_data_ptr(), rows,
                        heads, out.mutable_data_ptr(), writes_past_caches(out, 4)};
  parallel_for(index.numel() / lines.keys, lines.keys * heads,
               [&](int64_t begin, int64_t end) { kernels().gather_forward(a, begin, end); });
}

at::Tensor gather_bias_cpu(const at::Tensor& table, const at::Tensor& index) {
  ops::check_gather_bias(table, index);
  c10::DimVector sizes(index.sizes().begin(), index.sizes().end());
  sizes.insert(sizes.end() - 2, table.size(1));
  at::Tensor out = new_result(sizes, table.scalar_type());
  gather(table, index, out);
  return out;
}

at::Tensor& gather_bias_out_cpu(const at::Tensor& table, const at::Tensor& index, at::Tensor& out) {
  ops::check_gather_bias_out(table, index, out);
  return ops::write_contiguous(out, [&](at::Tensor& o) { gather(table, index, o); }, table, index);
}

// Blocks of at least this many pairs, and of a few times a table's rows: sums of blocks are kept and added.
constexpr int64_t kMinBlockPairs = 32768;
constexpr int64_t kMaxBlocks = 64;

at::Tensor gather_bias_backward_cpu(const at::Tensor& grad, const at::Tensor& index, c10::SymInt num_rows) {
  ops::check_gather_bias_backward(grad, index, num_rows);
  const int64_t rows = num_rows.expect_int(), batch_dims = index.dim() - 2, heads = grad.size(batch_dims);
  const at::Tensor few_index = ops::with_few_dims(index, index.dim() - 1);
  const LinesOfIndex lines = lines_of(few_index);
  check_range("_gather_bias_backward", few_index, lines, rows);
  at::Tensor out = at::empty({rows, heads}, grad.options());
  if (grad.numel() == 0) return out.zero_();
  const at::Tensor few_grad = ops::with_few_dims(grad, batch_dims);
  const core::DType dtype = ops::to_core(grad.scalar_type());
  const int64_t pairs = index.numel(), line_count = pairs / lines.keys;
  const int64_t block_pairs =
      core::max_of(core::max_of(kMinBlockPairs, 8 * rows), (pairs + kMaxBlocks - 1) / kMaxBlocks);
  const int64_t lines_per_block = (block_pairs + lines.keys - 1) / lines.keys;
  const int64_t blocks = (line_count + lines_per_block - 1) / lines_per_block;
  const at::ScalarType sum_type = dtype == core::DType::float64 ? at::kDouble : at::kFloat;
  at::Tensor partial = at::empty({heads, blocks, rows}, grad.options().dtype(sum_type));
  const GatherBackward a{lines,
                         line_count,
                         lines_per_block,
                         blocks,
                         rows,
                         dtype,
                         few_grad.const_data_ptr(),
                         ops::to_strided(few_grad, batch_dims),
                         few_grad.stride(batch_dims),
                         few_grad.stride(batch_dims + 1),
                         few_grad.stride(batch_dims + 2),
                         partial.mutable_data_ptr()};
  parallel_for(heads * blocks, core::min_of(block_pairs, pairs),
               [&](int64_t begin, int64_t end) { kernels().gather_backward(a, begin, end); });
  const BiasReduce reduce{dtype, rows, heads, blocks, partial.const_data_ptr(), out.mutable_data_ptr()};
  parallel_for(heads, blocks * rows,
               [&](int64_t begin, int64_t end) { kernels().bias_reduce(reduce, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("gather_bias", TORCH_FN(gather_bias_cpu));
  m.impl("gather_bias.out", TORCH_FN(gather_bias_out_cpu));
  m.impl("_gather_bias_backward", TORCH_FN(gather_bias_backward_cpu));
}

}  // namespace posenc_ext::cpu
