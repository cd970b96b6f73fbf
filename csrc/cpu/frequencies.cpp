#include "cpu/frequencies.h"

#include <cmath>
#include <tuple>

#include "ops/cache.h"

namespace posenc_ext::cpu {

std::shared_ptr<const FrequencyTable> frequency_table(int64_t dim, double base, double freq_shift,
                                                      double scale) {
  return ops::cached<FrequencyTable>(std::tuple(dim, base, freq_shift, scale), [](const auto& key) {
    const auto [dim, base, freq_shift, scale] = key;
    FrequencyTable table{
        core::make_sinusoid(dim, base, freq_shift, scale, core::Layout::interleaved, core::Odd::sin),
        {},
        {},
        0.0};
    const int64_t count = table.spec.frequencies();
    table.hi.reserve(count);
    table.lo.reserve(count);
    for (int64_t j = 0; j < count; ++j) {
      const core::DoubleDouble f = core::frequency(table.spec, j);
      table.hi.push_back(f.hi);
      table.lo.push_back(f.lo);
      const double speed = std::fabs(f.hi);
      table.fastest = core::max_of(table.fastest, std::isnan(speed) ? HUGE_VAL : speed);
    }
    return table;
  });
}

}  // namespace posenc_ext::cpu
