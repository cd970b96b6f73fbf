// A relative-position bias gives rows to a consumer, and its adjoint takes rows from a producer.
//
// A source, made for a scheme, has
//   kMaxQueries                          the most queries that it serves at a time
//   set_head(head)                       before its rows
//   for_each_row(first, last, f)         calls f(row) for each query of [first, last), in order; `row` points
//                                        to the values of its keys until the next call
// A sum, its adjoint, has
//   parts(scheme)                        how many parts the queries are grouped into
//   begin(sums)                          before the rows of a head: `sums` of the table's rows are zero
//   add(grad, first, last)               adds the rows of the parts [first, last)
//   finish()                             after the last of them
#pragma once

#include "args/relative_bias.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// A thread's own memory during a call; small calls allocate nothing.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : large_(count > kSmall ? new T[static_cast<size_t>(count)] : nullptr),
        data_(large_ ? large_ : small_) {}
  ~Scratch() { delete[] large_; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }

 private:
  static constexpr int64_t kSmall = 32768 / sizeof(T);
  alignas(64) T small_[kSmall];
  T* large_;
  T* data_;
};

// Shorter rows are written without non-temporal stores.
constexpr int64_t kMinStreamBytes = 256;

// The rows of the items [begin, end), each a query of a head, to a contiguous result.
template <class T, class Source, class Scheme>
inline void copy_rows(const Scheme& scheme, const BiasForward& a, bool non_temporal, int64_t begin,
                      int64_t end) {
  const int64_t queries = scheme.queries(), keys = scheme.keys();
  const bool stream = non_temporal && keys * static_cast<int64_t>(sizeof(T)) >= kMinStreamBytes;
  Source source(scheme, a);
  T* to = static_cast<T*>(a.out) + begin * keys;
  const auto copy = [&](const T* row) {
    if (stream) {
      stream_row(to, row, keys);
    } else {
      copy_row(to, row, keys);
    }
    to += keys;
  };
  while (begin < end) {
    const int64_t head = begin / queries, first = begin - head * queries;
    const int64_t count = min_of(min_of(end - begin, queries - first), Source::kMaxQueries);
    source.set_head(head);
    if constexpr (requires { source.fill(first, first + 1, to); }) {
      if (count == 1) {  // T5 decode k=4096: 2.4 us, 3.4 us through a strip
        source.fill(first, first + 1, to);
        to += keys, ++begin;
        continue;
      }
    }
    source.for_each_row(first, first + count, copy);
    begin += count;
  }
  if (stream) finish_streams();
}

// The rows of queries are slices of one strip where they depend on key - query alone. `Strip` writes that of
// a head: fill(first, last, to), where query q begins at place last - 1 - q.
template <class T, class Strip>
struct StripSource : Strip {
  static constexpr int64_t kMaxQueries = 512;  // few enough for the strip to stay in the caches
  Scratch<T> strip;

  template <class Scheme>
  StripSource(const Scheme& scheme, const BiasForward& a)
      : Strip{scheme, a, nullptr}, strip(min_of(kMaxQueries, scheme.queries()) - 1 + scheme.keys()) {}

  template <class F>
  void for_each_row(int64_t first, int64_t last, F f) {
    Strip::fill(first, last, strip.data());
    for (int64_t query = first; query < last; ++query) f(strip.data() + (last - 1 - query));
  }
};

// Rows of a gradient are read this far ahead, beyond the page where the hardware stops.
template <class T>
constexpr int64_t kAhead = 4096 / sizeof(T);

// sums[i] += grad[i * stride]
template <class T, class Sum>
inline void add_row(const T* __restrict grad, int64_t stride, int64_t count, Sum* __restrict sums) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + 16 <= count; i += 16) {
      __builtin_prefetch(grad + i + kAhead<T>);
      store(sums + i, load<16>(sums + i) + widen(load<16>(grad + i)));
    }
    for (; i + 8 <= count; i += 8) store(sums + i, load<8>(sums + i) + widen(load<8>(grad + i)));
  }
  for (; i < count; ++i) sums[i] += widen(grad[i * stride]);
}

// An item is a block of the parts of a head. Blocks are split by size, never by thread count.
template <class T, class Adjoint, class Scheme>
inline void sum_rows(const Scheme& scheme, const BiasBackward& a, const Chunks& blocks, int64_t begin,
                     int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), parts = Adjoint::parts(scheme);
  Adjoint adjoint(scheme, a);
  Scratch<Sum> scratch(rows);
  Sum* sums = scratch.data();
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / blocks.count, first = item % blocks.count * blocks.size;
    for (int64_t row = 0; row < rows; ++row) sums[row] = Sum(0);
    adjoint.begin(sums);
    for (int64_t sample = 0; sample < a.batch; ++sample) {
      const T* grad = static_cast<const T*>(a.grad) + sample * a.batch_stride + head * a.head_stride;
      adjoint.add(grad, first, min_of(parts, first + blocks.size));
    }
    adjoint.finish();
    if (blocks.count > 1) {
      memcpy(static_cast<Sum*>(a.partial) + item * rows, sums, static_cast<size_t>(rows) * sizeof(Sum));
    } else {
      T* out = static_cast<T*>(a.out) + head;
      for (int64_t row = 0; row < rows; ++row) out[row * a.heads] = round_to<T>(sums[row]);
    }
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
