#include "ops/add_sinusoidal.h"

#include "posenc_ext.h"

namespace posenc_ext::ops {
namespace {

// What the kernels take: x [B, L, D] or [L, B, D], and an offset for each sample or none.
struct Samples {
  at::Tensor x;
  std::optional<at::Tensor> offsets;
  bool batch_first;
};

// x [L, D] is one sample; start may be [], [1], [B] or [B, 1]. All are views.
Samples as_samples(const at::Tensor& x, const std::optional<at::Tensor>& start, bool batch_first) {
  const char* op = "add_sinusoidal";
  POSENC_CHECK(x.dim() == 2 || x.dim() == 3, op,
               "x must have 2 or 3 dimensions ([L, D], [B, L, D] or [L, B, D]), got ", x.dim());
  Samples samples{x.dim() == 3 ? x : x.unsqueeze(0), start, batch_first || x.dim() == 2};
  if (!start.has_value()) return samples;
  const c10::SymInt batch = samples.x.sym_size(samples.batch_first ? 0 : 1);
  const int64_t dims = start->dim();
  const bool shared = dims == 0 || (dims == 1 && start->sym_size(0) == 1);
  const bool fits =
      shared || ((dims == 1 || (dims == 2 && start->sym_size(1) == 1)) && start->sym_size(0) == batch);
  POSENC_CHECK(at::isIntegralType(start->scalar_type(), /*includeBool=*/false) && fits, op,
               "start must be an integer tensor of shape [], [1], [", batch, "] or [", batch,
               ", 1] (one offset per sample), got ", start->scalar_type(), " ", start->sym_sizes());
  if (shared) {
    samples.offsets = start->expand_symint({batch});
  } else if (dims == 2) {
    samples.offsets = start->squeeze(1);
  }
  return samples;
}

// Each row of x [..., D] is a sample of length 1 at its own position. x is a view where one exists.
Samples rows_as_samples(const at::Tensor& x, const at::Tensor& positions) {
  const char* op = "add_sinusoidal";
  POSENC_CHECK(x.dim() >= 1, op, "with positions x must have at least 1 dimension [..., D], got ", x.dim());
  check_positions(op, positions, x);
  c10::SymInt rows = 1;
  for (const c10::SymInt& size : x.sym_sizes().slice(0, x.dim() - 1)) rows *= size;
  return {x.reshape_symint({rows, 1, x.sym_size(-1)}), one_per_row(positions, x).reshape_symint({rows}),
          true};
}

AddSinusoidal check_samples(const Samples& samples, const c10::SymInt& start, double x_scale, double base,
                            double freq_shift, std::string_view layout, std::string_view odd,
                            double dropout_p, const std::optional<at::Tensor>& seed) {
  const char* op = "add_sinusoidal";
  const auto& [x, offsets, batch_first] = samples;
  POSENC_CHECK(x.dim() == 3, op, "x must have 3 dimensions [B, L, D] or [L, B, D], got ", x.dim());
  check_dtype(op, "x", x.scalar_type());
  const core::EncodingSpec encoding = check_encoding(op, x.sym_size(2), base, freq_shift, 1.0, layout, odd);
  const AddSinusoidal arguments{
      {{op, sizes_of(x), x.options()}, x, x_scale, dropout_p, seed}, encoding, offsets, start, batch_first};
  check_finite(op, "x_scale", x_scale);
  if (offsets.has_value()) {
    const c10::SymInt batch = x.sym_size(arguments.batch_axis());
    POSENC_CHECK(at::isIntegralType(offsets->scalar_type(), /*includeBool=*/false) && offsets->dim() == 1 &&
                     offsets->sym_size(0) == batch,
                 op, "start must be an integer tensor of shape [", batch, "] (one offset per sample), got ",
                 offsets->scalar_type(), " ", offsets->sym_sizes());
    POSENC_CHECK(offsets->device() == x.device(), op, "start must be on the device of x (", x.device(),
                 "), got ", offsets->device());
  }
  check_exact(op, start, x.sym_size(arguments.length_axis()));
  check_dropout(arguments);
  return arguments;
}

// For the overloads that write into `out`: `argument` is the name of a tensor of starts or positions.
AddSinusoidal check_samples_out(AddSinusoidal arguments, const at::Tensor& x, const char* argument,
                                const std::optional<at::Tensor>& given, bool training,
                                const at::Tensor& out) {
  check_out_like(arguments.op, "x", x, out);
  arguments.sizes = sizes_of(x);
  arguments.inputs = {{"x", x, /*may_be_out=*/true}};
  if (given.has_value()) arguments.inputs.push_back({argument, *given});
  arguments.training = training;
  return arguments;
}

}  // namespace

AddSinusoidal check_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                                   c10::SymInt start, double x_scale, double base, double freq_shift,
                                   std::string_view layout, std::string_view odd, bool batch_first,
                                   double dropout_p, const std::optional<at::Tensor>& seed) {
  return check_samples({x, offsets, batch_first}, start, x_scale, base, freq_shift, layout, odd, dropout_p,
                       seed);
}

AddSinusoidal check_add_sinusoidal_out(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                       double freq_shift, std::string_view layout, std::string_view odd,
                                       bool batch_first, double dropout_p, bool training, at::Tensor& out) {
  return check_samples_out(check_samples(as_samples(x, std::nullopt, batch_first), start, x_scale, base,
                                         freq_shift, layout, odd, dropout_p, std::nullopt),
                           x, "start", std::nullopt, training, out);
}

AddSinusoidal check_add_sinusoidal_offsets_out(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                               double base, double freq_shift, std::string_view layout,
                                               std::string_view odd, bool batch_first, double dropout_p,
                                               bool training, at::Tensor& out) {
  return check_samples_out(check_samples(as_samples(x, start, batch_first), 0, x_scale, base, freq_shift,
                                         layout, odd, dropout_p, std::nullopt),
                           x, "start", start, training, out);
}

