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

constexpr size_t kPage = 4096;
constexpr size_t kLargeResult = size_t{4} << 20;

// Whether a variable of the environment has this value.
bool is_set(const char* name, const char* value) {
  const char* found = std::getenv(name);
  return found != nullptr && std::strcmp(found, value) == 0;
}

size_t round_up(size_t address) { return (address + kPage - 1) / kPage * kPage; }

void ask_for_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  static const bool unwanted = is_set("POSENC_THP", "0");
  if (unwanted) return;
  const size_t begin = round_up(reinterpret_cast<size_t>(data));
  const size_t end = (reinterpret_cast<size_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: a refusal changes no result
#endif
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
  const size_t bytes = out.nbytes();
  if (bytes >= kLargeResult && out.is_contiguous()) ask_for_huge_pages(out.mutable_data_ptr(), bytes);
}

bool wants_non_temporal_stores(const at::Tensor& out, size_t share) {
  static const bool never = is_set("POSENC_NT", "0"), always = is_set("POSENC_NT", "1");
  // A tensor from elsewhere may be at an address where cache lines cut elements.
  if (never || reinterpret_cast<size_t>(out.const_data_ptr()) % out.element_size() != 0) return false;
  if (always) return true;
  return out.nbytes() >= core::max_of(kLargeResult, last_cache() / share);
}

}  // namespace posenc_ext::cpu
