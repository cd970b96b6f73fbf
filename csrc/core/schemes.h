// Relative-position schemes: which row of the bias table serves the pair (query q, key k), and which pairs a
// row serves.
//
// A scheme is a POD with
//   rows(), queries(), keys()
//   row(q, k)                     the table row of a pair
//   slots(row), slot(row, i)      the inverse: the pairs of a row, numbered; slots that hold none, where that
//                                 makes numbering simple, say kNoPair
//   max_slots()                   the most slots of any row, or a bound that is cheaper to know
// and, for the CPU, the same pairs in runs of rows that follow one another, which a core copies or adds as a
// whole. Windows say how the runs of each query lie. Where the row depends on key - query alone, queries that
// follow one another share a strip of rows, from which each takes a slice:
//   for_each_run(first, last, f)  the strip of the queries [first, last), in runs f(place, count, first row,
//                                 step): inside a run the row changes by `step` (-1, 0 or 1) from place to
//                                 place. The keys of query q begin at place last - 1 - q.
// row and its inverse serve CUDA, where a thread owns an element. tests/cpp/schemes.cpp checks all of them
// against each other for every scheme in POSENC_SCHEMES.
#pragma once

#include "core/host_device.h"

namespace posenc_ext::core {

struct Pair {
  int64_t query, key;
};
constexpr int64_t kNoPair = -1;  // the query of an empty slot

// Windows of up to three axes (unused axes have size 1, best those in the middle), sign query - key: Swin,
// BEiT, Video Swin.
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

  POSENC_HD int64_t cell(int axis, int64_t position) const {
    if (query[axis] == window[axis]) return position;
    return position * window[axis] / query[axis];
  }
  POSENC_HD int64_t first_query(int axis, int64_t cell) const {
    if (query[axis] == window[axis]) return cell;
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

  // Whether queries share cells.
  POSENC_HD bool is_expanded() const { return queries() != keys(); }

  // Where the table's rows stand in descending order, those of a query's keys are runs: run (i, j) begins
  // i * outer_step + j * inner_step places after the corner of the query's cell.
  struct Runs {
    int64_t outer, inner, outer_step, inner_step, length;
  };

  POSENC_HD Runs runs() const {
    const int64_t columns = 2 * window[2] - 1;
    if (window[1] != 1) return {window[0], window[1], (2 * window[1] - 1) * columns, columns, window[2]};
    if (window[2] != 1) return {1, window[0], 0, columns, window[2]};
    return {1, 1, 0, 0, window[0]};
  }
  // Of queries that differ on the last axis alone: from the corner of the last of them on, for each i.
  POSENC_HD int64_t line_span() const {
    const Runs r = runs();
    return (r.inner - 1) * r.inner_step + r.length + window[2] - 1;
  }
  POSENC_HD int64_t corner(int64_t x, int64_t y, int64_t z) const {
    const int64_t line = (window[0] - 1 - x) * (2 * window[1] - 1) + window[1] - 1 - y;
    return line * (2 * window[2] - 1) + window[2] - 1 - z;
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
  POSENC_HD void for_each_run(int64_t first, int64_t last, F f) const {
    const int64_t here = last - 1 + q_offset;  // the place of distance 0, where there is one
    const int64_t places = last - first - 1 + key_count;
    int64_t place = 0;
    const auto run_until = [&](int64_t end, int64_t row, int64_t step) {
      end = min_of(places, end);
      if (end <= place) return;
      f(place, end - place, row, step);
      place = end;
    };
    if (here >= exact) {
      for (int64_t b = bucket(here); b >= exact && place < places; --b) {
        run_until(here - first_distance(b) + 1, b, 0);
      }
    }
    run_until(here + 1, here - place, -1);
    if (!bidirectional) return run_until(places, 0, 0);
    run_until(here + exact, buckets + place - here, 1);
    if (place >= places) return;
    int64_t b = bucket(place - here);
    while (place < places) {
      run_until(b + 1 < buckets ? here + first_distance(b + 1) : places, buckets + b, 0);
      ++b;
    }
  }
};

}  // namespace posenc_ext::core

// Every scheme, once: kernels are instantiated and tested from this list.
#define POSENC_SCHEMES(X) X(WindowScheme) X(T5Scheme)
