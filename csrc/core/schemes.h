// Relative-position schemes: which row of the bias table serves the pair (query q, key k), and which pairs a
// row serves. A scheme is a POD with
//   rows(), queries(), keys()
//   row(q, k)                      the table row of a pair
//   slots(row), pair(slots, i)     the inverse: the pairs of a row, numbered; slots that hold none, where
//   that
//                                  makes numbering simple, are kNoPair
//   max_slots()                    the most slots of any row, or a bound that is cheaper to compute
// which serve CUDA, where a thread owns an element, and whatever its CPU source needs (cpu/kernels). CUDA
// kernels take `make_device_scheme(scheme)`: the same without 64-bit divisions. tests/cpp/schemes.cpp checks
// all of them against each other for every scheme in Schemes.
#pragma once

#include "core/fast_divide.h"

namespace posenc_ext::core {

struct Pair {
  int64_t query, key;
};
constexpr int64_t kNoPair = -1;  // the query of an empty slot

// The axes of a window: positions of queries and keys are split by `Divider`, PlainDivide or FastDivide.
template <class Divider>
struct WindowAxes {
  static constexpr int kAxes = 3;
  using Int = typename Divider::Int;
  Divider query[kAxes], window[kAxes];

  // The query at Y on an axis of H queries is in window cell floor(Y h / H).
  POSENC_HD Int cell(int axis, Int position) const {
    return query[axis].quotient(position * window[axis].divisor);
  }
  POSENC_HD Int first_query(int axis, Int cell) const {
    return window[axis].quotient(cell * query[axis].divisor + window[axis].divisor - 1);
  }
  // sum_a (cell_a - k_a + s_a - 1) * prod_{b > a} (2 s_b - 1)
  POSENC_HD int64_t row(Int q, Int k) const {
    Int result = 0, stride = 1;
    for (int a = kAxes - 1; a >= 0; --a) {
      const Int q_next = query[a].quotient(q), k_next = window[a].quotient(k), size = window[a].divisor;
      result += (cell(a, query[a].remainder(q, q_next)) - window[a].remainder(k, k_next) + size - 1) * stride;
      stride *= 2 * size - 1;
      q = q_next;
      k = k_next;
    }
    return result;
  }
};

// Windows of up to three axes (unused axes have size 1, best those in the middle), sign query - key: Swin,
// BEiT, Video Swin. With prefix_tokens = 1 (BEiT's cls token) one query and one key come first, and three
// rows last: [cls, patch], [patch, cls], [cls, cls].
struct WindowScheme {
  static constexpr int kAxes = 3;
  int64_t window[kAxes];
  int64_t query[kAxes];
  int64_t prefix_tokens;

  POSENC_HD int64_t patch_rows() const {
    return (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1);
  }
  POSENC_HD int64_t rows() const { return patch_rows() + 3 * prefix_tokens; }
  POSENC_HD int64_t queries() const { return query[0] * query[1] * query[2] + prefix_tokens; }
  POSENC_HD int64_t keys() const { return window[0] * window[1] * window[2] + prefix_tokens; }
  // Whether queries share cells.
  POSENC_HD bool is_expanded() const { return queries() != keys(); }

  POSENC_HD WindowAxes<PlainDivide> axes() const {
    return {{{query[0]}, {query[1]}, {query[2]}}, {{window[0]}, {window[1]}, {window[2]}}};
  }
  POSENC_HD int64_t cell(int axis, int64_t position) const {
    return query[axis] == window[axis] ? position : axes().cell(axis, position);
  }
  POSENC_HD int64_t first_query(int axis, int64_t cell) const {
    return query[axis] == window[axis] ? cell : axes().first_query(axis, cell);
  }

  // `patches` gives the row of a pair of patches.
  template <class Axes>
  POSENC_HD int64_t row(const Axes& patches, int64_t q, int64_t k) const {
    const bool query_is_prefix = q < prefix_tokens, key_is_prefix = k < prefix_tokens;
    if (query_is_prefix || key_is_prefix) return rows() - (!query_is_prefix ? 2 : key_is_prefix ? 1 : 3);
    using Int = typename Axes::Int;
    return patches.row(static_cast<Int>(q - prefix_tokens), static_cast<Int>(k - prefix_tokens));
  }
  POSENC_HD int64_t row(int64_t q, int64_t k) const { return row(axes(), q, k); }
};

// A window scheme on CUDA.
struct DeviceWindow : WindowScheme {
  WindowAxes<FastDivide> fast;
  FastDivide offsets[kAxes];  // 2 s - 1
  bool fits;                  // all that is divided to find a row fits 32 bits
  bool slots_fit;             // also the number of a slot

