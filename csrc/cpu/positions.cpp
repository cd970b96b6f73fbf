// The ops on given positions on the CPU: checks of values, and threads. No work is divided by thread count.
#include "cpu/positions.h"

#include <cmath>
#include <string>
#include <vector>

#include "cpu/device.h"
#include "cpu/kernels/kernels.h"
#include "cpu/parallel.h"
#include "ops/positions.h"

namespace posenc_ext::cpu {
namespace {

// The first place in row-major order whose position is not in [low, high], or -1.
int64_t first_outside(const at::Tensor& positions, double low, double high) {
  const at::Tensor collapsed = ops::collapsible(positions, positions.dim());
  const Positions p = ops::fill_positions(collapsed);
  for (int64_t i = 0; i < collapsed.numel(); ++i) {
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

void add_positions(ops::AddPositions& arguments, const at::Tensor& out) {
  const AddPositions a{ops::fill_args(arguments, out), wants_non_temporal_stores(out)};
  parallel_for(a.count, a.dim, [&](int64_t begin, int64_t end) { kernels().add_positions(a, begin, end); });
}

void sum_positions(ops::SumPositions& arguments, const at::Tensor& out) {
  SumPositions a{ops::fill_args(arguments, out), nullptr, nullptr};
  // A counting sort: the offsets in grad of each row's terms, in their order.
  const at::Tensor dense = arguments.positions.to(at::kLong).contiguous();
  const int64_t* row = dense.const_data_ptr<int64_t>();
  std::vector<int64_t> first(static_cast<size_t>(a.rows) + 1), terms(static_cast<size_t>(a.count));
  for (int64_t i = 0; i < a.count; ++i) ++first[static_cast<size_t>(row[i]) + 1];
  for (size_t r = 1; r < first.size(); ++r) first[r] += first[r - 1];
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t i = 0; i < a.count; ++i) {
    terms[static_cast<size_t>(next[static_cast<size_t>(row[i])]++)] = a.grad_at.offset(i);
  }
  a.first = first.data();
  a.terms = terms.data();
  parallel_for(a.items(), core::min_of(a.dim, a.kBlock) * (a.count / a.rows + 1),
               [&](int64_t begin, int64_t end) { kernels().sum_positions(a, begin, end); });
}

}  // namespace

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

void Cpu::check_values(const ops::Sinusoidal& arguments) { check_exact(arguments.op, arguments.positions); }

void Cpu::check_values(const ops::AddPositions& arguments) {
  check_rows(arguments.op, arguments.positions, arguments.pos_embed.size(0));
}

void Cpu::check_values(const ops::SumPositions& arguments) {
  check_rows(arguments.op, arguments.positions, arguments.sizes[0].expect_int());
}

TORCH_LIBRARY_IMPL(posenc_ext, CPU, m) {
  m.impl("_add_positions", ops::kernel<Cpu, ops::check_add_positions, add_positions>());
  m.impl("add_position_embedding.positions_out",
         ops::out_kernel<Cpu, ops::check_add_positions_out, add_positions>());
  m.impl("_sum_positions", ops::kernel<Cpu, ops::check_sum_positions, sum_positions>());
}

}  // namespace posenc_ext::cpu
