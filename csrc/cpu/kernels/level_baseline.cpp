// Kernels for any machine.
#include "cpu/kernels/relative_bias.h"
#include "cpu/kernels/sinusoidal.h"

namespace posenc_ext::cpu::baseline {
#include "cpu/kernels/relative_bias_body.h"
#include "cpu/kernels/sinusoidal_body.h"
}  // namespace posenc_ext::cpu::baseline
