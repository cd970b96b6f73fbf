// The ops on given positions on the CPU: from tensors to pointers, and threads. No work is cut by thread
// count.
#include "cpu/positions.h"

#include <torch/library.h>

#include <cmath>
#include <string>
#include <vector>

#include "cpu/dropout.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"
#include "cpu/memory.h"
#include "ops/positions.h"

namespace posenc_ext::cpu {
namespace {

// The first place in row-major order whose position is not in [low, high], or -1.
int64_t first_outside(const at::Tensor& positions, double low, double high) {
  const at::Tensor few = ops::with_few_dims(positions, positions.dim());
  const Positions p = positions_of(few);
  for (int64_t i = 0; i < few.numel(); ++i) {
    const double position = core::load_position(p.data, p.type, p.at.offset(i));
    if (!(position >= low && position <= high)) return i;
  }
  return -1;
}

// The indices of an element.
c10::DimVector indices_of(const at::Tensor& tensor, int64_t place) {
  c10::DimVector indices(tensor.dim());
  for (int64_t d = tensor.dim() - 1; d >= 0; --d) {
    indices[d] = place % tensor.size(d);
    place /= tensor.size(d);
  }
  return indices;
}

std::string text_at(at::Tensor tensor, at::IntArrayRef indices) {
  for (const int64_t index : indices) tensor = tensor.select(0, index);
  return tensor.scalar_type() == at::kUInt64 ? std::to_string(*tensor.const_data_ptr<uint64_t>())
                                             : std::to_string(tensor.item<int64_t>());
}

// Writes the checked sum into `out`, which is contiguous and apart from the inputs.
void add_into(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions, double x_scale,
              double dropout_p, const std::optional<at::Tensor>& seed, at::Tensor& out) {
  if (out.numel() == 0) return;
  const int64_t row_dims = x.dim() - 1;
  const at::Tensor few_x = ops::with_few_dims(x, row_dims);
  const at::Tensor few_positions = ops::with_few_dims(positions, row_dims);
  const AddPositions a{ops::to_core(x.scalar_type()),
                       x.size(-1),
                       few_x.const_data_ptr(),
                       ops::to_strided(few_x, row_dims),
                       few_x.stride(-1),
                       x_scale,
                       positions_of(few_positions),
                       pos_embed.const_data_ptr(),
                       pos_embed.stride(0),
                       pos_embed.stride(1),
                       seeded(dropout_p, seed),
                       out.mutable_data_ptr(),
                       writes_past_caches(out)};
  parallel_for(out.numel() / a.dim, a.dim,
               [&](int64_t begin, int64_t end) { kernels().add_positions(a, begin, end); });
}

at::Tensor add_positions_cpu(const at::Tensor& x, const at::Tensor& pos_embed, const at::Tensor& positions,
                             double x_scale, double dropout_p, const std::optional<at::Tensor>& seed) {
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, seed);
  const at::Tensor rows = ops::one_per_row(positions, x);
  check_rows("add_position_embedding", rows, pos_embed.size(0));
  at::Tensor out = new_result(x.sizes(), x.scalar_type());
  add_into(x, pos_embed, rows, x_scale, dropout_p, seed, out);
  return out;
}

at::Tensor& add_positions_out_cpu(const at::Tensor& x, const at::Tensor& pos_embed,
                                  const at::Tensor& positions, double x_scale, double dropout_p,
                                  bool training, at::Tensor& out) {
  const char* op = "add_position_embedding";
  ops::check_add_positions(x, pos_embed, positions, x_scale, dropout_p, std::nullopt);
  const at::Tensor rows = ops::one_per_row(positions, x);
  check_rows(op, rows, pos_embed.size(0));
  ops::resize_out_like(op, "x", x, x.sym_sizes(), out);
  bool direct = out.is_contiguous();
  const auto check = [&](const char* argument, const at::Tensor& input) {
    direct = ops::check_apart(op, argument, input, out) == ops::Overlap::apart && direct;
  };
  check("x", x);
  check("pos_embed", pos_embed);
  check("positions", positions);
  const auto seed = ops::draw_seed(x, dropout_p, training);
  at::Tensor result = direct ? out : new_result(x.sizes(), x.scalar_type());
  add_into(x, pos_embed, rows, x_scale, dropout_p, seed, result);
  if (!direct) out.copy_(result);
  return out;
}

at::Tensor sum_positions_cpu(const at::Tensor& grad, const at::Tensor& given, c10::SymInt num_rows) {
  const char* op = "_sum_positions";
  ops::check_sum_positions(grad, given, num_rows);
  const at::Tensor positions = ops::one_per_row(given, grad);
  const int64_t rows = num_rows.expect_int(), dim = grad.size(-1), count = positions.numel();
  check_rows(op, positions, rows);
  at::Tensor out = new_result({rows, dim}, grad.scalar_type());
  if (out.numel() == 0) return out;
  const int64_t row_dims = grad.dim() - 1;
  const at::Tensor few_grad = ops::with_few_dims(grad, row_dims);
  const core::Strided at = ops::to_strided(few_grad, row_dims);
  // A counting sort: the offsets in grad of each row's terms, in their order.
  const at::Tensor dense = positions.to(at::kLong).contiguous();
  const int64_t* row = dense.const_data_ptr<int64_t>();
  std::vector<int64_t> first(static_cast<size_t>(rows) + 1), terms(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) ++first[static_cast<size_t>(row[i]) + 1];
  for (size_t r = 1; r < first.size(); ++r) first[r] += first[r - 1];
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t i = 0; i < count; ++i) {
    terms[static_cast<size_t>(next[static_cast<size_t>(row[i])]++)] = at.offset(i);
  }
  const SumPositions a{ops::to_core(grad.scalar_type()),
                       rows,
                       dim,
                       first.data(),
                       terms.data(),
                       few_grad.const_data_ptr(),
                       few_grad.stride(-1),
                       out.mutable_data_ptr()};
  parallel_for(a.items(), core::min_of(dim, a.kBlock) * (count / rows + 1),
               [&](int64_t begin, int64_t end) { kernels().sum_positions(a, begin, end); });
  return out;
}

}  // namespace

