// CPU levels: every kernel is compiled once per level, and the best one that the machine has is called.
#pragma once

namespace posenc_ext::cpu {

enum class Level { baseline, avx2, avx512 };

// The level in use: the machine's best, or POSENC_CPU_ISA (baseline, avx2, avx512) where the machine has
// that. Read once.
Level level();
const char* level_name();

}  // namespace posenc_ext::cpu
