// Positions that are given one by one: their checks, and the ops that add and sum the rows of a table at
// them.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/dropout.h"
#include "ops/types.h"

namespace posenc_ext::ops {

// `positions` must be integers on the device of x [..., D], of a shape that broadcasts to [...].
void check_positions(const char* op, const at::Tensor& positions, const at::Tensor& x);

// A view with one position for each row of x [..., D].
at::Tensor one_per_row(const at::Tensor& positions, const at::Tensor& x);

// From here on a double does not hold every integer. The positions start, ..., start + length - 1 must be
// below; symbolic ones are checked by the kernels, for a guard would limit what a graph serves.
constexpr int64_t kInexact = int64_t{1} << 53;
void check_exact(const char* op, const c10::SymInt& start, const c10::SymInt& length);

// y = dropout(x * x_scale + pos_embed[positions]). Whether the positions are rows of pos_embed is checked
// where they are read.
void check_add_positions(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions,
                         double x_scale, double dropout_p, const std::optional<at::Tensor>& seed);

// out[row] = the sum of grad over the rows at this position.
void check_sum_positions(const at::Tensor& grad, const at::Tensor& positions, const c10::SymInt& num_rows);

at::Tensor call_add_positions(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions,
                              double x_scale, double dropout_p, const std::optional<at::Tensor>& seed);
at::Tensor& call_add_positions_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                   const at::Tensor& positions, double x_scale, double dropout_p,
                                   bool training, at::Tensor& out);
at::Tensor call_sum_positions(const at::Tensor& grad, const at::Tensor& positions, c10::SymInt num_rows);

}  // namespace posenc_ext::ops
