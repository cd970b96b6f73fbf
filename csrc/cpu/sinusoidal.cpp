// The sinusoid ops on the CPU: cached tables, and threads. No work is divided by thread count.
#include "ops/sinusoidal.h"

#include <cmath>

#include "cpu/device.h"
#include "cpu/frequencies.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"

namespace posenc_ext::cpu {
namespace {

// An argument struct of CPU and CUDA, with the frequencies that the table has cached.
template <class Arguments>
auto fill_args(Arguments& arguments, const FrequencyTable& table, const at::Tensor& out) {
  const core::EncodingSpec& encoding = arguments.encoding;
  const Frequencies frequencies = table.with(encoding.layout, encoding.odd);
  return std::pair(ops::fill_args(arguments, frequencies.spec, out), frequencies);
}

std::shared_ptr<const AngleTable> table_of(const core::EncodingSpec& e) {
  return angle_table(e.dim, e.base, e.freq_shift, e.scale);
}

template <class Arguments>
void write_rows(Arguments& arguments, const AngleTable& table, const at::Tensor& out) {
  const auto [args, frequencies] = fill_args(arguments, *table.frequencies, out);
  const SinusoidRows a{args, frequencies, args.order == 0 ? table.angles() : AngleSteps{},
                       wants_non_temporal_stores(out)};
  parallel_for(a.count, a.spec.dim,
               [&](int64_t begin, int64_t end) { kernels().sinusoid_rows(a, begin, end); });
}

// Whether rows [start, start + length) can be made by angle addition: positions and angles stay exact.
bool adds_angles(const AngleTable& table, int64_t start, int64_t length, at::ScalarType dtype) {
  constexpr int64_t kMost = SinusoidTable::kMaxPosition;
  if (dtype == at::kDouble || length < SinusoidTable::kMinLength) return false;
  if (start < -kMost || start > kMost || length > kMost) return false;
  return table.reaches(core::max_of(std::abs(static_cast<double>(start)),
                                    std::abs(static_cast<double>(start) + static_cast<double>(length))));
}

void write_table(ops::SinusoidalTable& arguments, const at::Tensor& out) {
  prepare_result(out);  // sinusoidal_table allocated it
  const auto table = table_of(arguments.encoding);
  const int64_t start = arguments.start.expect_int(), length = out.size(0);
  if (!adds_angles(*table, start, length, out.scalar_type())) return write_rows(arguments, *table, out);
  const SinusoidTable a{table->frequencies->with(arguments.encoding.layout, arguments.encoding.odd),
                        table->angles(),
                        start,
                        length,
                        ops::to_core(out.scalar_type()),
                        out.mutable_data_ptr(),
                        out.stride(0),
                        wants_non_temporal_stores(out)};
  parallel_for(a.blocks(), AngleSteps::kBlock * out.size(1),
               [&](int64_t begin, int64_t end) { kernels().sinusoid_table(a, begin, end); });
}

void write_sinusoidal(ops::Sinusoidal& arguments, const at::Tensor& out) {
  write_rows(arguments, *table_of(arguments.encoding), out);
}

void write_sinusoidal_backward(ops::SinusoidalBackward& arguments, const at::Tensor& out) {
  const auto& [dim, base, freq_shift, scale, layout, odd] = arguments.encoding;
  const auto table = frequency_table(dim, base, freq_shift, scale);
  const auto [args, frequencies] = fill_args(arguments, *table, out);
  const SinusoidBackward a{args, frequencies};
  parallel_for(a.count, dim, [&](int64_t begin, int64_t end) { kernels().sinusoid_backward(a, begin, end); });
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("sinusoidal_table.out", ops::out_kernel<Cpu, ops::check_sinusoidal_table, write_table>());
  m.impl("sinusoidal.out", ops::out_kernel<Cpu, ops::check_sinusoidal_out, write_sinusoidal>());
  m.impl("_sinusoidal", ops::kernel<Cpu, ops::check_sinusoidal, write_sinusoidal>());
  m.impl("_sinusoidal_backward",
         ops::kernel<Cpu, ops::check_sinusoidal_backward, write_sinusoidal_backward>());
}

}  // namespace posenc_ext::cpu
