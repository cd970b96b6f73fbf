// Adding sinusoids on the CPU: cached encodings, and threads. No work is divided by thread count.
#include "ops/add_sinusoidal.h"

#include "cpu/device.h"
#include "cpu/encodings.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"
#include "cpu/positions.h"

namespace posenc_ext::cpu {
namespace {

void add_sinusoidal(ops::AddSinusoidal& arguments, const at::Tensor& out) {
  const auto& [dim, base, freq_shift, scale, layout, odd] = arguments.encoding;
  const auto cached = cached_encodings(dim, base, freq_shift, layout, odd);
  const AddSinusoidal a{
      ops::fill_args(arguments, cached->frequencies.spec, out), cached->frequencies,
      cached->rows.const_data_ptr<double>(), cached->positions,
      out.const_data_ptr() != arguments.x.const_data_ptr() && wants_non_temporal_stores(out)};
  parallel_for(a.items(), a.item_elements(),
               [&](int64_t begin, int64_t end) { kernels().add_sinusoidal(a, begin, end); });
}

}  // namespace

void Cpu::check_values(const ops::AddSinusoidal& arguments) {
  if (!arguments.offsets.has_value()) return;
  check_exact("add_sinusoidal", *arguments.offsets, arguments.x.size(arguments.length_axis()));
}

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_sinusoidal", ops::kernel<Cpu, ops::check_add_sinusoidal, add_sinusoidal>());
  m.impl("add_sinusoidal.out", ops::out_kernel<Cpu, ops::check_add_sinusoidal_out, add_sinusoidal>());
  m.impl("add_sinusoidal.offsets_out",
         ops::out_kernel<Cpu, ops::check_add_sinusoidal_offsets_out, add_sinusoidal>());
  m.impl("add_sinusoidal.positions_out",
         ops::out_kernel<Cpu, ops::check_add_sinusoidal_positions_out, add_sinusoidal>());
}

}  // namespace posenc_ext::cpu
