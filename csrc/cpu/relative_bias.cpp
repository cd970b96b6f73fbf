// The relative-position biases on the CPU: from tensors to pointers, and threads. No work is cut by thread
// count.
#include "cpu/kernels/kernels.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>

#include "cpu/parallel.h"
#include "cpu/memory.h"
#include "ops/relative_bias.h"

namespace posenc_ext::cpu {
namespace {

// A thread's own memory during a call; small calls allocate nothing.
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : large_(bytes > kSmall ? new char[static_cast<size_t>(bytes)] : nullptr),
        data_(large_ ? large_.get() : small_) {}
  void* data() { return data_; }

 private:
  static constexpr int64_t kSmall = 32768;
  alignas(64) char small_[kSmall];
  std::unique_ptr<char[]> large_;
  char* data_;
};

// Blocks of at least as many elements as this, and of many times a table's rows, whose sums each block makes
// anew; and no more of them than keep many cores busy.
constexpr int64_t kMinBlockElements = 65536;
constexpr int64_t kMinBlockRows = 32;
constexpr int64_t kEnoughBlocks = 64;

template <class Scheme>
int64_t parts_per_block(const Scheme& scheme, int64_t heads) {
  const int64_t elements = scheme.queries() * scheme.keys(), parts = BiasBackward::parts(scheme);
  const int64_t least = core::max_of(kMinBlockElements, kMinBlockRows * scheme.rows());
  const int64_t blocks = core::min_of(elements / least, (kEnoughBlocks + heads - 1) / heads);
  return blocks <= 1 ? parts : (parts + blocks - 1) / blocks;
}

template <class Op, class Signature>
struct Bias;

template <class Op, class... Args>
struct Bias<Op, ops::BiasShape (*)(const c10::SymInt&, Args...)> {
  static at::Tensor forward(const at::Tensor& table, Args... args) {
    const ops::BiasShape shape = ops::check_bias<Op>(table, args...);
    at::Tensor out =
        new_result({table.size(1), shape.queries.expect_int(), shape.keys.expect_int()}, table.scalar_type());
    write(table, Op::scheme(table.size(0), args...), out);
    return out;
  }

  static at::Tensor& forward_out(const at::Tensor& table, Args... args, at::Tensor& out) {
    ops::check_bias_out<Op>(table, out, args...);
    return ops::write_contiguous(
        out, [&](at::Tensor& o) { write(table, Op::scheme(table.size(0), args...), o); }, table);
  }

  static at::Tensor backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
    ops::check_bias_backward<Op>(grad, num_rows, args...);
    const typename Op::Scheme scheme = Op::scheme(num_rows.expect_int(), args...);
    const int64_t heads = grad.size(0), rows = scheme.rows();
    at::Tensor out = new_result({rows, heads}, grad.scalar_type());
    if (grad.numel() == 0) return out.zero_();
    const core::DType dtype = ops::to_core(grad.scalar_type());
    const at::ScalarType sum_type = dtype == core::DType::float64 ? at::kDouble : at::kFloat;
    const int64_t block_parts = parts_per_block(scheme, heads);
    const int64_t blocks = (BiasBackward::parts(scheme) + block_parts - 1) / block_parts;
    at::Tensor partial;
    if (blocks > 1) partial = at::empty({heads, blocks, rows}, grad.options().dtype(sum_type));
    const BiasBackward a{dtype,
                         grad.const_data_ptr(),
                         grad.stride(0),
                         grad.stride(1),
                         grad.stride(2),
                         heads,
                         block_parts,
                         blocks,
                         blocks > 1 ? partial.mutable_data_ptr() : nullptr,
                         out.mutable_data_ptr()};
    const int64_t block_bytes = scheme.queries() * scheme.keys() * grad.element_size() / blocks;
    parallel_ranges(heads * blocks, grain(block_bytes), [&](int64_t begin, int64_t end) {
      Scratch scratch(a.scratch_bytes(scheme, static_cast<int64_t>(c10::elementSize(sum_type))));
      kernels().bias(scheme).backward(scheme, a, scratch.data(), begin, end);
    });
    if (blocks == 1) return out;
    const BiasReduce reduce{dtype, rows, heads, blocks, partial.const_data_ptr(), out.mutable_data_ptr()};
    parallel_for(heads, blocks * rows,
                 [&](int64_t begin, int64_t end) { kernels().bias_reduce(reduce, begin, end); });
    return out;
  }

 private:
  static void write(const at::Tensor& table, const typename Op::Scheme& scheme, at::Tensor& out) {
    if (out.numel() == 0) return;
    const BiasForward a{table.element_size(), table.const_data_ptr(),  table.stride(0),
                        table.stride(1),      writes_past_caches(out), out.mutable_data_ptr()};
    parallel_ranges(table.size(1) * scheme.queries(), grain(scheme.keys() * a.element_size),
                    [&](int64_t begin, int64_t end) {
                      Scratch scratch(a.scratch_bytes(scheme));
                      kernels().bias(scheme).forward(scheme, a, scratch.data(), begin, end);
                    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) { ops::register_bias_ops<Bias>(m); }

}  // namespace posenc_ext::cpu
