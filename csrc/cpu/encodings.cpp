#include "cpu/encodings.h"

#include <ATen/EmptyTensor.h>

#include <tuple>

#include "ops/cache.h"

namespace posenc_ext::cpu {

std::shared_ptr<const CachedEncodings> cached_encodings(int64_t dim, double base, double freq_shift,
                                                        core::Layout layout, core::Odd odd) {
  constexpr int64_t kMostElements = 65536;  // half a megabyte, half of a usual L2
  return ops::cached<CachedEncodings>(std::tuple(dim, base, freq_shift, layout, odd), [](const auto& key) {
    const auto [dim, base, freq_shift, layout, odd] = key;
    CachedEncodings result{frequency_table(dim, base, freq_shift, 1.0), {}, kMostElements / dim, {}};
    result.frequencies = result.table->with(layout, odd);
    result.rows = at::detail::empty_cpu({result.positions, dim}, at::kDouble);
    void* const to = result.rows.mutable_data_ptr();
    const SinusoidRows rows{{result.frequencies.spec,
                             {nullptr, core::PositionType::i64, {}, 0},
                             /*order=*/0,
                             core::DType::float64,
                             to,
                             dim,
                             1,
                             result.positions},
                            result.frequencies};
    kernels().sinusoid_rows(rows, 0, result.positions);
    return result;
  });
}

}  // namespace posenc_ext::cpu
