#include "cpu/memory.h"

#include <ATen/EmptyTensor.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "core/host_device.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace posenc_ext::cpu {
namespace {

constexpr size_t kLargeResult = size_t{4} << 20;

// Whether a variable of the environment has this value.
bool is_set(const char* name, const char* value) {
  const char* found = std::getenv(name);
  return found != nullptr && std::strcmp(found, value) == 0;
}

// Bytes of one last-level cache. From sysfs: sysconf sums up all caches of some machines.
size_t last_cache() {
  static const size_t bytes = [] {
    size_t kilobytes = 0;
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kilobytes;
    return kilobytes != 0 ? kilobytes << 10 : size_t{32} << 20;
  }();
  return bytes;
}

}  // namespace

at::Tensor new_result(at::IntArrayRef sizes, at::ScalarType type) {
  at::Tensor out = at::detail::empty_cpu(sizes, type);
  prepare_result(out);
  return out;
}

void prepare_result(const at::Tensor& out) {
#if defined(__linux__)
  static const bool unwanted = is_set("POSENC_THP", "0");
  if (unwanted || out.nbytes() < kLargeResult || !out.is_contiguous()) return;
  constexpr size_t kPage = 4096;
  const size_t begin = reinterpret_cast<size_t>(out.mutable_data_ptr());
  const size_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + out.nbytes()) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a refusal changes no result
#endif
}

bool wants_non_temporal_stores(const at::Tensor& out, size_t share) {
  static const bool never = is_set("POSENC_NT", "0"), always = is_set("POSENC_NT", "1");
  // In memory from elsewhere an element may cross the boundary of a cache line.
  if (never || reinterpret_cast<size_t>(out.const_data_ptr()) % out.element_size() != 0) return false;
  return always || out.nbytes() >= core::max_of(kLargeResult, last_cache() / share);
}

}  // namespace posenc_ext::cpu
