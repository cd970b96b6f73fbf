// What the emulated tests share: guarded memory, comparisons, and the list of thread orders and devices each
// case runs on.
#pragma once

#include <cmath>
#include <cstdarg>
#include <utility>
#include <vector>

#include "core/scalar.h"
#include "emulation.h"

namespace check {

using namespace posenc_ext::core;

// `count` elements that end where the allocation ends, so that AddressSanitizer sees the first byte beyond;
// `skip` elements before them shift them off 16-byte boundaries. Unwritten memory holds 0xCD, also in the
// skipped part and in gaps.
template <class T>
class Buffer {
 public:
  Buffer(int64_t count, int64_t skip = 0)
      : bytes_(static_cast<size_t>((count + skip)) * sizeof(T)),
        memory_(static_cast<unsigned char*>(::operator new(bytes_, std::align_val_t{64}))),
        skip_(skip),
        count_(count) {
    std::memset(memory_, 0xCD, bytes_);
  }
  ~Buffer() { ::operator delete(memory_, std::align_val_t{64}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_) + skip_; }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t size() const { return count_; }
  bool guard_is_intact() const {
    return std::all_of(memory_, memory_ + skip_ * sizeof(T), [](unsigned char c) { return c == 0xCD; });
  }

 private:
  size_t bytes_;
  unsigned char* memory_;
  int64_t skip_, count_;
};

// Address space without memory, for strides beyond 2^32.
class SparseMemory {
 public:
  explicit SparseMemory(size_t bytes) : bytes_(bytes) {
    memory_ =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) emulation::fail("no address space for the test of long strides");
  }
  ~SparseMemory() { munmap(memory_, bytes_); }
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;
  template <class T>
  T* as() {
    return static_cast<T*>(memory_);
  }

 private:
  size_t bytes_;
  void* memory_;
};

inline int64_t failures = 0, cases = 0;

inline void report(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("FAILED ", stdout);
  std::vprintf(format, arguments);
  std::fputc('\n', stdout);
  va_end(arguments);
  if (++failures < 10) return;
  std::puts("too many failures, stopped");
  std::fflush(stdout);
  std::_Exit(1);
}

template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
bool is_nan(T x) {
  return std::isnan(to_double(x));
}

// Bit for bit, but that any NaN equals any NaN.
template <class T>
bool same(T a, T b) {
  return same_bits(a, b) || (is_nan(a) && is_nan(b));
}

template <class T>
bool all_same(Buffer<T>& got, Buffer<T>& wanted, const std::string& what) {
  if (!got.guard_is_intact()) {
    report("%s: wrote in front of its result", what.c_str());
    return false;
  }
  for (int64_t i = 0; i < wanted.size(); ++i) {
    if (same(got[i], wanted[i])) continue;
    report("%s: element %lld is %.17g, not %.17g", what.c_str(), static_cast<long long>(i), to_double(got[i]),
           to_double(wanted[i]));
    return false;
  }
  return true;
}

// Every case runs in all thread orders, on a device so small that grids wrap and on one where they do not.
// For ThreadSanitizer, which looks past the order, one in kRaceShare cases, and once.
constexpr int64_t kRaceShare = 6;

template <class F>
void on_all_machines(F f) {
  ++cases;
  int size = static_cast<int>(cases % 2);
  if (emulation::kFindsRaces) {
    emulation::machine().order = emulation::kOrders[cases % 3];
    emulation::machine().multiprocessors = 2;
    if (cases % kRaceShare == 0) f();
    return;
  }
  for (const emulation::Order order : emulation::kOrders) {
    emulation::machine().order = order;
    emulation::machine().multiprocessors = 1 + size++ % 2;
    f();
  }
}

// How many assertions of kernels have failed since the last call.
inline int64_t take_failed_assertions() { return emulation::machine().failed_assertions.exchange(0); }

class Random {
 public:
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal_like() { return (uniform() - 0.5) * std::ldexp(1.0, static_cast<int>(below(6)) - 2); }

 private:
  std::mt19937_64 engine_{20240517};
};

inline const char* name(DType type) {
  switch (type) {
    case DType::float64:
      return "float64";
    case DType::float32:
      return "float32";
    case DType::float16:
      return "float16";
    default:
      return "bfloat16";
  }
}

inline constexpr DType kDTypes[] = {DType::float64, DType::float32, DType::float16, DType::bfloat16};

// --plant=no-barrier|lost-block|dead-shuffle breaks the machine; the tests must then fail.
inline void read_arguments(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    using emulation::Fault;
    if (argument == "--plant=no-barrier") {
      emulation::machine().fault = Fault::no_barrier;
    } else if (argument == "--plant=lost-block") {
      emulation::machine().fault = Fault::lost_block;
    } else if (argument == "--plant=dead-shuffle") {
      emulation::machine().fault = Fault::dead_shuffle;
    } else {
      emulation::fail("unknown argument " + argument);
    }
  }
}

inline int finish(size_t kernels) {
  if (emulation::machine().failed_assertions != 0) report("an assertion of a kernel failed");
  if (emulation::machine().kernels.size() != kernels && !emulation::kFindsRaces) {
    report("%zu of %zu kernels were launched", emulation::machine().kernels.size(), kernels);
  }
  std::printf("%lld cases, %lld blocks, %zu kernels, %lld failures\n", static_cast<long long>(cases),
              static_cast<long long>(emulation::machine().blocks), emulation::machine().kernels.size(),
              static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}

}  // namespace check
