// Runs CUDA kernels on the CPU: g++ compiles the very .cu files of csrc/cuda/kernels against the toolkit's
// real headers, and the words of the language mean what is defined here.
//
// The threads of a block are ucontext fibers. A fiber runs until it waits at __syncthreads, __syncwarp or a
// shuffle; then the next one of the thread order (ascending, descending, shuffled) runs. Blocks run one after
// another, each on a system thread of its own, so that shared memory (thread_local here) starts as zeros and
// never still holds what the block before left there.
//
// What it shows: wrong indices (AddressSanitizer); misaligned vectors and overflowing ints
// (UndefinedBehaviorSanitizer); barriers that not all threads of a block reach (reported); missing barriers
// (a fiber reads what another has not yet written, in one order or the other); data races, also between
// blocks and inside a warp (ThreadSanitizer, for which fibers are threads); wrong results. What it cannot
// show: the memory model (blocks that wait for each other), the GPU's own instructions (the branches of core/
// under __CUDA_ARCH__; its fused multiply-add and conversions round alike by specification), speed, register
// use. Not supported: inline PTX, atomics, dynamic shared memory, cooperative groups, warps that are not
// full, early exit of a thread that other threads of its block still wait for.
#pragma once

#include <cuda_runtime.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::emulation::block().current().index)
#define blockIdx (::emulation::block().seen_index())
#define blockDim (::emulation::block().threads)
#define gridDim (::emulation::block().seen_grid())
#define __ldg(from) (*(from))
#define __stwb(to, value) (*::emulation::stored_at(to) = (value))
#define __syncthreads() ::emulation::block().barrier({__FILE__, __LINE__})
#define __syncwarp(...) ::emulation::block().warp_barrier({__FILE__, __LINE__})
#define __shfl_down_sync(mask, value, offset) \
  ::emulation::block().shuffle(mask, value, [&](int lane) { return lane + (offset); }, {__FILE__, __LINE__})
#define __shfl_xor_sync(mask, value, bits) \
  ::emulation::block().shuffle(mask, value, [&](int lane) { return lane ^ (bits); }, {__FILE__, __LINE__})
#define __shfl_up_sync(mask, value, offset) \
  ::emulation::block().shuffle(mask, value, [&](int lane) { return lane - (offset); }, {__FILE__, __LINE__})
#define __match_any_sync(mask, value) ::emulation::block().match(mask, value, {__FILE__, __LINE__})
#define __popc(bits) __builtin_popcount(bits)
#define POSENC_KERNEL_ASSERT(condition) \
  (static_cast<bool>(condition) ? void() : void(++::emulation::machine().failed_assertions))

namespace emulation {

enum class Order { ascending, descending, shuffled };
inline constexpr Order kOrders[] = {Order::ascending, Order::descending, Order::shuffled};

// Deliberate faults of the machine itself: with one of these the tests of the kernels have to fail.
enum class Fault {
  none,
  no_barrier,         // the one at Machine::missing, or all
  lost_block,         // the last of a grid
  dead_shuffle,       // each lane gets its own value
  off_by_one,         // a grid seems one block larger than it is
  misaligned_vector,  // a vector is stored one byte further
  cut_index,          // the number of a block loses what is beyond 16 bits
};

struct Launched {
  int64_t cases = 0, last = -1;
};

struct Machine {
  int multiprocessors = 1;
  Order order = Order::ascending;
  Fault fault = Fault::none;
  std::string missing;     // file:line of the barrier
  bool ends_only = false;  // of a grid, the first and the last blocks alone are run
  int64_t blocks = 0;
  int64_t this_case = 0;
  std::string dtype;                                                 // of this case
  std::map<std::pair<const void*, std::string>, Launched> launched;  // by kernel and dtype
  std::set<std::string> barriers;                                    // that were met
  std::atomic<int64_t> failed_assertions = 0;  // counted, and the kernel goes on: the rest must be harmless
};

// ThreadSanitizer is told what orders the threads of a grid: start and end of the launch, and the barriers.
// Everything else that two of them do to one address, one of them writing, is reported as a data race, in
// whatever order it happened to run; also across blocks.
#if defined(__SANITIZE_THREAD__)
constexpr bool kFindsRaces = true;
inline void happens_before(void* what) { __tsan_release(what); }
inline void happens_after(void* what) { __tsan_acquire(what); }
inline void* new_fiber() { return __tsan_create_fiber(0); }
inline void* this_fiber() { return __tsan_get_current_fiber(); }
__attribute__((always_inline)) inline void become(void* fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
// What the scheduler does is no access of the kernel's.
struct Unseen {
  Unseen() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};
#else
constexpr bool kFindsRaces = false;
inline void happens_before(void*) {}
inline void happens_after(void*) {}
inline void* new_fiber() { return nullptr; }
inline void* this_fiber() { return nullptr; }
inline void become(void*) {}
struct Unseen {
  Unseen() {}
};
#endif

inline Machine& machine() {
  static Machine value;
  return value;
}

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "emulation: %s\n", what.c_str());
  std::fflush(stderr);
  std::_Exit(3);
}

