// The sinusoid ops: argument checks and result shapes for Meta, CPU and CUDA, and typed calls through the
// dispatcher.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "core/sinusoid.h"
#include "ops/dropout.h"
#include "ops/positions.h"
#include "ops/types.h"

namespace posenc_ext::ops {

struct Encoding {
  core::Layout layout;
  core::Odd odd;
};

// The rules on how a row is encoded; `op` is the public op to name.
Encoding check_encoding(const char* op, const c10::SymInt& dim, double base, double freq_shift, double scale,
                        std::string_view layout, std::string_view odd);

Encoding check_sinusoidal_table(const c10::SymInt& length, const c10::SymInt& dim, const c10::SymInt& start,
                                double base, double freq_shift, double scale, std::string_view layout,
                                std::string_view odd, at::ScalarType dtype);

// The result of sinusoidal_table.out must have its shape; an empty one is given it.
void resize_table(const c10::SymInt& length, const c10::SymInt& dim, const at::Tensor& out);

Encoding check_sinusoidal(const at::Tensor& positions, const c10::SymInt& dim, double base, double freq_shift,
                          double scale, std::string_view layout, std::string_view odd, int64_t order,
                          at::ScalarType dtype);

// The same for sinusoidal.out, whose result has the dtype of `out`; an empty one is given its shape.
Encoding check_sinusoidal_out(const at::Tensor& positions, const c10::SymInt& dim, double base,
                              double freq_shift, double scale, std::string_view layout, std::string_view odd,
                              const at::Tensor& out);

// The dtype of `sinusoidal` where none is asked for: that of floating positions, else torch's default.
at::ScalarType sinusoidal_dtype(const at::Tensor& positions, std::optional<at::ScalarType> dtype);

Encoding check_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
                                   double freq_shift, double scale, std::string_view layout,
                                   std::string_view odd, int64_t order);

// What the kernels of add_sinusoidal take: x [B, L, D] or [L, B, D], and an offset for each sample or none.
struct Samples {
  at::Tensor x;
  std::optional<at::Tensor> offsets;
  bool batch_first;
};

// x [L, D] is one sample; start may be [], [1], [B] or [B, 1]. All are views.
Samples as_samples(const at::Tensor& x, const std::optional<at::Tensor>& start, bool batch_first);

// Each row of x [..., D] is a sample of length 1 at its own position. x is a view where one exists.
Samples rows_as_samples(const at::Tensor& x, const at::Tensor& positions);

struct AddShape {
  c10::SymInt batch, length, dim;
};

AddShape check_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                              const c10::SymInt& start, double x_scale, double base, double freq_shift,
                              std::string_view layout, std::string_view odd, bool batch_first,
                              double dropout_p, const std::optional<at::Tensor>& seed,
                              Encoding* encoding = nullptr);

// Typed calls through the dispatcher.
at::Tensor& call_sinusoidal_table_out(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                      double freq_shift, double scale, std::string_view layout,
                                      std::string_view odd, at::Tensor& out);
at::Tensor call_sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                           double scale, std::string_view layout, std::string_view odd, int64_t order,
                           std::optional<at::ScalarType> dtype);
at::Tensor& call_sinusoidal_out(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd, at::Tensor& out);
at::Tensor call_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
                                    double freq_shift, double scale, std::string_view layout,
                                    std::string_view odd, int64_t order);
at::Tensor call_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                               c10::SymInt start, double x_scale, double base, double freq_shift,
                               std::string_view layout, std::string_view odd, bool batch_first,
                               double dropout_p, const std::optional<at::Tensor>& seed);
at::Tensor& call_add_sinusoidal_out(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                    double freq_shift, std::string_view layout, std::string_view odd,
                                    bool batch_first, double dropout_p, bool training, at::Tensor& out);
at::Tensor& call_add_sinusoidal_offsets_out(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                            double base, double freq_shift, std::string_view layout,
                                            std::string_view odd, bool batch_first, double dropout_p,
                                            bool training, at::Tensor& out);
at::Tensor& call_add_sinusoidal_positions_out(const at::Tensor& x, const at::Tensor& positions,
                                              double x_scale, double base, double freq_shift,
                                              std::string_view layout, std::string_view odd, double dropout_p,
                                              bool training, at::Tensor& out);

}  // namespace posenc_ext::ops
