// Positions as a tensor: their checks, and the ops that add and sum rows of a table at them.
#pragma once

#include "args/positions.h"
#include "ops/dropout.h"

namespace posenc_ext::ops {

// `positions` must be integers on the device of x [..., D], of a shape that broadcasts to [...].
void check_positions(const char* op, const at::Tensor& positions, const at::Tensor& x);

// A view with one position for each row of x [..., D].
at::Tensor one_per_row(const at::Tensor& positions, const at::Tensor& x);

// From here on a double does not represent every integer. The positions start, ..., start + length - 1 must
// be below; symbolic ones are checked by the kernels, because a guard would specialize the graph.
constexpr int64_t kInexact = int64_t{1} << 53;
void check_exact(const char* op, const c10::SymInt& start, const c10::SymInt& length);

// Collapsible positions as the kernels read them.
args::Positions fill_positions(const at::Tensor& positions);

// y = dropout(x * x_scale + pos_embed[positions]). Whether the positions are rows of pos_embed is checked
// where they are read.
struct AddPositions : Dropping {
  at::Tensor pos_embed{}, positions{};  // a position per row
};

AddPositions check_add_positions(const at::Tensor& x, const at::Tensor& pos_embed,
                                 const at::Tensor& positions, double x_scale, double dropout_p,
                                 const std::optional<at::Tensor>& seed);
AddPositions check_add_positions_out(const at::Tensor& x, const at::Tensor& pos_embed,
                                     const at::Tensor& positions, double x_scale, double dropout_p,
                                     bool training, at::Tensor& out);
args::AddPositions fill_args(AddPositions& arguments, const at::Tensor& out);

// out[row] = the sum of grad over the rows at this position.
struct SumPositions : Result {
  at::Tensor grad, positions;  // a position per row
};

SumPositions check_sum_positions(const at::Tensor& grad, const at::Tensor& positions, c10::SymInt num_rows);
args::SumPositions fill_args(SumPositions& arguments, const at::Tensor& out);

inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double,
                               const std::optional<at::Tensor>&),
                    "_add_positions">
    call_add_positions;
inline constexpr Op<at::Tensor&(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double, bool,
                                at::Tensor&),
                    "add_position_embedding.positions_out">
    call_add_positions_out;
inline constexpr Op<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt), "_sum_positions">
    call_sum_positions;

}  // namespace posenc_ext::ops