struct Site {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
  std::string short_text() const { return text().substr(text().rfind('/') + 1); }
};

constexpr int kWarpSize = 32;
// AddressSanitizer clears its shadow at every switch: small is fast. ThreadSanitizer needs more.
constexpr size_t kStackBytes = (kFindsRaces ? 64 : 32) * 1024;
constexpr size_t kGuardBytes = (kFindsRaces ? 4 : 64) * 1024;

enum class State { ready, at_barrier, at_warp, done };

struct Thread {
  uint3 index{};
  State state = State::ready;
  Site site;
  ucontext_t context{};  // to enter the fiber by
  void* place[5] = {};   // to return to it by
  bool entered = false;
  void* stack = nullptr;
  void* fake_stack = nullptr;
  void* fiber = nullptr;  // ThreadSanitizer's
  // What a lane shows to its warp, by turns: the next exchange must not overwrite what others have yet to
  // read.
  unsigned char shown[2][8] = {};
  int exchanges = 0;
  int waits[2] = {};  // at barriers of the block, of the warp
};

class Block {
 public:
  dim3 grid, threads;
  uint3 index{};

  Thread& current() { return pool_[running_]; }

  // As the kernel sees them.
  dim3 seen_grid() const { return machine().fault == Fault::off_by_one ? dim3(grid.x + 1) : grid; }
  uint3 seen_index() const {
    return machine().fault == Fault::cut_index ? uint3{index.x & 0xffffu, 0, 0} : index;
  }

  void barrier(Site site) {
    if (machine().fault == Fault::no_barrier &&
        (machine().missing.empty() || machine().missing == site.short_text()))
      return;
    wait(State::at_barrier, site);
  }

  void warp_barrier(Site site) { wait(State::at_warp, site); }

  template <class T, class Source>
  T shuffle(unsigned mask, T value, Source source, Site site) {
    static_assert(sizeof(T) <= sizeof(Thread::shown[0]));
    if (mask != 0xffffffffu) fail("a shuffle that is not for the whole warp at " + site.text());
    const Unseen unseen;
    Thread& self = current();
    const int turn = self.exchanges++ % 2;
    std::memcpy(self.shown[turn], &value, sizeof(T));
    wait(State::at_warp, site);
    const int lane = running_ % kWarpSize, from = source(lane);
    if (from < 0 || from >= kWarpSize || machine().fault == Fault::dead_shuffle) return value;
    T result;
    std::memcpy(&result, pool_[running_ - lane + from].shown[turn], sizeof(T));
    return result;
  }

