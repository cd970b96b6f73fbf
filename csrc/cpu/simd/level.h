// The CPU level that a translation unit compiles kernels for: POSENC_LEVEL names its namespace, and
// level_*.cpp sets it. The baseline is the default, so that each header also compiles by itself.
#pragma once

#if !defined(POSENC_LEVEL)
#define POSENC_LEVEL baseline
#define POSENC_VECTOR_BYTES 16
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// A hot loop: all that it calls is inlined, also where the compiler would find that too much.
#define POSENC_FLATTEN __attribute__((flatten))
// Not inlined: these loops are short, and as functions they keep what they need in registers.
#define POSENC_ALONE __attribute__((noinline))

namespace posenc_ext {
namespace core {}
namespace args {}
namespace cpu::POSENC_LEVEL {
using namespace core;
using namespace args;
}  // namespace cpu::POSENC_LEVEL
}  // namespace posenc_ext
