// Prints what cuda_occupancy.h, the toolkit's calculator, says of many kernels: a line of
// arch, threads of a multiprocessor, registers, bytes of shared memory, threads of a block, blocks resident.
#include <cuda_occupancy.h>

#include <climits>
#include <cstdio>
#include <initializer_list>

namespace {

struct Arch {
  int major, minor, threads;
  size_t shared, shared_block, shared_optin, reserved;
};

constexpr Arch kArchs[] = {
    {7, 5, 1024, 65536, 49152, 65536, 0},       {8, 0, 2048, 167936, 49152, 166912, 1024},
    {8, 6, 1536, 102400, 49152, 101376, 1024},  {9, 0, 2048, 233472, 49152, 232448, 1024},
    {10, 0, 2048, 233472, 49152, 232448, 1024}, {12, 0, 1536, 102400, 49152, 101376, 1024},
};

}  // namespace

int main() {
  for (const Arch& arch : kArchs) {
    cudaOccDeviceProp device;
    device.computeMajor = arch.major;
    device.computeMinor = arch.minor;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = arch.threads;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = arch.shared_block;
    device.sharedMemPerMultiprocessor = arch.shared;
    device.numSms = 1;
    device.sharedMemPerBlockOptin = arch.shared_optin;
    device.reservedSharedMemPerBlock = arch.reserved;
    for (int registers = 16; registers <= 255; ++registers) {
      for (const int block : {32, 64, 128, 192, 256, 512, 1024}) {
        if (registers * block > 65536) continue;
        for (const size_t shared : {0, 1, 768, 8192, 11000, 24576, 49152}) {
          cudaOccFuncAttributes kernel{};
          kernel.maxThreadsPerBlock = INT_MAX;
          kernel.numRegs = registers;
          kernel.sharedSizeBytes = shared;
          cudaOccDeviceState state{};
          state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
          cudaOccResult result{};
          if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, block, 0) !=
              CUDA_OCC_SUCCESS) {
            std::fprintf(stderr, "no answer\n");
            return 1;
          }
          std::printf("%d %d %d %zu %d %d\n", 10 * arch.major + arch.minor, arch.threads, registers, shared,
                      block, result.activeBlocksPerMultiprocessor);
        }
      }
    }
  }
}