Positions positions_of(const at::Tensor& positions) {
  return {positions.const_data_ptr(), *ops::to_position_type(positions.scalar_type()),
          ops::to_strided(positions, positions.dim()), 0};
}

void check_exact(const char* op, const at::Tensor& positions, int64_t length) {
  if (positions.scalar_type() != at::kLong && positions.scalar_type() != at::kUInt64) return;
  const int64_t steps = core::max_of<int64_t>(length, 1) - 1;
  const int64_t place = first_outside(positions, static_cast<double>(1 - ops::kInexact),
                                      static_cast<double>(ops::kInexact - 1 - steps));
  if (place < 0) return;
  const std::string first = text_at(positions, indices_of(positions, place));
  const double p = std::stod(first);  // if it is below, the last one is not
  POSENC_CHECK(false, op, "positions must be below 2**53 in magnitude, got ",
               std::abs(p) < 0x1p53 ? std::to_string(static_cast<int64_t>(p) + steps) : first);
}

void check_rows(const char* op, const at::Tensor& positions, int64_t rows) {
  const int64_t place = first_outside(positions, 0.0, static_cast<double>(rows - 1));
  if (place < 0) return;
  const c10::DimVector indices = indices_of(positions, place);
  POSENC_CHECK(false, op, "positions must be in [0, ", rows, "), got ", text_at(positions, indices), " at ",
               at::IntArrayRef(indices));
}

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_positions", TORCH_FN(add_positions_cpu));
  m.impl("add_position_embedding.positions_out", TORCH_FN(add_positions_out_cpu));
  m.impl("_sum_positions", TORCH_FN(sum_positions_cpu));
}

}  // namespace posenc_ext::cpu
