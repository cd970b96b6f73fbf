// Sinusoid tables and sinusoids of given positions: checks, kernel arguments, and typed calls.
#pragma once

#include <string_view>

#include "args/sinusoidal.h"
#include "ops/call.h"
#include "ops/kernel.h"
#include "ops/positions.h"

namespace posenc_ext::ops {

// The rules on an encoding; `op` is the public op that errors name. A symbolic dim, which only Meta sees, is
// 0 in the result.
core::EncodingSpec check_encoding(const char* op, const c10::SymInt& dim, double base, double freq_shift,
                                  double scale, std::string_view layout, std::string_view odd);

struct SinusoidalTable : Result {
  core::EncodingSpec encoding;
  c10::SymInt start;
};

SinusoidalTable check_sinusoidal_table(c10::SymInt length, c10::SymInt dim, c10::SymInt start, double base,
                                       double freq_shift, double scale, std::string_view layout,
                                       std::string_view odd, at::Tensor& out);
args::SinusoidRows fill_args(SinusoidalTable& arguments, const core::Sinusoid& spec, const at::Tensor& out);

// The encodings of positions, or their derivatives of this order.
struct Sinusoidal : Result {
  core::EncodingSpec encoding;
  at::Tensor positions;
  int64_t order;
};

Sinusoidal check_sinusoidal(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                            double scale, std::string_view layout, std::string_view odd, int64_t order,
                            std::optional<at::ScalarType> dtype);
Sinusoidal check_sinusoidal_out(const at::Tensor& positions, c10::SymInt dim, double base, double freq_shift,
                                double scale, std::string_view layout, std::string_view odd, at::Tensor& out);
args::SinusoidRows fill_args(Sinusoidal& arguments, const core::Sinusoid& spec, const at::Tensor& out);

// The gradient of the positions.
struct SinusoidalBackward : Result {
  core::EncodingSpec encoding;
  at::Tensor grad, positions;
  int64_t order;
};

SinusoidalBackward check_sinusoidal_backward(const at::Tensor& grad, const at::Tensor& positions, double base,
                                             double freq_shift, double scale, std::string_view layout,
                                             std::string_view odd, int64_t order);
args::SinusoidBackward fill_args(SinusoidalBackward& arguments, const core::Sinusoid& spec,
                                 const at::Tensor& out);

inline constexpr Op<at::Tensor&(c10::SymInt, c10::SymInt, c10::SymInt, double, double, double,
                                std::string_view, std::string_view, at::Tensor&),
                    "sinusoidal_table.out">
    call_sinusoidal_table_out;
inline constexpr Op<at::Tensor(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                               std::string_view, int64_t, std::optional<at::ScalarType>),
                    "_sinusoidal">
    call_sinusoidal;
inline constexpr Op<at::Tensor&(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                                std::string_view, at::Tensor&),
                    "sinusoidal.out">
    call_sinusoidal_out;
inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, double, double, double, std::string_view,
                               std::string_view, int64_t),
                    "_sinusoidal_backward">
    call_sinusoidal_backward;

}  // namespace posenc_ext::ops
