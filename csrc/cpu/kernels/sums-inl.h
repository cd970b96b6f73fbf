// Whole lines of up to four rows at a time that share what is added to them.
#pragma once

#include "core/near_sum.h"
#include "core/position_embedding.h"
#include "cpu/kernels/dropout-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr int kGroup = 4;  // rows

// A sum makes a line from one of x and what `shared` gives of the addend's, for all rows of a group. With
// dropout it is to be scaled like what is kept. One that is near has `near_line`, which says whether its line
// is that of `exact_line`.
template <class Sum>
constexpr bool kIsNear = requires { &Sum::near_line; };

// x * x_scale + addend in doubles, rounded once.
template <class T, class A>
struct ScaledSum {
  using Addend = const A*;
  Doubles x_scale, kept_scale;

  ScaledSum(double x_scale, const SeededDropout& d)
      : x_scale(all_of(x_scale)), kept_scale(all_of(d.dropout.scale)) {}

  struct Shared {
    Doubles addend[kLineOctets<T>];
  };

  Shared shared(const A* addend) const {
    Shared s;
    for (int64_t i = 0; i < kLineOctets<T>; ++i) s.addend[i] = to_double(Octet<A>::load(addend + i * kOctet));
    return s;
  }
  // What the sum asks of `count` addends, whole lines; there is room for as many doubles.
  const A* prepared(const A* addends, int64_t /*count*/, double* /*room*/) const { return addends; }

  template <bool kDrops>
  Line<T> line(const T* x, const Shared& s) const {
    Octet<T> line[kLineOctets<T>];
    for (int64_t i = 0; i < kLineOctets<T>; ++i) {
      const Doubles sum = scaled_sum(to_double(Octet<T>::load(x + i * kOctet)), x_scale, s.addend[i]);
      line[i] = Octet<T>::round(kDrops ? sum * kept_scale : sum);
    }
    return Line<T>::of(line);
  }
};

// How encodings are added.
template <class T>
struct EncodingSum {
  using type = ScaledSum<T, double>;
};

// x + addend, which needs no double: core/position_embedding.h.
template <class T>
struct PlainSum {
  using Addend = const T*;

  struct Shared {
    Octet<T> addend[kLineOctets<T>];
  };

  Shared shared(const T* addend) const {
    Shared s;
    for (int64_t i = 0; i < kLineOctets<T>; ++i) s.addend[i] = Octet<T>::load(addend + i * kOctet);
    return s;
  }

  template <bool kDrops>
  Line<T> line(const T* x, const Shared& s) const {
    Octet<T> line[kLineOctets<T>];
    for (int64_t i = 0; i < kLineOctets<T>; ++i) {
      line[i] = Octet<T>::round(plain_sum(Octet<T>::load(x + i * kOctet), s.addend[i]));
    }
    return Line<T>::of(line);
  }
};

// x * x_scale
template <class T>
struct Product {
  using Addend = const T*;
  Doubles x_scale, kept_scale;

  Product(double x_scale, const SeededDropout& d)
      : x_scale(all_of(x_scale)), kept_scale(all_of(d.dropout.scale)) {}

  struct Shared {};
  Shared shared(const T*) const { return {}; }

  template <bool kDrops>
  Line<T> line(const T* x, const Shared&) const {
    Octet<T> line[kLineOctets<T>];
    for (int64_t i = 0; i < kLineOctets<T>; ++i) {
      const Doubles product = to_double(Octet<T>::load(x + i * kOctet)) * x_scale;
      line[i] = Octet<T>::round(kDrops ? product * kept_scale : product);
    }
    return Line<T>::of(line);
  }
};

// How gradients are scaled.
template <class T>
struct Scaling {
  using type = Product<T>;
};

#if POSENC_VECTOR_BYTES >= 32
#include "cpu/kernels/half_sums-inl.h"
#endif

// Whether rows of x, `count` channels `channel_stride` apart, and those of the result at `y` are whole lines.
template <class T>
inline bool in_lines(int64_t count, int64_t channel_stride, bool past_caches, const void* y) {
  return channel_stride == 1 && count % kLineElements<T> == 0 &&
         (!past_caches || reinterpret_cast<uintptr_t>(y) % kLine == 0);
}

