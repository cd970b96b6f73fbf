#include "cpu/frequencies.h"

#include <tuple>

#include "ops/cache.h"

namespace posenc_ext::cpu {
namespace {

// Positions whose anchors are cached: those of diffusion timesteps, which take half of the time then.
constexpr int64_t kNear = 1024;
// Up to this dim: anchors take 320 bytes per channel.
constexpr int64_t kMaxNearDim = 2048;

size_t sixteens(int64_t frequencies) { return static_cast<size_t>((frequencies + 15) / 16); }

AngleTable make_angle_table(int64_t dim, double base, double freq_shift, double scale) {
  AngleTable table{frequency_table(dim, base, freq_shift, scale), {}, {}, {}, 0};
  const core::Sinusoid& spec = table.frequencies->spec;
  const Frequencies f = table.frequencies->with(spec.layout, spec.odd);
  const size_t count = sixteens(spec.frequencies());
  table.steps.resize(count * (AngleSteps::kReach + 1));
  table.doubt.resize(count * 16);
  kernels().sinusoid_steps(f, static_cast<int64_t>(count), table.steps.data(), table.doubt.data());
  if (dim > kMaxNearDim || !table.reaches(kNear)) return table;
  table.near = kNear;
  table.anchors.resize(count * (kNear / AngleSteps::kBlock));
  kernels().sinusoid_anchors(f, table.angles(), table.anchors.data());
  return table;
}

}  // namespace

std::shared_ptr<const FrequencyTable> frequency_table(int64_t dim, double base, double freq_shift,
                                                      double scale) {
  return ops::cached<FrequencyTable>(std::tuple(dim, base, freq_shift, scale), [](const auto& key) {
    const auto [dim, base, freq_shift, scale] = key;
    FrequencyTable table{
        core::make_sinusoid(dim, base, freq_shift, scale, core::Layout::interleaved, core::Odd::sin), {}, {}};
    const int64_t count = table.spec.frequencies();
    table.hi.resize(16 * sixteens(count));
    table.lo.resize(table.hi.size());
    for (int64_t j = 0; j < count; ++j) {
      const core::DoubleDouble f = core::frequency(table.spec, j);
      table.hi[static_cast<size_t>(j)] = f.hi;
      table.lo[static_cast<size_t>(j)] = f.lo;
    }
    return table;
  });
}

AngleSteps AngleTable::angles() const {
  return {static_cast<int64_t>(doubt.size() / 16), steps.data(), doubt.data(), anchors.data(), near};
}

bool AngleTable::reaches(double position) const {
  return (position + AngleSteps::kBlock) * frequencies->spec.fastest < core::kMaxFastTurns;
}

std::shared_ptr<const AngleTable> angle_table(int64_t dim, double base, double freq_shift, double scale) {
  return ops::cached<AngleTable>(std::tuple(dim, base, freq_shift, scale),
                                 [](const auto& key) { return std::apply(make_angle_table, key); });
}

}  // namespace posenc_ext::cpu
