#include "cpu/parallel.h"

#include <cstdlib>

namespace posenc_ext::cpu {

int64_t grain_bytes() {
  static const int64_t bytes = [] {
    const char* kib = std::getenv("POSENC_GRAIN_KIB");
    const int64_t wanted = kib == nullptr ? 0 : std::strtoll(kib, nullptr, 10);
    return (wanted > 0 ? core::min_of<int64_t>(wanted, 1 << 30) : 256) << 10;
  }();
  return bytes;
}

}  // namespace posenc_ext::cpu