// Rows of x and of the result y that share what is added: how many, their distances, whether kGroup of them
// are worked on together or one after the other, and how far ahead x is fetched.
struct RowGroup {
  int64_t rows, x_apart, y_apart;
  bool together;
  int64_t ahead;
  bool past_caches;
};

// The distance of what lies a few steps ahead, each of which reads `count` elements.
template <class T>
inline int64_t fetch_ahead(int64_t bytes, int64_t step, int64_t count) {
  const int64_t elements = bytes / static_cast<int64_t>(sizeof(T));
  return step * ((elements + count - 1) / count);
}

// Whether lines of doubt are left for after the loop: a call there takes its registers. AVX-512 has enough.
constexpr bool kDoubtsLater = POSENC_VECTOR_BYTES < 64;

// y[r, c] = dropout(sum(x[r, c], addend[c])) for all c < count; `first` is the linear index of y[0].
template <int kRows, bool kDrops, class T, class Sum>
POSENC_ALONE POSENC_FLATTEN void write_group(const SeededDropout& d, const RowGroup& rows, const T* x, T* y,
                                             int64_t first, int64_t count, const Sum& by,
                                             typename Sum::Addend addend) {
  // Copies stay in registers: what is written may not change them.
  const RowGroup g = rows;
  const Sum sum = by;
  constexpr int64_t kWords = kGroup / kRows;
  const int64_t most = kDrops                         ? kWord * kWords
                       : kIsNear<Sum> && kDoubtsLater ? kWord / kRows * kLineElements<T>
                                                      : count;
  for (int64_t row = 0; row < g.rows; row += kRows) {
    for (int64_t step = 0; step < count; step += most) {
      uint64_t words[kRows][kWords];
      if constexpr (kDrops) draw_words(d, first + step, g.y_apart, words);
      const auto write = [&](int64_t c, int r, Line<T> line) {
        if constexpr (kDrops) line = line.keep(words[r][(c - step) / kWord] >> (c - step) % kWord);
        T* to = y + r * g.y_apart + c;
        g.past_caches ? line.stream(to) : line.store(to);
      };
      uint64_t later = 0;  // lines of doubt, a bit each; unwritten, as x may lie there
      for (int64_t c = step; c < min_of(count, step + most); c += kLineElements<T>) {
        const auto shared = sum.shared(addend + c);
        for (int r = 0; r < kRows; ++r) {
          const T* from = x + r * g.x_apart + c;
          __builtin_prefetch(from + g.ahead);
          if constexpr (kIsNear<Sum>) {
            Line<T> line;
            if (!sum.near_line(from, shared, line)) [[unlikely]] {
              if constexpr (kDoubtsLater) {
                later |= uint64_t{1} << ((c - step) / kLineElements<T> * kRows + r);
                continue;
              }
              line = sum.template exact_line<kDrops>(from, addend + c);
            }
            write(c, r, line);
          } else {
            write(c, r, sum.template line<kDrops>(from, shared));
          }
        }
      }
      if constexpr (kIsNear<Sum>) {
        for (; later != 0; later &= later - 1) {
          const int line = __builtin_ctzll(later), r = line % kRows;
          const int64_t c = step + line / kRows * kLineElements<T>;
          write(c, r, sum.template exact_line<kDrops>(x + r * g.x_apart + c, addend + c));
        }
      }
    }
    x += kRows * g.x_apart;
    y += kRows * g.y_apart;
    first += kRows * g.y_apart;
  }
}

template <class T, class Sum>
inline void write_rows(const SeededDropout& d, const RowGroup& g, const T* x, T* y, int64_t first,
                       int64_t count, const Sum& sum, typename Sum::Addend addend) {
  if (d.drops()) {
    g.together ? write_group<kGroup, true>(d, g, x, y, first, count, sum, addend)
               : write_group<1, true>(d, g, x, y, first, count, sum, addend);
  } else {
    g.together ? write_group<kGroup, false>(d, g, x, y, first, count, sum, addend)
               : write_group<1, false>(d, g, x, y, first, count, sum, addend);
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
