// The adds of the encoding, and dropout alone, on the CPU: from tensors to pointers, and threads. No work is
// cut by thread count.
#include "cpu/kernels/kernels.h"

#include <torch/library.h>

#include "cpu/dropout.h"
#include "cpu/encodings.h"
#include "cpu/parallel.h"
#include "cpu/positions.h"
#include "cpu/memory.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cpu {
namespace {

// Writes the checked sum into `out`, which is contiguous: x itself, or apart from it.
void add_into(const at::Tensor& x, const std::optional<at::Tensor>& offsets, const c10::SymInt& start,
              double x_scale, double base, double freq_shift, const ops::Encoding& rule, bool batch_first,
              double dropout_p, const std::optional<at::Tensor>& seed, at::Tensor& out) {
  if (out.numel() == 0) return;
  const int64_t batch_axis = batch_first ? 0 : 1, length_axis = 1 - batch_axis, dim = x.size(2);
  const auto kept = encodings(dim, base, freq_shift, rule.layout, rule.odd);
  AddSinusoidal a{};
  a.frequencies = kept->frequencies;
  a.kept = kept->kept.const_data_ptr<double>();
  a.kept_positions = kept->positions;
  a.batch = x.size(batch_axis);
  a.length = x.size(length_axis);
  a.start = start.expect_int();
  if (offsets.has_value()) {
    a.offsets = offsets->const_data_ptr();
    a.offset_type = *ops::to_position_type(offsets->scalar_type());
    a.offset_stride = offsets->stride(0);
  }
  a.x_scale = x_scale;
  a.dropout = seeded(dropout_p, seed);
  a.dtype = ops::to_core(x.scalar_type());
  a.x = x.const_data_ptr();
  a.x_batch_stride = x.stride(batch_axis);
  a.x_length_stride = x.stride(length_axis);
  a.x_channel_stride = x.stride(2);
  a.out = out.mutable_data_ptr();
  a.out_batch_stride = out.stride(batch_axis);
  a.out_length_stride = out.stride(length_axis);
  a.past_caches = out.const_data_ptr() != x.const_data_ptr() && writes_past_caches(out);
  parallel_for(a.items(), a.item_elements(),
               [&](int64_t begin, int64_t end) { kernels().add_sinusoidal(a, begin, end); });
}

void check_starts(const std::optional<at::Tensor>& offsets, int64_t length) {
  if (offsets.has_value()) check_exact("add_sinusoidal", *offsets, length);
}

at::Tensor add_sinusoidal_cpu(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                              c10::SymInt start, double x_scale, double base, double freq_shift,
                              std::string_view layout, std::string_view odd, bool batch_first,
                              double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::Encoding rule{};
  ops::check_add_sinusoidal(x, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                            seed, &rule);
  check_starts(offsets, x.size(batch_first ? 1 : 0));
  at::Tensor out = new_result(x.sizes(), x.scalar_type());
  add_into(x, offsets, start, x_scale, base, freq_shift, rule, batch_first, dropout_p, seed, out);
  return out;
}

// `given`: s.offsets as the caller gave them, by this name.
at::Tensor& add_out(const at::Tensor& x, const ops::Samples& s, const char* argument,
                    const std::optional<at::Tensor>& given, const c10::SymInt& start, double x_scale,
                    double base, double freq_shift, std::string_view layout, std::string_view odd,
                    double dropout_p, bool training, at::Tensor& out) {
  const char* op = "add_sinusoidal";
  ops::Encoding rule{};
  ops::check_add_sinusoidal(s.x, s.offsets, start, x_scale, base, freq_shift, layout, odd, s.batch_first,
                            dropout_p, std::nullopt, &rule);
  check_starts(s.offsets, s.x.size(s.batch_first ? 1 : 0));
  ops::resize_out_like(op, "x", x, x.sym_sizes(), out);
  bool direct = ops::check_overlap(op, "x", x, out) != ops::Overlap::unknown && out.is_contiguous();
  if (given.has_value()) {
    direct = ops::check_overlap(op, argument, *given, out) == ops::Overlap::apart && direct;
  }
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : new_result(x.sizes(), x.scalar_type());
  at::Tensor samples = result.view(s.x.sizes());
  add_into(s.x, s.offsets, start, x_scale, base, freq_shift, rule, s.batch_first, dropout_p, seed, samples);
  if (!direct) out.copy_(result);
  return out;
}

at::Tensor& add_sinusoidal_out_cpu(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                   double freq_shift, std::string_view layout, std::string_view odd,
                                   bool batch_first, double dropout_p, bool training, at::Tensor& out) {
  return add_out(x, ops::as_samples(x, std::nullopt, batch_first), "start", std::nullopt, start, x_scale,
                 base, freq_shift, layout, odd, dropout_p, training, out);
}

at::Tensor& add_sinusoidal_offsets_out_cpu(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                           double base, double freq_shift, std::string_view layout,
                                           std::string_view odd, bool batch_first, double dropout_p,
                                           bool training, at::Tensor& out) {
  return add_out(x, ops::as_samples(x, start, batch_first), "start", start, 0, x_scale, base, freq_shift,
                 layout, odd, dropout_p, training, out);
}

at::Tensor& add_sinusoidal_positions_out_cpu(const at::Tensor& x, const at::Tensor& positions, double x_scale,
                                             double base, double freq_shift, std::string_view layout,
                                             std::string_view odd, double dropout_p, bool training,
                                             at::Tensor& out) {
  return add_out(x, ops::rows_as_samples(x, positions), "positions", positions, 0, x_scale, base, freq_shift,
                 layout, odd, dropout_p, training, out);
}

at::Tensor scale_dropout_cpu(const at::Tensor& x, double scale, double dropout_p,
                             const std::optional<at::Tensor>& seed) {
  ops::check_scale_dropout(x, scale, dropout_p, seed);
  at::Tensor out = new_result(x.sizes(), x.scalar_type());
  const int64_t total = out.numel();
  if (total == 0) return out;
  ScaleDropout a{};
  a.scale = scale;
  a.dropout = seeded(dropout_p, seed);
  a.dtype = ops::to_core(x.scalar_type());
  a.total = total;
  a.out = out.mutable_data_ptr();
  a.past_caches = writes_past_caches(out);
  constexpr int64_t kStretch = 4096;
  const at::Tensor few = x.is_contiguous() ? x : ops::with_few_dims(x, x.dim() - 1);
  a.x = few.const_data_ptr();
  if (few.is_contiguous()) {
    a.inner = core::min_of(kStretch, total);
    a.inner_stride = 1;
    a.outer = {1, {(total + a.inner - 1) / a.inner}, {a.inner}};
  } else {
    a.inner = few.size(-1);
    a.inner_stride = few.stride(-1);
    a.outer = ops::to_strided(few, few.dim() - 1);
  }
  parallel_for((total + a.inner - 1) / a.inner, a.inner,
               [&](int64_t begin, int64_t end) { kernels().scale_dropout(a, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_sinusoidal", TORCH_FN(add_sinusoidal_cpu));
  m.impl("add_sinusoidal.out", TORCH_FN(add_sinusoidal_out_cpu));
  m.impl("add_sinusoidal.offsets_out", TORCH_FN(add_sinusoidal_offsets_out_cpu));
  m.impl("add_sinusoidal.positions_out", TORCH_FN(add_sinusoidal_positions_out_cpu));
  m.impl("_scale_dropout", TORCH_FN(scale_dropout_cpu));
}

}  // namespace posenc_ext::cpu
