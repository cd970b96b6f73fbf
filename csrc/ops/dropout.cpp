#include "ops/dropout.h"

#include <ATen/ops/randint.h>

#include <limits>

#include "ops/call.h"
#include "ops/types.h"

namespace posenc_ext::ops {
namespace {

void check_dropout_p(const char* op, double dropout_p) {
  POSENC_CHECK(dropout_p >= 0.0 && dropout_p <= 1.0, op, "dropout_p must be in [0, 1], got ", dropout_p);
}

c10::SymInt elements(c10::SymIntArrayRef sizes) {
  c10::SymInt count = 1;
  for (const c10::SymInt& size : sizes) count *= size;
  return count;
}

bool is_seed(const at::Tensor& seed) { return seed.scalar_type() == at::kLong && seed.sym_numel() == 1; }

bool is_mask(const at::Tensor& mask, const c10::SymInt& count) {
  return mask.scalar_type() == at::kByte && !mask.is_cuda() && mask.dim() == 1 && mask.is_contiguous() &&
         mask.sym_size(0) == mask_bytes(count);
}

}  // namespace

void check_dropout(const char* op, const at::Tensor& x, double dropout_p,
                   const std::optional<at::Tensor>& seed, c10::SymIntArrayRef sizes) {
  check_dropout_p(op, dropout_p);
  if (!seed.has_value() || !seed->defined()) return;
  const bool fits = is_seed(*seed) || is_mask(*seed, elements(sizes));
  POSENC_CHECK(fits && seed->device() == x.device(), op, "seed must be one int64 on the device of x (",
               x.device(), "), or a mask of the result there, got ", seed->scalar_type(), " ",
               seed->sym_sizes(), " on ", seed->device());
}

void check_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                         const std::optional<at::Tensor>& seed) {
  const char* op = "_scale_dropout";
  check_dtype(op, "x", x.scalar_type());
  check_finite(op, "scale", scale);
  check_dropout(op, x, dropout_p, seed, x.sym_sizes());
}

void check_dropout_mask(const at::Tensor& seed, const c10::SymInt& count, double dropout_p) {
  const char* op = "_dropout_mask";
  POSENC_CHECK(is_seed(seed), op, "seed must be one int64, got ", seed.scalar_type(), " ", seed.sym_sizes());
  POSENC_CHECK(count >= 0, op, "count must be non-negative, got ", count);
  check_dropout_p(op, dropout_p);
}

std::optional<at::Tensor> draw_seed(const at::Tensor& x, double dropout_p, bool training) {
  if (!(training && dropout_p > 0.0 && dropout_p <= 1.0)) return std::nullopt;
  return at::randint(std::numeric_limits<int64_t>::max(), {1},
                     at::TensorOptions().dtype(at::kLong).device(x.device()));
}

std::optional<at::Tensor> kept_for_backward(const std::optional<at::Tensor>& seed, double dropout_p,
                                            const at::Tensor& x, c10::SymIntArrayRef sizes) {
  constexpr int64_t kFew = 32768;  // elements; fewer are drawn again in the time that one more op takes
  if (!drops(dropout_p, seed) || dropout_p > 1.0 || !x.is_cpu() || !is_seed(*seed)) return seed;
  const c10::SymInt count = elements(sizes);
  if (count.is_symbolic() || count < kFew) return seed;
  return call_dropout_mask(*seed, count, dropout_p);
}

at::Tensor call_scale_dropout(const at::Tensor& x, double scale, double dropout_p,
                              const std::optional<at::Tensor>& seed) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, double, double, const std::optional<at::Tensor>&)>(
          "posenc_ext::_scale_dropout");
  return op.call(x, scale, dropout_p, seed);
}

at::Tensor call_dropout_mask(const at::Tensor& seed, c10::SymInt count, double dropout_p) {
  static const auto op =
      find_op<at::Tensor(const at::Tensor&, c10::SymInt, double)>("posenc_ext::_dropout_mask");
  return op.call(seed, std::move(count), dropout_p);
}

}  // namespace posenc_ext::ops
