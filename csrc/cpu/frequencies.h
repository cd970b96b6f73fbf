// What an encoding computes with, made once per (dim, base, freq_shift, scale) and cached.
#pragma once

#include <memory>
#include <vector>

#include "args/sinusoidal.h"
#include "core/sinusoid.h"

namespace posenc_ext::cpu {

using namespace args;

// The exact frequencies.
struct FrequencyTable {
  core::Sinusoid spec;  // with(): for another layout and rule on odd dims
  std::vector<double> hi, lo;

  Frequencies with(core::Layout layout, core::Odd odd) const {
    core::Sinusoid asked = spec;
    asked.layout = layout;
    asked.odd = odd;
    return {asked, hi.data(), lo.data()};
  }
};

std::shared_ptr<const FrequencyTable> frequency_table(int64_t dim, double base, double freq_shift,
                                                      double scale);

// The same, and what angles are added from.
struct AngleTable {
  std::shared_ptr<const FrequencyTable> frequencies;
  std::vector<SixteenPairs> steps;
  std::vector<float> doubt;
  std::vector<AnchorPairs> anchors;
  int64_t near;

  AngleSteps angles() const;
  // Whether angles may be added up to this far from position 0: there they are exact.
  bool reaches(double position) const;
};

std::shared_ptr<const AngleTable> angle_table(int64_t dim, double base, double freq_shift, double scale);

}  // namespace posenc_ext::cpu
