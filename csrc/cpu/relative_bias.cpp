// The relative-position biases on the CPU: from tensors to pointers, and threads. No work is cut by thread
// count.
#include "cpu/kernels/relative_bias.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/parallel.h"
#include "ops/relative_bias.h"

namespace posenc_ext::cpu {
namespace {

template <class Op, class Signature>
struct Bias;

template <class Op, class... Args>
struct Bias<Op, ops::BiasShape (*)(const c10::SymInt&, Args...)> {
  static at::Tensor forward(const at::Tensor& table, Args... args) {
    ops::check_bias<Op>(table, args...);
    const typename Op::Scheme scheme = Op::scheme(table.size(0), args...);
    const int64_t heads = table.size(1), queries = scheme.queries(), keys = scheme.keys(),
                  rows = scheme.rows();
    at::Tensor out = at::empty({heads, queries, keys}, table.options());
    if (out.numel() == 0) return out;
    at::Tensor reversed = at::empty({heads, rows}, table.options());
    const ReverseTable reverse{table.element_size(),   rows,
                               table.const_data_ptr(), table.stride(0),
                               table.stride(1),        reversed.mutable_data_ptr()};
    parallel_for(heads, rows,
                 [&](int64_t begin, int64_t end) { POSENC_AT_LEVEL(reverse_table, reverse, begin, end); });
    const BiasForward arguments{table.element_size(), reversed.const_data_ptr(), out.mutable_data_ptr()};
    parallel_for(heads * queries, keys, [&](int64_t begin, int64_t end) {
      POSENC_AT_LEVEL(bias_forward, scheme, arguments, begin, end);
    });
    return out;
  }

  static at::Tensor backward(const at::Tensor& grad, c10::SymInt num_rows, Args... args) {
    ops::check_bias_backward<Op>(grad, num_rows, args...);
    const typename Op::Scheme scheme = Op::scheme(num_rows.expect_int(), args...);
    const int64_t heads = grad.size(0), queries = scheme.queries(), keys = scheme.keys(),
                  rows = scheme.rows();
    at::Tensor out = at::empty({rows, heads}, grad.options());
    if (grad.numel() == 0) return out.zero_();
    const core::DType dtype = ops::to_core(grad.scalar_type());
    const int64_t block_size = BiasBackward::queries_per_block(keys);
    const int64_t blocks = (queries + block_size - 1) / block_size;
    const at::ScalarType sum_type = dtype == core::DType::float64 ? at::kDouble : at::kFloat;
    at::Tensor partial = at::empty({heads, blocks, rows}, grad.options().dtype(sum_type));
    const BiasBackward arguments{
        dtype,  grad.const_data_ptr(),     grad.stride(0), grad.stride(1), grad.stride(2),
        blocks, partial.mutable_data_ptr()};
    parallel_for(heads * blocks, core::min_of(queries, block_size) * keys, [&](int64_t begin, int64_t end) {
      POSENC_AT_LEVEL(bias_backward, scheme, arguments, begin, end);
    });
    const BiasReduce reduce{dtype, rows, heads, blocks, partial.const_data_ptr(), out.mutable_data_ptr()};
    parallel_for(heads, blocks * rows,
                 [&](int64_t begin, int64_t end) { POSENC_AT_LEVEL(bias_reduce, reduce, begin, end); });
    return out;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) { ops::register_bias_ops<Bias>(m); }

}  // namespace posenc_ext::cpu
