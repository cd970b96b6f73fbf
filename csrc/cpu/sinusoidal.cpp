// The sinusoid ops on the CPU: from tensors to pointers, and threads. No work is cut by thread count.
#include <ATen/EmptyTensor.h>
#include <torch/library.h>

#include <cmath>

#include "cpu/frequencies.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"
#include "cpu/positions.h"
#include "cpu/memory.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cpu {
namespace {

// Of the last cache: pieces of rows, and rows in turn, gain from passing it sooner than whole results.
constexpr size_t kShare = 8;

// Rows of these positions, or of their derivatives, into `out`, whose channels stand side by side.
void rows_into(const AngleTable& table, const ops::Encoding& rule, const Positions& positions, int64_t count,
               int64_t order, const at::Tensor& out, int64_t row_stride) {
  const SinusoidRows rows{table.frequencies->with(rule.layout, rule.odd),
                          positions,
                          static_cast<int32_t>(order),
                          ops::to_core(out.scalar_type()),
                          out.mutable_data_ptr(),
                          row_stride,
                          order == 0 ? table.angles() : AngleSteps{},
                          writes_past_caches(out, kShare)};
  parallel_for(count, rows.frequencies.spec.dim,
               [&](int64_t begin, int64_t end) { kernels().sinusoid_rows(rows, begin, end); });
}

// Whether rows [start, start + length) can be made by angle addition: positions and angles stay exact.
bool adds_angles(const AngleTable& table, int64_t start, int64_t length, at::ScalarType dtype) {
  constexpr int64_t kMost = SinusoidTable::kMaxPosition;
  if (dtype == at::kDouble || length < SinusoidTable::kMinLength) return false;
  if (start < -kMost || start > kMost || length > kMost) return false;
  return table.reaches(core::max_of(std::abs(static_cast<double>(start)),
                                    std::abs(static_cast<double>(start) + static_cast<double>(length))));
}

void table_into(const AngleTable& table, const ops::Encoding& rule, int64_t start, const at::Tensor& out) {
  const int64_t length = out.size(0), dim = out.size(1);
  if (!adds_angles(table, start, length, out.scalar_type())) {
    const Positions positions{nullptr, core::PositionType::i64, {}, start};
    return rows_into(table, rule, positions, length, /*order=*/0, out, out.stride(0));
  }
  const SinusoidTable a{table.frequencies->with(rule.layout, rule.odd),
                        table.angles(),
                        start,
                        length,
                        ops::to_core(out.scalar_type()),
                        out.mutable_data_ptr(),
                        out.stride(0),
                        writes_past_caches(out, kShare)};
  parallel_for(a.blocks(), AngleSteps::kBlock * dim,
               [&](int64_t begin, int64_t end) { kernels().sinusoid_table(a, begin, end); });
}

at::Tensor& sinusoidal_table_out_cpu(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                     double freq_shift, double scale, std::string_view layout,
                                     std::string_view odd, at::Tensor& out) {
  const auto rule = ops::check_sinusoidal_table(length, dim, start, base, freq_shift, scale, layout, odd,
                                                out.scalar_type());
  ops::resize_table(length, dim, out);
  if (out.numel() == 0) return out;
  prepare_result(out);  // that of sinusoidal_table, too
  const auto table = angle_table(out.size(1), base, freq_shift, scale);
  const bool side_by_side = out.stride(1) == 1;  // of the channels
  const at::Tensor to = side_by_side ? out : new_result(out.sizes(), out.scalar_type());
  table_into(*table, rule, start.expect_int(), to);
  if (!side_by_side) out.copy_(to);
  return out;
}

at::Tensor sinusoidal_cpu(const at::Tensor& positions, c10::SymInt sym_dim, double base, double freq_shift,
                          double scale, std::string_view layout, std::string_view odd, int64_t order,
                          std::optional<at::ScalarType> dtype) {
  const at::ScalarType type = ops::sinusoidal_dtype(positions, dtype);
  const auto rule =
      ops::check_sinusoidal(positions, sym_dim, base, freq_shift, scale, layout, odd, order, type);
  check_exact("sinusoidal", positions);
  const int64_t dim = sym_dim.expect_int();
  c10::DimVector sizes(positions.sizes().begin(), positions.sizes().end());
  sizes.push_back(dim);
  at::Tensor out = new_result(sizes, type);
  if (out.numel() == 0) return out;
  const at::Tensor few = ops::with_few_dims(positions, positions.dim());
  rows_into(*angle_table(dim, base, freq_shift, scale), rule, positions_of(few), positions.numel(), order,
            out, dim);
  return out;
}

at::Tensor& sinusoidal_out_cpu(const at::Tensor& positions, c10::SymInt sym_dim, double base,
                               double freq_shift, double scale, std::string_view layout, std::string_view odd,
                               at::Tensor& out) {
  const auto rule = ops::check_sinusoidal_out(positions, sym_dim, base, freq_shift, scale, layout, odd, out);
  check_exact("sinusoidal", positions);
  if (out.numel() == 0) return out;
  const int64_t dim = sym_dim.expect_int();
  const bool rows =
      out.dim() == 2 && out.stride(1) == 1;  // channels side by side, whatever stands between rows
  const bool direct = (rows || out.is_contiguous()) && !out.is_alias_of(positions);
  const at::Tensor to = direct ? out : new_result(out.sizes(), out.scalar_type());
  const at::Tensor few = ops::with_few_dims(positions, positions.dim());
  rows_into(*angle_table(dim, base, freq_shift, scale), rule, positions_of(few), positions.numel(),
            /*order=*/0, to, direct && rows ? out.stride(0) : dim);
  if (!direct) out.copy_(to);
  return out;
}

at::Tensor sinusoidal_backward_cpu(const at::Tensor& grad, const at::Tensor& positions, double base,
                                   double freq_shift, double scale, std::string_view layout,
                                   std::string_view odd, int64_t order) {
  const auto rule =
      ops::check_sinusoidal_backward(grad, positions, base, freq_shift, scale, layout, odd, order);
  at::Tensor out = new_result(positions.sizes(), positions.scalar_type());
  if (out.numel() == 0) return out;
  const int64_t dims = positions.dim();
  const at::Tensor few_positions = ops::with_few_dims(positions, dims);
  const at::Tensor few_grad = ops::with_few_dims(grad, dims);
  const int64_t dim = grad.size(dims);
  const auto table = frequency_table(dim, base, freq_shift, scale);
  const SinusoidBackward arguments{table->with(rule.layout, rule.odd),
                                   positions_of(few_positions),
                                   static_cast<int32_t>(order),
                                   ops::to_core(grad.scalar_type()),
                                   few_grad.const_data_ptr(),
                                   ops::to_strided(few_grad, dims),
                                   few_grad.stride(dims),
                                   ops::to_core(positions.scalar_type()),
                                   out.mutable_data_ptr()};
  parallel_for(positions.numel(), dim,
               [&](int64_t begin, int64_t end) { kernels().sinusoid_backward(arguments, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("sinusoidal_table.out", TORCH_FN(sinusoidal_table_out_cpu));
  m.impl("sinusoidal.out", TORCH_FN(sinusoidal_out_cpu));
  m.impl("_sinusoidal", TORCH_FN(sinusoidal_cpu));
  m.impl("_sinusoidal_backward", TORCH_FN(sinusoidal_backward_cpu));
}

}  // namespace posenc_ext::cpu