AddSinusoidal check_add_sinusoidal_positions_out(const at::Tensor& x, const at::Tensor& positions,
                                                 double x_scale, double base, double freq_shift,
                                                 std::string_view layout, std::string_view odd,
                                                 double dropout_p, bool training, at::Tensor& out) {
  return check_samples_out(check_samples(rows_as_samples(x, positions), 0, x_scale, base, freq_shift, layout,
                                         odd, dropout_p, std::nullopt),
                           x, "positions", positions, training, out);
}

args::AddSinusoidal fill_args(AddSinusoidal& arguments, const core::Sinusoid& spec, const at::Tensor& out) {
  const int64_t batch_axis = arguments.batch_axis(), length_axis = arguments.length_axis();
  const at::Tensor& x = arguments.x;
  const at::Tensor samples = out.sizes() == x.sizes() ? out : out.view(x.sizes());
  args::AddSinusoidal a{};
  a.spec = spec;
  a.batch = x.size(batch_axis);
  a.length = x.size(length_axis);
  a.start = arguments.start.expect_int();
  if (arguments.offsets.has_value()) {
    a.offsets = arguments.offsets->const_data_ptr();
    a.offset_type = *to_position_type(arguments.offsets->scalar_type());
    a.offset_stride = arguments.offsets->stride(0);
  }
  a.x_scale = arguments.x_scale;
  a.dropout = arguments.seeded_dropout();
  a.dtype = to_core(x.scalar_type());
  a.x = x.const_data_ptr();
  a.x_batch_stride = x.stride(batch_axis);
  a.x_length_stride = x.stride(length_axis);
  a.x_channel_stride = x.stride(2);
  a.out = samples.mutable_data_ptr();
  a.out_batch_stride = samples.stride(batch_axis);
  a.out_length_stride = samples.stride(length_axis);
  return a;
}

namespace {

// The public ops: they run before autograd and are traced through.

at::Tensor add_with_dropout(const at::Tensor& x, const Samples& samples, c10::SymInt start, double x_scale,
                            double base, double freq_shift, std::string_view layout, std::string_view odd,
                            double dropout_p, bool training) {
  const at::Tensor y =
      call_add_sinusoidal(samples.x, samples.offsets, std::move(start), x_scale, base, freq_shift, layout,
                          odd, samples.batch_first, dropout_p, draw_seed(x, dropout_p, training));
  return samples.x.is_same(x) ? y : y.view_symint(x.sym_sizes());
}

at::Tensor add_sinusoidal(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                          double freq_shift, std::string_view layout, std::string_view odd, bool batch_first,
                          double dropout_p, bool training) {
  return add_with_dropout(x, as_samples(x, std::nullopt, batch_first), std::move(start), x_scale, base,
                          freq_shift, layout, odd, dropout_p, training);
}

at::Tensor add_sinusoidal_offsets(const at::Tensor& x, const at::Tensor& start, double x_scale, double base,
                                  double freq_shift, std::string_view layout, std::string_view odd,
                                  bool batch_first, double dropout_p, bool training) {
  return add_with_dropout(x, as_samples(x, start, batch_first), 0, x_scale, base, freq_shift, layout, odd,
                          dropout_p, training);
}

at::Tensor add_sinusoidal_at(const at::Tensor& x, const at::Tensor& positions, double x_scale, double base,
                             double freq_shift, std::string_view layout, std::string_view odd,
                             double dropout_p, bool training) {
  return add_with_dropout(x, rows_as_samples(x, positions), 0, x_scale, base, freq_shift, layout, odd,
                          dropout_p, training);
}

TORCH_LIBRARY_IMPL(posenc_ext, CompositeImplicitAutograd, m) {
  m.impl("add_sinusoidal", TORCH_FN(add_sinusoidal));
  m.impl("add_sinusoidal.offsets", TORCH_FN(add_sinusoidal_offsets));
  m.impl("add_sinusoidal.positions", TORCH_FN(add_sinusoidal_at));
}

TORCH_LIBRARY_IMPL(posenc_ext, Meta, m) {
  m.impl("_add_sinusoidal", kernel<Meta, check_add_sinusoidal>());
  m.impl("add_sinusoidal.out", out_kernel<Meta, check_add_sinusoidal_out>());
  m.impl("add_sinusoidal.offsets_out", out_kernel<Meta, check_add_sinusoidal_offsets_out>());
  m.impl("add_sinusoidal.positions_out", out_kernel<Meta, check_add_sinusoidal_positions_out>());
}

}  // namespace
}  // namespace posenc_ext::ops

namespace posenc_ext {

at::Tensor add_sinusoidal(const at::Tensor& x, int64_t start, double x_scale, double base, double freq_shift,
                          std::string_view layout, std::string_view odd, bool batch_first, double dropout_p,
                          bool training) {
  return ops::add_sinusoidal(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                             training);
}

at::Tensor add_sinusoidal(const at::Tensor& x, const at::Tensor& start, double x_scale, double base,
                          double freq_shift, std::string_view layout, std::string_view odd, bool batch_first,
                          double dropout_p, bool training) {
  return ops::add_sinusoidal_offsets(x, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                                     training);
}

at::Tensor add_sinusoidal_at(const at::Tensor& x, const at::Tensor& positions, double x_scale, double base,
                             double freq_shift, std::string_view layout, std::string_view odd,
                             double dropout_p, bool training) {
  return ops::add_sinusoidal_at(x, positions, x_scale, base, freq_shift, layout, odd, dropout_p, training);
}

}  // namespace posenc_ext
