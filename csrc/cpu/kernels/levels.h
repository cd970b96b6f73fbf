// CPU levels: every kernel body is compiled once per level and the best one that the machine has is called.
#pragma once

namespace posenc_ext::cpu {

enum class Level { baseline, avx2, avx512 };

// The level in use: the machine's best, or POSENC_CPU_ISA (baseline, avx2, avx512) where the machine has
// that. Read once.
Level level();
const char* level_name();

}  // namespace posenc_ext::cpu

#if defined(__x86_64__)
#define POSENC_LEVELS(X) X(baseline) X(avx2) X(avx512)
#else
#define POSENC_LEVELS(X) X(baseline)
#endif

// Calls `function` of the level in use.
#if defined(__x86_64__)
#define POSENC_AT_LEVEL(function, ...)                    \
  switch (::posenc_ext::cpu::level()) {                   \
    case ::posenc_ext::cpu::Level::avx512:                \
      ::posenc_ext::cpu::avx512::function(__VA_ARGS__);   \
      break;                                              \
    case ::posenc_ext::cpu::Level::avx2:                  \
      ::posenc_ext::cpu::avx2::function(__VA_ARGS__);     \
      break;                                              \
    default:                                              \
      ::posenc_ext::cpu::baseline::function(__VA_ARGS__); \
  }
#else
#define POSENC_AT_LEVEL(function, ...) ::posenc_ext::cpu::baseline::function(__VA_ARGS__)
#endif
