#include "cpu/kernels/kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace posenc_ext::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // clang++ before 17 has no __builtin_cpu_supports("f16c").
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Level::avx512;
  if (avx2) return Level::avx2;
#endif
  return Level::baseline;
}

Level chosen_level() {
  const Level best = best_level();
  const char* wanted = std::getenv("POSENC_CPU_ISA");
  if (wanted == nullptr) return best;
  for (int i = 0; i <= static_cast<int>(best); ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return static_cast<Level>(i);
  }
  std::fprintf(
      stderr,
      "posenc_ext: POSENC_CPU_ISA must be a level of this machine, baseline to %s, got %s: using %s\n",
      kNames[static_cast<int>(best)], wanted, kNames[static_cast<int>(best)]);
  return best;
}

}  // namespace

Level level() {
  static const Level value = chosen_level();
  return value;
}

const Kernels& kernels() {
#if defined(__x86_64__)
  if (level() == Level::avx512) return avx512::kKernels;
  if (level() == Level::avx2) return avx2::kKernels;
#endif
  return baseline::kKernels;
}

const char* level_name() { return kNames[static_cast<int>(level())]; }

}  // namespace posenc_ext::cpu
