// The three views that every scheme of core/schemes.h gives of its rows, checked against each other,
// exhaustively for small shapes: row(q, k), its inverse slots(row) and slot(row, i), and runs.
// And what core/fast_rows.h makes of row(q, k).
// A new scheme needs one thing here: a specialisation of `samples`.
#include "core/schemes.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "core/fast_rows.h"
#include "core/t5_buckets.h"

namespace {

using namespace posenc_ext::core;

// Calls visit(scheme) for every shape worth checking.
template <class Scheme>
void samples(const std::function<void(const Scheme&)>& visit) = delete;

template <>
void samples(const std::function<void(const WindowScheme&)>& visit) {
  // Every window of at most `largest` per axis, with query sizes from the window's to twice that and one
  // more.
  const auto shapes = [&](int64_t axes, int64_t largest) {
    WindowScheme s{};
    const std::function<void(int)> choose = [&](int axis) {
      if (axis == WindowScheme::kAxes) {
        for (s.prefix_tokens = 0; s.prefix_tokens <= 1; ++s.prefix_tokens) visit(s);
        return;
      }
      const bool used = axis >= WindowScheme::kAxes - axes;
      for (int64_t size = 1; size <= (used ? largest : 1); ++size) {
        for (int64_t queries = size; queries <= (used ? 2 * size + 1 : 1); ++queries) {
          s.window[axis] = size;
          s.query[axis] = queries;
          choose(axis + 1);
        }
      }
    };
    choose(0);
  };
  shapes(1, 9);
  shapes(2, 4);
  shapes(3, 2);
  for (const WindowScheme& s : {WindowScheme{{3, 4, 5}, {3, 4, 5}, 1}, WindowScheme{{3, 1, 4}, {7, 2, 11}, 0},
                                WindowScheme{{9, 1, 1}, {9, 1, 1}, 1}, WindowScheme{{9, 1, 1}, {20, 1, 1}, 0},
                                WindowScheme{{7, 1, 6}, {7, 1, 6}, 0}, WindowScheme{{4, 1, 3}, {9, 1, 6}, 1}})
    visit(s);
}

template <>
void samples(const std::function<void(const T5Scheme&)>& visit) {
  const auto shapes = [&](int64_t rows, bool bidirectional, int64_t max_distance,
                          const std::vector<std::pair<int64_t, int64_t>>& lengths,
                          const std::vector<int64_t>& offsets) {
    T5Scheme s = make_t5_scheme(rows, bidirectional, max_distance);
    for (const int64_t offset : offsets) {
      for (const auto& [queries, keys] : lengths) {
        s.query_count = queries;
        s.key_count = keys;
        s.q_offset = offset;
        visit(s);
      }
    }
  };
  std::vector<std::pair<int64_t, int64_t>> small;
  for (int64_t queries = 0; queries <= 9; ++queries) {
    for (int64_t keys = 0; keys <= 9; ++keys) small.emplace_back(queries, keys);
  }
  constexpr int64_t kFar = (int64_t{1} << 53) - 1;
  // An odd number of rows leaves the last one without a pair when bidirectional.
  for (const bool bidirectional : {false, true}) {
    for (int64_t rows = bidirectional ? 4 : 2; rows <= 12; ++rows) {
      const int64_t exact = rows / (bidirectional ? 2 : 1) / 2;
      for (const int64_t max_distance : {exact + 1, exact + 3, int64_t{20}}) {
        shapes(rows, bidirectional, max_distance, small, {-kFar, -12, -4, -1, 0, 1, 3, 8, 9, 21, kFar});
      }
    }
    for (const int64_t rows : {2, 7, 32, 33, 200}) {
      if (rows < 4 && bidirectional) continue;
      for (const int64_t max_distance : {int64_t{101}, int64_t{128}, int64_t{5000}, kFar}) {
        shapes(rows, bidirectional, max_distance, {{70, 50}, {40, 170}, {1, 300}, {300, 1}},
               {-200, -31, 0, 7, 129, 1000});
      }
    }
  }
}

int64_t shapes = 0, failures = 0;

template <class Scheme>
void expect(bool right, const char* name, const Scheme& s, const char* what, int64_t a, int64_t b) {
  if (right || ++failures > 10) return;
  std::printf("FAILED %s, shape %lld (%lld x %lld, %lld rows): %s at (%lld, %lld)\n", name,
              static_cast<long long>(shapes), static_cast<long long>(s.queries()),
              static_cast<long long>(s.keys()), static_cast<long long>(s.rows()), what,
              static_cast<long long>(a), static_cast<long long>(b));
}

// Queries that follow one another are slices of one strip.
template <class Scheme>
void check_runs(const char* name, const Scheme& s) {
  const int64_t queries = s.queries(), keys = s.keys();
  for (int64_t first = 0; first < queries; first += 1 + queries / 2) {
    for (int64_t last = queries; last > first; last -= 1 + queries / 3) {
      const int64_t places = last - first - 1 + keys;
      std::vector<int64_t> at;
      s.for_each_run(first, last, [&](int64_t place, int64_t run, int64_t row, int64_t step) {
        expect(step >= -1 && step <= 1 && run > 0, name, s, "a run's step or length", first, place);
        expect(place == static_cast<int64_t>(at.size()), name, s, "runs leave a gap", first, place);
        for (int64_t i = 0; i < run; ++i) at.push_back(row + step * i);
      });
      expect(static_cast<int64_t>(at.size()) == places, name, s, "runs do not end with a slice", first, last);
      if (static_cast<int64_t>(at.size()) != places) continue;
      for (int64_t q = first; q < last; ++q) {
        for (int64_t k = 0; k < keys; ++k) {
          expect(s.row(q, k) == at[static_cast<size_t>(last - 1 - q + k)], name, s,
                 "a slice and row() differ", q, k);
        }
      }
    }
  }
}

// The keys of a query are runs of the rows in descending order, from the corner of its cell on.
void check_runs(const char* name, const WindowScheme& s) {
  const WindowScheme::Runs runs = s.runs();
  const int64_t prefix = s.prefix_tokens;
  for (int64_t q = 0; prefix != 0 && q < s.queries(); ++q) {
    expect(s.row(q, 0) == s.rows() - (q == 0 ? 1 : 2), name, s, "row() of the first key", q, 0);
  }
  for (int64_t k = 1; prefix != 0 && k < s.keys(); ++k) {
    expect(s.row(0, k) == s.rows() - 3, name, s, "row() of the first query", 0, k);
  }
  for (int64_t q = prefix; q < s.queries(); ++q) {
    const int64_t line = (q - prefix) / s.query[2], z = (q - prefix) % s.query[2];
    const int64_t corner = s.corner(s.cell(0, line / s.query[1]), s.cell(1, line % s.query[1]), s.cell(2, z));
    int64_t key = prefix;
    for (int64_t i = 0; i < runs.outer; ++i) {
      for (int64_t j = 0; j < runs.inner; ++j) {
        for (int64_t n = 0; n < runs.length; ++n, ++key) {
          const int64_t place = 3 * prefix + corner + i * runs.outer_step + j * runs.inner_step + n;
          expect(key < s.keys() && s.row(q, key) == s.rows() - 1 - place, name, s, "a run and row() differ",
                 q, key);
        }
      }
    }
    expect(key == s.keys(), name, s, "runs do not reach the last key", q, key);
  }
}

template <class Scheme>
void check(const char* name, const Scheme& s) {
  ++shapes;
  const int64_t rows = s.rows(), queries = s.queries(), keys = s.keys();
  const FastRow<Scheme> fast_row = make_fast_row(s);
  const PlaneWalk walk = make_plane_walk(keys, queries * keys);
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t k = 0; k < keys; ++k) {
      expect(s.row(q, k) >= 0 && s.row(q, k) < rows, name, s, "row() is out of range", q, k);
      expect(fast_row(s, q, k) == s.row(q, k), name, s, "FastRow differs", q, k);
      const Pair pair = walk.after({0, k}, q * keys);
      expect(pair.query == q && pair.key == k, name, s, "PlaneWalk is elsewhere", q, k);
    }
  }
  // The inverse lists every pair once, under its row.
  std::vector<int> listed(static_cast<size_t>(queries * keys));
  const FastSlots<Scheme> fast_slots = make_fast_slots(s);
  expect(fast_slots.fits(), name, s, "FastSlots does not fit", 0, 0);
  for (int64_t row = 0; row < rows; ++row) {
    const auto fast = fast_slots.row(s, row);
    expect(fast_slots.slots(s, fast) == s.slots(row), name, s, "the slots of FastSlots differ", row, 0);
    expect(s.slots(row) >= 0 && s.slots(row) <= s.max_slots(), name, s, "slots() is out of range", row,
           s.slots(row));
    for (int64_t i = 0; i < s.slots(row); ++i) {
      const Pair pair = s.slot(row, i), same = fast_slots.slot(s, fast, i);
      expect(same.query == pair.query && same.key == pair.key, name, s, "FastSlots is elsewhere", row, i);
      if (pair.query == kNoPair) continue;
      const bool inside = pair.query >= 0 && pair.query < queries && pair.key >= 0 && pair.key < keys;
      expect(inside, name, s, "slot() is out of range", row, i);
      if (!inside) continue;
      expect(s.row(pair.query, pair.key) == row, name, s, "slot() belongs to another row", row, i);
      ++listed[static_cast<size_t>(pair.query * keys + pair.key)];
    }
  }
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t k = 0; k < keys; ++k) {
      expect(listed[static_cast<size_t>(q * keys + k)] == 1, name, s, "slot() does not list a pair once", q,
             k);
    }
  }
  check_runs(name, s);
}

}  // namespace

int main() {
#define POSENC_CHECK_SCHEME(Scheme) \
  samples<Scheme>(std::function<void(const Scheme&)>([](const Scheme& s) { check(#Scheme, s); }));
  POSENC_SCHEMES(POSENC_CHECK_SCHEME)
  std::printf("%lld shapes, %lld failures\n", static_cast<long long>(shapes),
              static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
