// Adding sinusoids to a tensor: checks, kernel arguments, and typed calls.
#pragma once

#include "args/add_sinusoidal.h"
#include "ops/dropout.h"
#include "ops/sinusoidal.h"

namespace posenc_ext::ops {

// x [B, L, D] or [L, B, D], with an offset for each sample or none. The result has its shape, or that of the
// tensor that it is a view of.
struct AddSinusoidal : Dropping {
  core::EncodingSpec encoding{};
  std::optional<at::Tensor> offsets{};
  c10::SymInt start = 0;
  bool batch_first = true;

  int64_t batch_axis() const { return batch_first ? 0 : 1; }
  int64_t length_axis() const { return batch_first ? 1 : 0; }
};

AddSinusoidal check_add_sinusoidal(const at::Tensor& x, const std::optional<at::Tensor>& offsets,
                                   c10::SymInt start, double x_scale, double base, double freq_shift,
                                   std::string_view layout, std::string_view odd, bool batch_first,
                                   double dropout_p, const std::optional<at::Tensor>& seed);
AddSinusoidal check_add_sinusoidal_out(const at::Tensor& x, c10::SymInt start, double x_scale, double base,
                                       double freq_shift, std::string_view layout, std::string_view odd,
                                       bool batch_first, double dropout_p, bool training, at::Tensor& out);
AddSinusoidal check_add_sinusoidal_offsets_out(const at::Tensor& x, const at::Tensor& start, double x_scale,
                                               double base, double freq_shift, std::string_view layout,
                                               std::string_view odd, bool batch_first, double dropout_p,
                                               bool training, at::Tensor& out);
AddSinusoidal check_add_sinusoidal_positions_out(const at::Tensor& x, const at::Tensor& positions,
                                                 double x_scale, double base, double freq_shift,
                                                 std::string_view layout, std::string_view odd,
                                                 double dropout_p, bool training, at::Tensor& out);
args::AddSinusoidal fill_args(AddSinusoidal& arguments, const core::Sinusoid& spec, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, const std::optional<at::Tensor>&, c10::SymInt, double,
                               double, double, std::string_view, std::string_view, bool, double,
                               const std::optional<at::Tensor>&),
                    "_add_sinusoidal">
    call_add_sinusoidal;
inline constexpr Op<at::Tensor&(const at::Tensor&, c10::SymInt, double, double, double, std::string_view,
                                std::string_view, bool, double, bool, at::Tensor&),
                    "add_sinusoidal.out">
    call_add_sinusoidal_out;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, double, double, double,
                                std::string_view, std::string_view, bool, double, bool, at::Tensor&),
                    "add_sinusoidal.offsets_out">
    call_add_sinusoidal_offsets_out;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, double, double, double,
                                std::string_view, std::string_view, double, bool, at::Tensor&),
                    "add_sinusoidal.positions_out">
    call_add_sinusoidal_positions_out;

}  // namespace posenc_ext::ops
