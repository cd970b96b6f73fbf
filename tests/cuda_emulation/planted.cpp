// A small kernel with one fault at a time, each of which the emulation has to catch: planted NAME.
#include <map>

#include "check.h"

#include "cuda/kernels/vector.cuh"

namespace {

using namespace posenc_ext;

enum class Bug {
  none,
  missing_barrier,
  divergent_barrier,
  off_by_one,
  beyond_the_end,
  beyond_shared,
  misaligned_vector,
  overflowing_int,
  two_blocks_one_element
};

// Reverses each stretch of 256 elements, by way of shared memory, four elements at a time.
template <Bug kBug>
__global__ void reverse_kernel(const float* x, float* out, int64_t count) {
  __shared__ float stretch[256];
  const int thread = static_cast<int>(threadIdx.x);
  int64_t first = blockIdx.x * int64_t{256};
  if constexpr (kBug == Bug::overflowing_int) {  // the same number, by way of 2^31 in block 1
    first = (static_cast<int>(blockIdx.x) + 0x7fffff) * 256 - int64_t{0x7fffff} * 256;
  }
  for (int i = thread; i < 256 + (kBug == Bug::beyond_shared); i += 64) {
    stretch[i] = first + i < count ? x[first + i] : 0.0f;
  }
  if constexpr (kBug == Bug::divergent_barrier) {
    if (thread < 32) __syncthreads();
  } else if constexpr (kBug != Bug::missing_barrier) {
    __syncthreads();
  }
  cuda::Pack<float> pack;
  for (int n = 0; n < 4; ++n)
    pack.value[n] = stretch[(255 + (kBug == Bug::off_by_one) - (4 * thread + n)) % 256];
  const int64_t at = first + 4 * thread + (kBug == Bug::misaligned_vector);
  if (at + 4 <= count + (kBug == Bug::beyond_the_end ? 4 : 0)) pack.store(out + at);
  if (kBug == Bug::two_blocks_one_element && thread == 0) out[0] = x[255];  // the right value, twice
}

template <Bug kBug>
int run() {
  constexpr int64_t kCount = 512;
  check::Buffer<float> x(kCount), out(kBug == Bug::beyond_the_end ? kCount - 4 : kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<float>(i);
  const int64_t count = kBug == Bug::beyond_the_end ? kCount - 4 : kCount;
  for (const emulation::Order order : emulation::kOrders) {
    emulation::machine().order = order;
    cuda::launch(reverse_kernel<kBug>, 2, 64, nullptr, x.data(), out.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      if (out[i] != x[i / 256 * 256 + 255 - i % 256])
        check::report("element %d is wrong", static_cast<int>(i));
    }
  }
  return check::failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, int (*)()> bugs = {{"none", run<Bug::none>},
                                                 {"missing-barrier", run<Bug::missing_barrier>},
                                                 {"divergent-barrier", run<Bug::divergent_barrier>},
                                                 {"beyond-the-end", run<Bug::beyond_the_end>},
                                                 {"beyond-shared", run<Bug::beyond_shared>},
                                                 {"off-by-one", run<Bug::off_by_one>},
                                                 {"overflowing-int", run<Bug::overflowing_int>},
                                                 {"two-blocks-one-element", run<Bug::two_blocks_one_element>},
                                                 {"misaligned-vector", run<Bug::misaligned_vector>}};
  const auto found = bugs.find(argc > 1 ? argv[1] : "");
  if (found == bugs.end()) emulation::fail("which bug?");
  return found->second();
}
