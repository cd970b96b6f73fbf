// The exact frequencies of an encoding, computed once per (dim, base, freq_shift, scale) and kept.
#pragma once

#include <memory>
#include <vector>

#include "core/sinusoid.h"
#include "cpu/kernels/sinusoidal.h"

namespace posenc_ext::cpu {

struct FrequencyTable {
  core::Sinusoid spec;  // for the layout and rule on odd dims of whoever asked first
  std::vector<double> hi, lo;
  double fastest;  // the largest |hi|

  Frequencies with(core::Layout layout, core::Odd odd) const {
    core::Sinusoid asked = spec;
    asked.layout = layout;
    asked.odd = odd;
    return {asked, hi.data(), lo.data()};
  }
};

std::shared_ptr<const FrequencyTable> frequency_table(int64_t dim, double base, double freq_shift,
                                                      double scale);

}  // namespace posenc_ext::cpu
