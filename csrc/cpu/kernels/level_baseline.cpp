// Kernels for any machine.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define POSENC_VECTOR_BYTES 16

#include "cpu/kernels/kernels.h"

namespace posenc_ext::cpu::baseline {
#include "cpu/kernels/bodies.h"
}  // namespace posenc_ext::cpu::baseline
