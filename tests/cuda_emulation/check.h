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
  if (++failures < 10 && emulation::machine().fault == emulation::Fault::none) return;
  std::puts("stopped");
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

template <class T>
double ulp(double x) {
  constexpr int kDigits = sizeof(T) == 8 ? 53 : sizeof(T) == 4 ? 24 : std::is_same_v<T, Half> ? 11 : 8;
  constexpr int kSmallest = sizeof(T) == 8            ? -1074
                            : sizeof(T) == 4          ? -149
                            : std::is_same_v<T, Half> ? -24
                                                      : -133;
  return std::ldexp(1.0, x == 0.0 ? kSmallest : max_of(std::ilogb(x) + 1 - kDigits, kSmallest));
}

// The right bits, or within so many ulp, and `slack`, of the value before rounding.
template <class T>
void all_near(Buffer<T>& got, Buffer<T>& wanted, Buffer<double>& exact, double ulps,
              const std::function<double(int64_t)>& slack, const std::string& what) {
  if (!got.guard_is_intact()) return report("%s: wrote in front of its result", what.c_str());
  for (int64_t i = 0; i < wanted.size(); ++i) {
    if (same(got[i], wanted[i])) continue;
    const double value = to_double(got[i]), error = std::fabs(value - exact[i]);
    if (std::fabs(exact[i]) < HUGE_VAL && error <= ulps * ulp<T>(exact[i]) + slack(i)) continue;
    return report("%s: element %lld is %.17g, not %.17g", what.c_str(), static_cast<long long>(i), value,
                  exact[i]);
  }
}

// Every case runs in all thread orders, on a device so small that grids wrap and on one where they do not.
// For ThreadSanitizer, which looks past the order, one in kRaceShare cases, and once.
constexpr int64_t kRaceShare = 6;

template <class F>
void on_all_machines(const char* dtype, F f) {
  emulation::machine().this_case = ++cases;
  emulation::machine().dtype = dtype;
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

// The dtypes whose bits a gather of so many bytes copies.
inline const char* dtype_of_size(size_t bytes) {
  return bytes == 8 ? "float64" : bytes == 4 ? "float32" : "float16, bfloat16";
}

// A type of this size: kernels that copy bits look at no more.
inline DType type_of_size(size_t bytes) {
  return bytes == 8 ? DType::float64 : bytes == 4 ? DType::float32 : DType::float16;
}

template <class T>
constexpr DType kTypeOf = std::is_same_v<T, double>  ? DType::float64
                          : std::is_same_v<T, float> ? DType::float32
                          : std::is_same_v<T, Half>  ? DType::float16
                                                     : DType::bfloat16;

// Counts beyond 2^31: of a grid as large as the work, which no device holds at a time, the first block and
// the last two are run.
template <class F>
void on_the_ends_of_a_large_grid(const char* dtype, F f, int multiprocessors = 1 << 28) {
  emulation::machine().this_case = ++cases;
  emulation::machine().dtype = dtype;
  emulation::machine().multiprocessors = multiprocessors;
  emulation::machine().ends_only = true;
  f();
  emulation::machine().ends_only = false;
}

// --plant=FAULT breaks the machine; the tests must then fail. --plant=no-barrier:FILE:LINE drops that one.
inline void read_arguments(int argc, char** argv) {
  using emulation::Fault;
  const std::map<std::string, Fault> faults = {{"no-barrier", Fault::no_barrier},
                                               {"lost-block", Fault::lost_block},
                                               {"dead-shuffle", Fault::dead_shuffle},
                                               {"off-by-one", Fault::off_by_one},
                                               {"misaligned-vector", Fault::misaligned_vector},
                                               {"cut-index", Fault::cut_index}};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i], prefix = "--plant=";
    const size_t colon = argument.find(':');
    const auto found =
        faults.find(argument.substr(0, colon).substr(std::min(prefix.size(), argument.size())));
    if (argument.rfind(prefix, 0) != 0 || found == faults.end())
      emulation::fail("unknown argument " + argument);
    emulation::machine().fault = found->second;
    if (colon != std::string::npos) emulation::machine().missing = argument.substr(colon + 1);
  }
}

// Prints what was run: kernels as their addresses less that of read_arguments, whose names the symbol table
// tells.
inline int finish() {
  if (emulation::machine().failed_assertions != 0) report("an assertion of a kernel failed");
  for (const auto& [key, launched] : emulation::machine().launched) {
    std::printf("kernel %lld %lld %s\n",
                static_cast<long long>(reinterpret_cast<intptr_t>(key.first) -
                                       reinterpret_cast<intptr_t>(&read_arguments)),
                static_cast<long long>(launched.cases), key.second.c_str());
  }
  for (const std::string& site : emulation::machine().barriers) std::printf("barrier %s\n", site.c_str());
  std::printf("%lld cases, %lld blocks, %lld failures\n", static_cast<long long>(cases),
              static_cast<long long>(emulation::machine().blocks), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}

}  // namespace check