  POSENC_HD int64_t row(int64_t q, int64_t k) const {
    return fits ? WindowScheme::row(fast, q, k) : WindowScheme::row(q, k);
  }

  // Per axis the queries that use one offset = cell - key: those of the cells [max(0, offset), min(s, s +
  // offset)). Offsets may be negative, modulo 2^32.
  struct Slots {
    int64_t count, special;  // special: the number among the rows of the prefix token, or negative
    uint32_t first[kAxes], queries[kAxes], offset[kAxes];
  };

  POSENC_HD Slots slots(int64_t row) const {
    Slots r{1, row - patch_rows(), {}, {}, {}};
    if (r.special >= 0) {
      r.count = r.special == 0 ? keys() - 1 : r.special == 1 ? queries() - 1 : 1;
      return r;
    }
    uint32_t left = static_cast<uint32_t>(row);
    for (int a = kAxes - 1; a >= 0; --a) {
      const uint32_t next = offsets[a].quotient(left), size = fast.window[a].divisor;
      const uint32_t shifted = offsets[a].remainder(left, next);  // offset + s - 1
      r.offset[a] = shifted - (size - 1);
      r.first[a] = fast.first_query(a, shifted < size ? 0 : r.offset[a]);
      r.queries[a] = fast.first_query(a, shifted < size ? shifted + 1 : size) - r.first[a];
      r.count *= r.queries[a];
      left = next;
    }
    return r;
  }

  POSENC_HD Pair pair(const Slots& r, int64_t i) const {
    if (r.special >= 0) return r.special == 0 ? Pair{0, 1 + i} : r.special == 1 ? Pair{1 + i, 0} : Pair{0, 0};
    uint32_t left = static_cast<uint32_t>(i);
    int64_t q = 0, k = 0, query_stride = 1, key_stride = 1;
    for (int a = kAxes - 1; a >= 0; --a) {
      const uint32_t next = a > 0 ? left / r.queries[a] : 0;
      const uint32_t position = r.first[a] + (left - next * r.queries[a]);
      q += position * query_stride;
      k += (fast.cell(a, position) - r.offset[a]) * key_stride;
      query_stride *= fast.query[a].divisor;
      key_stride *= fast.window[a].divisor;
      left = next;
    }
    return {prefix_tokens + q, prefix_tokens + k};
  }

  POSENC_HD int64_t max_slots() const { return max_of(queries(), keys()); }  // a query meets a row once
};

inline DeviceWindow make_device_scheme(const WindowScheme& s) {
  DeviceWindow d{s, {}, {}, true, true};
  d.fits = s.queries() < kFastLimit && s.keys() < kFastLimit && s.rows() < kFastLimit;
  for (int a = 0; a < s.kAxes; ++a) d.fits = d.fits && (s.query[a] + 1) * s.window[a] < kFastLimit;
  d.slots_fit = d.fits && d.max_slots() < kFastLimit;
  for (int a = 0; a < s.kAxes; ++a) {
    d.fast.query[a] = make_fast_divide(d.fits ? static_cast<uint32_t>(s.query[a]) : 1);
    d.fast.window[a] = make_fast_divide(d.fits ? static_cast<uint32_t>(s.window[a]) : 1);
    d.offsets[a] = make_fast_divide(d.fits ? static_cast<uint32_t>(2 * s.window[a] - 1) : 1);
  }
  return d;
}

// T5's buckets (Raffel et al. 2020; mesh-tensorflow, transformers): the row depends on rel = key - query -
// q_offset alone. Each direction has `buckets` rows, keys behind the query's first those of its past; one
// direction alone (causal) has one bucket, 0, for all keys ahead. Distances below `exact` have a bucket each;
// bucket exact + i, i > 0, begins at threshold[i - 1] and the last one never ends.
struct T5Scheme {
  static constexpr int64_t kMaxThresholds = 1023;
  static constexpr bool slots_fit = true;
  int64_t num_rows, query_count, key_count, q_offset;
  int64_t buckets, exact;
  bool bidirectional;
  int64_t threshold[kMaxThresholds];

  int64_t thresholds() const { return buckets - 1 - exact; }
  POSENC_HD int64_t rows() const { return num_rows; }
  POSENC_HD int64_t queries() const { return query_count; }
  POSENC_HD int64_t keys() const { return key_count; }

  POSENC_HD int64_t bucket(int64_t distance) const {
    if (distance < exact) return distance;
    int64_t low = 0, high = buckets - 1 - exact;  // the number of thresholds that distance has reached
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (threshold[middle] <= distance) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return exact + low;
  }
  POSENC_HD int64_t first_distance(int64_t bucket) const {
    return bucket <= exact ? bucket : threshold[bucket - exact - 1];
  }

