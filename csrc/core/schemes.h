// Relative-position schemes: which row of the bias table serves the pair (query q, key k), and which pairs a
// row serves.
//
// A scheme is a POD with
//   rows(), queries(), keys()
//   row(q, k)                     the table row of a pair
//   slots(row), slot(row, i)      the inverse: the pairs of a row, numbered; slots that hold none, where that
//                                 makes numbering simple, say kNoPair
//   max_slots()                   the most slots of any row, or a bound that is cheaper to know
//   for_each_run(q, f)            the keys of one query in runs f(first key, count, first row, step):
//                                 inside a run the row changes by `step` (-1, 0 or 1) from key to key
// row and its inverse serve CUDA, where a thread owns an element; runs serve the CPU, where a core owns a
// stretch. tests/cpp/schemes.cpp checks the three against each other for every scheme in POSENC_SCHEMES.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

struct Pair {
  int64_t query, key;
};
constexpr int64_t kNoPair = -1;  // the query of an empty slot

// Windows of up to three axes (unused leading axes have size 1), sign query - key: Swin, BEiT, Video Swin.
//   row(q, k) = sum_a (cell_a - k_a + s_a - 1) * prod_{b > a} (2 s_b - 1)
// where the query at Y on an axis of H queries stands in window cell floor(Y h / H). With prefix_tokens = 1
// (BEiT's cls token) one query and one key stand in front and three rows at the end: [cls, patch], [patch,
// cls], [cls, cls].
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

  POSENC_HD int64_t cell(int axis, int64_t position) const { return position * window[axis] / query[axis]; }
  POSENC_HD int64_t first_query(int axis, int64_t cell) const {
    return (cell * query[axis] + window[axis] - 1) / window[axis];
  }

  POSENC_HD int64_t row(int64_t q, int64_t k) const {
    const bool query_is_prefix = q < prefix_tokens, key_is_prefix = k < prefix_tokens;
    if (query_is_prefix || key_is_prefix) return rows() - (!query_is_prefix ? 2 : key_is_prefix ? 1 : 3);
    q -= prefix_tokens;
    k -= prefix_tokens;
    int64_t result = 0, stride = 1;
    for (int a = kAxes - 1; a >= 0; --a) {
      result += (cell(a, q % query[a]) - k % window[a] + window[a] - 1) * stride;
      stride *= 2 * window[a] - 1;
      q /= query[a];
      k /= window[a];
    }
    return result;
  }

  // The queries of one axis that use offset `e` = cell - key there: cells in [max(0, e), min(s, s + e)).
  struct Range {
    int64_t first, count, offset;
  };

  POSENC_HD Range range(int axis, int64_t offset) const {
    const int64_t s = window[axis];
    const int64_t first = first_query(axis, max_of<int64_t>(0, offset));
    return {first, first_query(axis, min_of(s, s + offset)) - first, offset};
  }

  POSENC_HD void ranges(int64_t row, Range out[kAxes]) const {
    for (int a = kAxes - 1; a >= 0; --a) {
      const int64_t offsets = 2 * window[a] - 1;
      out[a] = range(a, row % offsets - (window[a] - 1));
      row /= offsets;
    }
  }

  POSENC_HD int64_t max_slots() const { return max_of(queries(), keys()); }  // a query meets a row once

  // The pairs of [cls, patch], [patch, cls] and [cls, cls].
  POSENC_HD int64_t special_slots(int64_t special) const {
    return special == 0 ? keys() - 1 : special == 1 ? queries() - 1 : 1;
  }
  POSENC_HD Pair special_slot(int64_t special, int64_t i) const {
    return special == 0 ? Pair{0, 1 + i} : special == 1 ? Pair{1 + i, 0} : Pair{0, 0};
  }

  POSENC_HD int64_t slots(int64_t row) const {
    const int64_t special = row - patch_rows();
    if (special >= 0) return special_slots(special);
    Range r[kAxes];
    ranges(row, r);
    return r[0].count * r[1].count * r[2].count;
  }

  POSENC_HD Pair slot(int64_t row, int64_t i) const {
    const int64_t special = row - patch_rows();
    if (special >= 0) return special_slot(special, i);
    Range r[kAxes];
    ranges(row, r);
    int64_t q = 0, k = 0, query_stride = 1, key_stride = 1;
    for (int a = kAxes - 1; a >= 0; --a) {
      const int64_t position = r[a].first + i % r[a].count;
      i /= r[a].count;
      q += position * query_stride;
      k += (cell(a, position) - r[a].offset) * key_stride;
      query_stride *= query[a];
      key_stride *= window[a];
    }
    return {prefix_tokens + q, prefix_tokens + k};
  }

  template <class F>
  POSENC_HD void for_each_run(int64_t q, F f) const {
    if (q < prefix_tokens) {
      f(int64_t{0}, int64_t{1}, rows() - 1, int64_t{0});
      f(int64_t{1}, keys() - 1, rows() - 3, int64_t{0});
      return;
    }
    if (prefix_tokens != 0) f(int64_t{0}, int64_t{1}, rows() - 2, int64_t{0});
    // One division chain per query; from run to run the row only moves by the stride of an axis.
    const int64_t stride[kAxes] = {(2 * window[1] - 1) * (2 * window[2] - 1), 2 * window[2] - 1, 1};
    int64_t position = q - prefix_tokens, first_row = 0;
    for (int a = kAxes - 1; a >= 0; --a) {
      first_row += (cell(a, position % query[a]) + window[a] - 1) * stride[a];
      position /= query[a];
    }
    int64_t k = prefix_tokens;
    for (int64_t i = 0; i < window[0]; ++i) {
      for (int64_t j = 0; j < window[1]; ++j, k += window[2]) {
        f(k, window[2], first_row - i * stride[0] - j * stride[1], int64_t{-1});
      }
    }
  }
};