  // The lanes of the warp that hold the same value.
  template <class T>
  unsigned match(unsigned mask, T value, Site site) {
    shuffle(mask, value, [](int lane) { return lane; }, site);
    const Unseen unseen;
    const Thread& self = current();
    const int turn = (self.exchanges - 1) % 2, first = running_ / kWarpSize * kWarpSize;
    unsigned same = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (std::memcmp(pool_[first + lane].shown[turn], self.shown[turn], sizeof(T)) == 0) same |= 1u << lane;
    }
    return machine().fault == Fault::dead_shuffle ? 1u << (running_ % kWarpSize) : same;
  }

  // Runs `body` once per thread.
  void run(const std::function<void()>& body) {
    const int count = static_cast<int>(threads.x * threads.y * threads.z);
    const Unseen unseen;
    body_ = &body;
    prepare(count);
    for (;;) {
      for (int n = 0; n < count; ++n) {
        if (pool_[order_[n]].state == State::ready) switch_to(order_[n]);
      }
      if (std::all_of(pool_, pool_ + count, [](const Thread& t) { return t.state == State::done; })) return;
      const bool warps = release_warps(count), all = release(0, count, State::at_barrier);
      if (!warps && !all) report(count);
    }
  }

 private:
  static constexpr int kMaxThreads = 1024;
  static constexpr size_t kSlotBytes = kGuardBytes + kStackBytes;
  Thread pool_[kMaxThreads];
  int order_[kMaxThreads] = {};
  void* scheduler_[5] = {};
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  const std::function<void()>* body_ = nullptr;
  int running_ = 0;
  Site last_barrier_;
  // Two of each for ThreadSanitizer, by turns of the blocks: what neighbouring blocks do is in no order. One
  // and the same fiber on one stack for every other block, for it takes long to make them.
  struct Place {
    void *stack = nullptr, *fiber = nullptr;
  };
  Place places_[2][kMaxThreads];
  char meetings_[2][16 * (1 + kMaxThreads / kWarpSize)] = {};
  int turn_ = 0;
  void* scheduler_fiber_ = nullptr;
  std::mt19937 random_{1};

  void prepare(int count) {
    if (count % kWarpSize != 0 || count > kMaxThreads)
      fail("a block of " + std::to_string(count) + " threads");
    if (kFindsRaces) turn_ = 1 - turn_;
    for (int i = 0; i < count; ++i) {
      Place& place = places_[turn_][i];
      if (place.stack == nullptr) {
        void* slot = mmap(nullptr, kSlotBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (slot == MAP_FAILED) fail("no memory for fibers");
        place = {static_cast<char*>(slot) + kGuardBytes, new_fiber()};
        if (mprotect(place.stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) fail("no memory for fibers");
      }
      pool_[i].stack = place.stack;
      pool_[i].fiber = place.fiber;
    }
    for (int i = 0; i < count; ++i) {
      Thread& t = pool_[i];
      const unsigned n = static_cast<unsigned>(i);
      t.index = {n % threads.x, n / threads.x % threads.y, n / threads.x / threads.y};
      t.state = State::ready;
      t.exchanges = t.waits[0] = t.waits[1] = 0;
      t.entered = false;
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack;
      t.context.uc_stack.ss_size = kStackBytes;
      t.context.uc_link = nullptr;
      makecontext(&t.context, &Block::entry, 0);
    }
    scheduler_fiber_ = this_fiber();
    happens_before(&turn_);
    std::iota(order_, order_ + count, 0);
    if (machine().order == Order::descending) std::reverse(order_, order_ + count);
    if (machine().order == Order::shuffled) std::shuffle(order_, order_ + count, random_);
  }

  void start() { happens_after(&turn_); }  // after all that the host did before the launch

  static void entry();

  // A fiber is entered by setcontext; from then on the compiler's setjmp and longjmp switch without a system
  // call.
  __attribute__((noinline, no_sanitize("address", "thread"))) void switch_to(int i) {
    running_ = i;
    Thread& t = pool_[i];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack_, t.stack, kStackBytes);
#endif
    if (__builtin_setjmp(scheduler_) == 0) {
      become(t.fiber);
      if (t.entered) __builtin_longjmp(t.place, 1);
      t.entered = true;
      setcontext(&t.context);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
  }

  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(current().fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  __attribute__((noinline, no_sanitize("address", "thread"))) void leave([[maybe_unused]] bool for_good) {
    Thread& self = current();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &self.fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
#endif
    if (__builtin_setjmp(self.place) == 0) {
      become(scheduler_fiber_);
      __builtin_longjmp(scheduler_, 1);
    }
    enter();
  }

  void wait(State state, Site site) {
    const Unseen unseen;
    current().state = state;
    current().site = site;
    // Of the block or the warp, by turns: who is at the next one already must not seem to be at this one.
    const int who = state == State::at_warp ? 1 + running_ / kWarpSize : 0;
    void* const meeting = meetings_[turn_] + 16 * who + 8 * (current().waits[who > 0]++ % 2);
    happens_before(meeting);
    leave(false);
    happens_after(meeting);
  }

  // Lets the threads [first, last) go on, if all of them wait in this state at the same place.
  bool release(int first, int last, State state) {
    for (int i = first; i < last; ++i) {
      if (pool_[i].state != state || !(pool_[i].site == pool_[first].site)) return false;
    }
    if (state == State::at_barrier && !(last_barrier_ == pool_[first].site)) {
      last_barrier_ = pool_[first].site;
      machine().barriers.insert(last_barrier_.short_text());
    }
    for (int i = first; i < last; ++i) pool_[i].state = State::ready;
    return true;
  }

  bool release_warps(int count) {
    bool any = false;
    for (int first = 0; first < count; first += kWarpSize)
      any |= release(first, first + kWarpSize, State::at_warp);
    return any;
  }

  [[noreturn]] void report(int count) {
    std::string text = "threads wait for each other forever:";
    for (int i = 0; i < count; ++i) {
      const auto same = [&](int j) {
        return pool_[j].state == pool_[i].state &&
               (pool_[i].state == State::done || pool_[j].site == pool_[i].site);
      };
      if (i > 0 && same(i - 1)) continue;
      text += "\n  thread " + std::to_string(i) + " on: ";
      text += pool_[i].state == State::done         ? "finished"
              : pool_[i].state == State::at_barrier ? "block barrier at " + pool_[i].site.text()
                                                    : "warp exchange at " + pool_[i].site.text();
    }
    fail(text);
  }
};

inline Block& block() {
  static Block value;
  return value;
}

inline void Block::entry() {
  Block& b = block();
  b.enter();
  b.start();
  (*b.body_)();
  happens_before(&machine());
  {
    const Unseen unseen;
    b.current().state = State::done;
  }
  b.leave(true);
}

// kernel<<<blocks, threads>>>(arguments...)
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, const Arguments&... arguments) {
  const Unseen unseen;
  Block& b = block();
  b.grid = dim3(static_cast<unsigned>(blocks));
  b.threads = threads;
  Launched& own = machine().launched[{reinterpret_cast<const void*>(kernel), machine().dtype}];
  if (own.last != machine().this_case) ++own.cases;
  own.last = machine().this_case;
  const std::function<void()> body = [&] { kernel(arguments...); };
  const int64_t run = machine().fault == Fault::lost_block ? blocks - 1 : blocks;
  for (int64_t i = 0; i < run; ++i) {
    if (machine().ends_only && i == 1) i = std::max<int64_t>(i, blocks - 2);
    b.index = {static_cast<unsigned>(i), 0, 0};
    std::thread([&] { b.run(body); }).join();
    ++machine().blocks;
  }
  happens_after(&machine());
}

// Where a vector is stored.
template <class T>
T* stored_at(T* to) {
  const bool shifted = machine().fault == Fault::misaligned_vector;
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(to) + (shifted ? 1 : 0));
}

}  // namespace emulation

// What the launch code asks the CUDA runtime.
extern "C" inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

extern "C" inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::machine().multiprocessors;
  return cudaSuccess;
}

#include "cuda/kernels/launch.h"

namespace posenc_ext::cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, cudaStream_t,
            const Arguments&... arguments) {
  emulation::launch(kernel, blocks, threads, arguments...);
}

}  // namespace posenc_ext::cuda
