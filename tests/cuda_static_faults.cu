// Kernels with one fault each in their machine code, which tools/cuda_static.py has to name. Compiled, never
// run.
#include <cstdint>

constexpr int kThreads = 256;

// An array whose index is known only at run time lies in local memory.
__global__ void __launch_bounds__(kThreads) stack_kernel(const float* x, const int* index, float* out) {
  float own[32];
  for (int i = 0; i < 32; ++i) own[index[i]] = x[threadIdx.x + i];
  out[threadIdx.x] = own[index[threadIdx.x]];
}

// More values at a time than the registers of so many blocks hold.
template <int kValues>
__device__ __forceinline__ void keep_many(const float* x, float* out) {
  float own[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) own[i] = x[threadIdx.x + i * kThreads];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i) out[threadIdx.x + i * kThreads] = own[i] * own[(i + 1) % kValues];
}
__global__ void __launch_bounds__(kThreads, 4) spilling_kernel(const float* x, float* out) {
  keep_many<128>(x, out);
}
__global__ void __launch_bounds__(kThreads, 1) greedy_kernel(const float* x, float* out) {
  keep_many<128>(x, out);
}

__global__ void __launch_bounds__(kThreads) float_atomic_kernel(const float* x, float* out) {
  atomicAdd(out, x[threadIdx.x]);
}
__global__ void __launch_bounds__(kThreads) shared_float_atomic_kernel(const double* x, double* out) {
  __shared__ double sum;
  if (threadIdx.x == 0) sum = 0.0;
  __syncthreads();
  atomicAdd(&sum, x[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) *out = sum;
}
__global__ void __launch_bounds__(kThreads) counting_kernel(const int* x, int* out) {
  atomicAdd(out + x[threadIdx.x], 1);
}

// A vector moved element by element, on either side.
__global__ void __launch_bounds__(kThreads) scalar_store_kernel(const float4* x, float* out) {
  const float4 whole = x[threadIdx.x];
  volatile float* to = out + 4 * threadIdx.x;
  to[0] = whole.x;
  to[1] = whole.y;
  to[2] = whole.z;
  to[3] = whole.w;
}
__global__ void __launch_bounds__(kThreads) scalar_load_kernel(const float* x, float4* out) {
  const volatile float* from = x + 4 * threadIdx.x;
  out[threadIdx.x] = make_float4(from[0], from[1], from[2], from[3]);
}

// More shared memory than lets half of the threads be resident.
__global__ void __launch_bounds__(kThreads / 2) wide_shared_kernel(const float* x, float* out) {
  __shared__ float all[11 * 1024];
  for (int i = threadIdx.x; i < 11 * 1024; i += kThreads / 2) all[i] = x[i];
  __syncthreads();
  out[threadIdx.x] = all[11 * 1024 - 1 - threadIdx.x];
}

__global__ void unbounded_kernel(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x]; }

// Nothing wrong here: 16 bytes each way.
__global__ void __launch_bounds__(kThreads) faultless_kernel(const float4* x, float4* out, int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) out[i] = x[i];
}