  POSENC_HD int64_t row(int64_t q, int64_t k) const {
    const int64_t rel = k - q - q_offset;
    if (rel <= 0) return bucket(-rel);
    return bidirectional ? buckets + bucket(rel) : 0;
  }

  // The differences key - query of a row: [first, last), cut to those that occur.
  struct Band {
    int64_t first, last;
  };

  POSENC_HD Band band(int64_t row) const {
    const int64_t lowest = 1 - query_count, end = key_count;
    const bool ahead = row >= buckets;
    const int64_t b = ahead ? row - buckets : row;
    if (b >= buckets) return {0, 0};  // an odd row at the end
    Band rel{};
    if (ahead) {
      rel = {max_of<int64_t>(1, first_distance(b)), b + 1 < buckets ? first_distance(b + 1) : end - q_offset};
    } else {
      rel = {b + 1 < buckets ? 1 - first_distance(b + 1) : lowest - q_offset, 1 - first_distance(b)};
      if (b == 0 && !bidirectional) rel.last = end - q_offset;
    }
    const int64_t first = max_of(lowest, rel.first + q_offset);
    return {first, max_of(first, min_of(end, rel.last + q_offset))};
  }

  // A band crosses the plane as a parallelogram whose corners may be cut off: its slots are the queries that
  // it reaches, each as wide as the widest.
  struct Slots {
    int64_t count;
    Band band;
    int64_t first_query, width;
  };

  POSENC_HD Slots slots(int64_t row) const {
    const Band b = band(row);
    const int64_t first = max_of<int64_t>(0, 1 - b.last), end = min_of(query_count, key_count - b.first);
    if (b.first == b.last || first >= end) return {0, b, 0, 1};
    const int64_t width = min_of(key_count, b.last - b.first);
    return {(end - first) * width, b, first, width};
  }

  POSENC_HD Pair pair(const Slots& s, int64_t i) const {
    const int64_t line = i / s.width, q = s.first_query + line;
    const int64_t k = max_of<int64_t>(0, q + s.band.first) + (i - line * s.width);
    return k < min_of(key_count, q + s.band.last) ? Pair{q, k} : Pair{kNoPair, kNoPair};
  }

  int64_t max_slots() const {
    int64_t most = 0;
    for (int64_t row = 0; row < num_rows; ++row) most = max_of(most, slots(row).count);
    return most;
  }

  // The rows of the queries [first, last) are slices of one strip of rows: that of query q begins at place
  // last - 1 - q. Calls f(row, begin, end) for each range of places [begin, end) with the same row, in order.
  template <class F>
  POSENC_HD void for_each_range(int64_t first, int64_t last, F f) const {
    const int64_t here = last - 1 + q_offset;  // the place of distance 0, inside the strip or not
    const int64_t places = last - first - 1 + key_count;
    int64_t place = 0;
    const auto until = [&](int64_t end, int64_t row) {
      end = min_of(places, end);
      if (end > place) f(row, place, end);
      place = max_of(place, end);
    };
    for (int64_t b = buckets - 1; b >= 0; --b) until(here - first_distance(b) + 1, b);
    if (!bidirectional) return until(places, 0);
    for (int64_t b = 1; b + 1 < buckets; ++b) until(here + first_distance(b + 1), buckets + b);
    until(places, 2 * buckets - 1);
  }
};

// Schemes that divide little are the same on CUDA.
template <class Scheme>
const Scheme& make_device_scheme(const Scheme& scheme) {
  return scheme;
}

template <class... All>
struct SchemeList {
  template <class F>
  static void for_each(F f) {
    (f(static_cast<All*>(nullptr)), ...);
  }
};

// Every scheme: kernels are instantiated and tested from this list.
using Schemes = SchemeList<WindowScheme, T5Scheme>;

// An entry per scheme: table[scheme] is Entry<Scheme>.
template <template <class> class Entry, class List = Schemes>
struct SchemeTable;
template <template <class> class Entry, class... All>
struct SchemeTable<Entry, SchemeList<All...>> : Entry<All>... {
  template <class Scheme>
  const Entry<Scheme>& operator[](const Scheme&) const {
    return *this;
  }
};

// The pairs of a plane in row-major order: the i-th after one of them, for 0 <= i < `steps`.
struct PlaneWalk {
  Divide keys;

  POSENC_HD Pair after(const Pair& from, int64_t i) const {
    const int64_t n = from.key + i, lines = keys.quotient(n);
    return {from.query + lines, n - lines * keys.divisor};
  }
};

inline PlaneWalk make_plane_walk(int64_t keys, int64_t steps) { return {make_divide(keys, keys + steps)}; }

}  // namespace posenc_ext::core