// T5's buckets (Raffel et al. 2020; mesh-tensorflow, transformers): the row depends on rel = key - query -
// q_offset alone. Each direction has `buckets` rows, keys behind the query's first those of its past; one
// direction alone (causal) has one bucket, 0, for all that lies ahead. Distances below `exact` have a bucket
// each; bucket exact + i, i > 0, begins at threshold[i - 1] and the last one never ends.
struct T5Scheme {
  static constexpr int64_t kMaxThresholds = 1023;
  int64_t num_rows, query_count, key_count, q_offset;
  int64_t buckets, exact;
  bool bidirectional;
  int64_t threshold[kMaxThresholds];

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

  // A band crosses the plane as a parallelogram whose corners may be cut off: its slots are the lines that it
  // reaches, each as wide as the widest.
  struct Lines {
    int64_t first_query, queries, width;
  };

  POSENC_HD Lines lines(const Band& band) const {
    const int64_t first = max_of<int64_t>(0, 1 - band.last),
                  end = min_of(query_count, key_count - band.first);
    if (band.first == band.last || first >= end) return {0, 0, 1};
    return {first, end - first, min_of(key_count, band.last - band.first)};
  }

  POSENC_HD int64_t slots(int64_t row) const {
    const Lines all = lines(band(row));
    return all.queries * all.width;
  }
  int64_t max_slots() const {
    int64_t most = 0;
    for (int64_t row = 0; row < num_rows; ++row) most = max_of(most, slots(row));
    return most;
  }

  POSENC_HD Pair slot(int64_t row, int64_t i) const {
    const Band b = band(row);
    const Lines all = lines(b);
    const int64_t line = i / all.width, q = all.first_query + line;
    const int64_t k = max_of<int64_t>(0, q + b.first) + (i - line * all.width);
    return k < min_of(key_count, q + b.last) ? Pair{q, k} : Pair{kNoPair, kNoPair};
  }

  template <class F>
  POSENC_HD void for_each_run(int64_t q, F f) const {
    const int64_t here = q + q_offset;  // the key at distance 0, where there is one
    int64_t k = 0;
    while (k < key_count && here - k >= exact) {
      const int64_t b = bucket(here - k);
      const int64_t end = min_of(key_count, here - first_distance(b) + 1);
      f(k, end - k, b, int64_t{0});
      k = end;
    }
    if (k < key_count && k <= here) {
      const int64_t end = min_of(key_count, here + 1);
      f(k, end - k, here - k, int64_t{-1});
      k = end;
    }
    if (k >= key_count) return;
    if (!bidirectional) return f(k, key_count - k, int64_t{0}, int64_t{0});
    if (k - here < exact) {
      const int64_t end = min_of(key_count, here + exact);
      f(k, end - k, buckets + k - here, int64_t{1});
      k = end;
    }
    while (k < key_count) {
      const int64_t b = bucket(k - here);
      const int64_t end = b + 1 < buckets ? min_of(key_count, here + first_distance(b + 1)) : key_count;
      f(k, end - k, buckets + b, int64_t{0});
      k = end;
    }
  }
};

}  // namespace posenc_ext::core

// Every scheme, once: kernels are instantiated and tested from this list.
#define POSENC_SCHEMES(X) X(WindowScheme) X(T5Scheme)
