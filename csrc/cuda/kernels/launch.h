// How kernels are started, and how much work a grid is cut into.
#pragma once

#include <cuda_runtime.h>

#include "core/host_device.h"

#if defined(__CUDACC__)
// CUDA's own, which its headers hide under NDEBUG.
extern "C" __host__ __device__ void __assert_fail(const char* assertion, const char* file, unsigned line,
                                                  const char* function) noexcept;
#endif

namespace posenc_ext::cuda {

constexpr int kThreads = 256;  // per block
constexpr int kWarp = 32;
constexpr int64_t kBlocksPerMultiprocessor = 8;
// Blocks of kThreads on a multiprocessor of 2048 threads: 64 registers a thread.
constexpr int kHalfResident = 4;

inline int64_t multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return core::max_of(1, count);
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for `units` of work: never more than the device holds at a time, so kernels loop over units.
inline int64_t clamped_grid(int64_t units, int64_t blocks_per_multiprocessor) {
  return core::max_of<int64_t>(1, core::min_of(units, blocks_per_multiprocessor * multiprocessors()));
}

#if defined(__CUDACC__)
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, cudaStream_t stream,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(arguments...);
}

// Ends the kernel and is reported as CUDA's "device-side assert triggered", as torch's own indexing does;
// also under NDEBUG.
#define POSENC_KERNEL_ASSERT(condition) \
  (static_cast<bool>(condition) ? void() : __assert_fail(#condition, __FILE__, __LINE__, __func__))
#else
// Where a host compiler reads this file (tests/cuda_emulation), it says what a launch and an assertion are.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, cudaStream_t stream,
            const Arguments&... arguments);
#endif

}  // namespace posenc_ext::cuda
