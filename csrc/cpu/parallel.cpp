#include "cpu/parallel.h"

#include <ATen/Parallel.h>
#include <c10/util/ParallelGuard.h>

#include <atomic>
#include <cstdlib>
#include <exception>

// The calls that g++ makes of "omp parallel", into the OpenMP run-time that torch has loaded.
extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);
int omp_get_num_threads() noexcept;
int omp_get_thread_num() noexcept;
}

namespace posenc_ext::cpu {
namespace {

struct Region {
  int64_t items, grain;
  c10::function_ref<void(int64_t, int64_t)> f;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error = nullptr;

  void run(int thread, int64_t begin, int64_t end) const {
    const at::internal::ThreadIdGuard id(thread);
    const c10::ParallelGuard in_parallel(true);
    f(begin, end);
  }
};

// A thread's share of a region.
void run_share(void* data) {
  Region& region = *static_cast<Region*>(data);
  const int thread = omp_get_thread_num();
  const int64_t shares = core::min_of<int64_t>(omp_get_num_threads(), at::divup(region.items, region.grain));
  const int64_t share = at::divup(region.items, shares), begin = thread * share;
  if (begin >= region.items) return;
  try {
    region.run(thread, begin, core::min_of(region.items, begin + share));
  } catch (...) {
    if (!region.failed.test_and_set()) region.error = std::current_exception();
  }
}

}  // namespace

int64_t grain_bytes() {
  static const int64_t bytes = [] {
    const char* kib = std::getenv("POSENC_GRAIN_KIB");
    const int64_t wanted = kib == nullptr ? 0 : std::strtoll(kib, nullptr, 10);
    return (wanted > 0 ? core::min_of<int64_t>(wanted, 1 << 30) : 256) << 10;
  }();
  return bytes;
}

void parallel_ranges(int64_t items, int64_t grain, c10::function_ref<void(int64_t, int64_t)> f) {
  if (items <= 0) return;
  at::internal::lazy_init_num_threads();
  Region region{items, grain, f};
  if (items <= grain || at::in_parallel_region() || at::get_num_threads() == 1)
    return region.run(0, 0, items);
  GOMP_parallel(run_share, &region, 0, 0);
  if (region.error) std::rethrow_exception(region.error);
}

}  // namespace posenc_ext::cpu
