// The sinusoid ops on CUDA: from tensors to pointers, device guard, stream.
#include "cuda/kernels/sinusoidal.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/dropout.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::cuda {
namespace {

Positions positions_of(const at::Tensor& positions) {
  return {positions.const_data_ptr(), *ops::to_position_type(positions.scalar_type()),
          ops::to_strided(positions, positions.dim()), 0};
}

at::Tensor& sinusoidal_table_out_cuda(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                      double freq_shift, double scale, std::string_view layout,
                                      std::string_view odd, at::Tensor& out) {
  const auto rule = ops::check_sinusoidal_table(length, dim, start, base, freq_shift, scale, layout, odd,
                                                out.scalar_type());
  const c10::cuda::CUDAGuard guard(out.device());
  ops::resize_table(length, dim, out);
  if (out.numel() == 0) return out;
  sinusoid_rows({core::make_sinusoid(out.size(1), base, freq_shift, scale, rule.layout, rule.odd),
                 {nullptr, core::PositionType::i64, {}, start.expect_int()},
                 /*order=*/0,
                 ops::to_core(out.scalar_type()),
                 out.mutable_data_ptr(),
                 out.stride(0),
                 out.stride(1),
                 out.size(0)},
                c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

// Writes the checked encodings, or their derivatives, into `out`, which is contiguous.
void rows_into(const at::Tensor& positions, int64_t dim, double base, double freq_shift, double scale,
               const ops::Encoding& rule, int64_t order, const at::Tensor& out) {
  if (out.numel() == 0) return;
  const at::Tensor few = ops::with_few_dims(positions, positions.dim());
  sinusoid_rows({core::make_sinusoid(dim, base, freq_shift, scale, rule.layout, rule.odd), positions_of(few),
                 static_cast<int32_t>(order), ops::to_core(out.scalar_type()), out.mutable_data_ptr(), dim, 1,
                 positions.numel()},
                c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor sinusoidal_cuda(const at::Tensor& positions, c10::SymInt sym_dim, double base, double freq_shift,
                           double scale, std::string_view layout, std::string_view odd, int64_t order,
                           std::optional<at::ScalarType> dtype) {
  const at::ScalarType type = ops::sinusoidal_dtype(positions, dtype);
  const auto rule =
      ops::check_sinusoidal(positions, sym_dim, base, freq_shift, scale, layout, odd, order, type);
  const c10::cuda::CUDAGuard guard(positions.device());
  c10::DimVector sizes(positions.sizes().begin(), positions.sizes().end());
  sizes.push_back(sym_dim.expect_int());
  at::Tensor out = at::empty(sizes, positions.options().dtype(type));
  rows_into(positions, sizes.back(), base, freq_shift, scale, rule, order, out);
  return out;
}

at::Tensor& sinusoidal_out_cuda(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd,
                                at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(positions.device());
  const auto rule = ops::check_sinusoidal_out(positions, dim, base, freq_shift, scale, layout, odd, out);
  return ops::write_contiguous(
      out,
      [&](at::Tensor& o) {
        rows_into(positions, dim.expect_int(), base, freq_shift, scale, rule, /*order=*/0, o);
      },
      positions);
}

at::Tensor sinusoidal_backward_cuda(const at::Tensor& grad, const at::Tensor& positions, double base,
                                    double freq_shift, double scale, std::string_view layout,
                                    std::string_view odd, int64_t order) {
  const auto rule =
      ops::check_sinusoidal_backward(grad, positions, base, freq_shift, scale, layout, odd, order);
  const c10::cuda::CUDAGuard guard(positions.device());
  at::Tensor out = at::empty(positions.sizes(), positions.options());
  if (out.numel() == 0) return out;
  const int64_t dims = positions.dim();
  const at::Tensor few_positions = ops::with_few_dims(positions, dims);
  const at::Tensor few_grad = ops::with_few_dims(grad, dims);
  const int64_t dim = grad.size(dims);
  sinusoid_backward(
      {core::make_sinusoid(dim, base, freq_shift, scale, rule.layout, rule.odd), positions_of(few_positions),
       static_cast<int32_t>(order), ops::to_core(grad.scalar_type()), few_grad.const_data_ptr(),
       ops::to_strided(few_grad, dims), few_grad.stride(dims), ops::to_core(positions.scalar_type()),
       out.mutable_data_ptr(), positions.numel()},
      c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

// Writes the checked sum into `out`, which is contiguous: x itself, or apart from it.
void add_into(const at::Tensor& x, const std::optional<at::Tensor>& offsets, const c10::SymInt& start,
              double x_scale, double base, double freq_shift, const ops::Encoding& rule, bool batch_first,
              double dropout_p, const std::optional<at::Tensor>& seed, at::Tensor& out) {
  if (out.numel() == 0) return;
  const int64_t batch_axis = batch_first ? 0 : 1, length_axis = 1 - batch_axis;
  AddSinusoidal a{};
  a.spec = core::make_sinusoid(x.size(2), base, freq_shift, 1.0, rule.layout, rule.odd);
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
  add_sinusoidal(a, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor add_sinusoidal_cuda(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                               c10::SymInt start, double x_scale, double base, double freq_shift,
                               std::string_view layout, std::string_view odd, bool batch_first,
                               double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::Encoding rule{};
  ops::check_add_sinusoidal(x, offsets, start, x_scale, base, freq_shift, layout, odd, batch_first, dropout_p,
                            seed, &rule);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty(x.sizes(), x.options());
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
  const c10::cuda::CUDAGuard guard(x.device());
  ops::resize_out_like(op, "x", x, x.sym_sizes(), out);
  bool direct = ops::check_overlap(op, "x", x, out) != ops::Overlap::unknown && out.is_contiguous();
  if (given.has_value()) {
    direct = ops::check_overlap(op, argument, *given, out) == ops::Overlap::apart && direct;
  }
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : at::empty(x.sizes(), x.options());
  at::Tensor samples = result.view(s.x.sizes());
  add_into(s.x, s.offsets, start, x_scale, base, freq_shift, rule, s.batch_first, dropout_p, seed, samples);
  if (!direct) out.copy_(result);
  return out;
}

at::Tensor& add_sinusoidal_out_cuda(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                    double freq_shift, std::string_view layout, std::string_view odd,
                                    bool batch_first, double dropout_p, bool training, at::Tensor& out) {
  return add_out(x, ops::as_samples(x, std::nullopt, batch_first), "start", std::nullopt, start, x_scale,
                 base, freq_shift, layout, odd, dropout_p, training, out);
}

at::Tensor& add_sinusoidal_offsets_out_cuda(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                            double base, double freq_shift, std::string_view layout,
                                            std::string_view odd, bool batch_first, double dropout_p,
                                            bool training, at::Tensor& out) {
  return add_out(x, ops::as_samples(x, start, batch_first), "start", start, 0, x_scale, base, freq_shift,
                 layout, odd, dropout_p, training, out);
}

at::Tensor& add_sinusoidal_positions_out_cuda(const at::Tensor& x, const at::Tensor& positions,
                                              double x_scale, double base, double freq_shift,
                                              std::string_view layout, std::string_view odd, double dropout_p,
                                              bool training, at::Tensor& out) {
  return add_out(x, ops::rows_as_samples(x, positions), "positions", positions, 0, x_scale, base, freq_shift,
                 layout, odd, dropout_p, training, out);
}

at::Tensor scale_dropout_cuda(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed) {
  ops::check_scale_dropout(x, scale, dropout_p, seed);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty(x.sizes(), x.options());
  if (out.numel() == 0) return out;
  const at::Tensor few = ops::with_few_dims(x, x.dim());
  scale_dropout({scale, seeded(dropout_p, seed), ops::to_core(x.scalar_type()), few.const_data_ptr(),
                 ops::to_strided(few, few.dim()), out.numel(), out.mutable_data_ptr()},
                c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(posenc_ext, CUDA, m) {
  m.impl("sinusoidal_table.out", TORCH_FN(sinusoidal_table_out_cuda));
  m.impl("sinusoidal.out", TORCH_FN(sinusoidal_out_cuda));
  m.impl("_sinusoidal", TORCH_FN(sinusoidal_cuda));
  m.impl("_sinusoidal_backward", TORCH_FN(sinusoidal_backward_cuda));
  m.impl("_add_sinusoidal", TORCH_FN(add_sinusoidal_cuda));
  m.impl("add_sinusoidal.out", TORCH_FN(add_sinusoidal_out_cuda));
  m.impl("add_sinusoidal.offsets_out", TORCH_FN(add_sinusoidal_offsets_out_cuda));
  m.impl("add_sinusoidal.positions_out", TORCH_FN(add_sinusoidal_positions_out_cuda));
  m.impl("_scale_dropout", TORCH_FN(scale_dropout_cuda));
}

}  // namespace posenc_ext::cuda
