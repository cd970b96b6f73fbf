// The views that every scheme of core/schemes.h gives of its rows, checked against each other, exhaustively
// for small shapes: row(q, k), here and on the device, its inverse slots(row) and pair(slots, i), and what
// its CPU source reads. A new scheme needs one thing here: a specialisation of `samples`.
#include "core/schemes.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <typeinfo>
#include <vector>

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
void check_source(const char* name, const Scheme& s) {
  const int64_t queries = s.queries(), keys = s.keys();
  for (int64_t first = 0; first < queries; first += 1 + queries / 2) {
    for (int64_t last = queries; last > first; last -= 1 + queries / 3) {
      const int64_t places = last - first - 1 + keys;
      std::vector<int64_t> at;
      s.for_each_range(first, last, [&](int64_t row, int64_t begin, int64_t end) {
        expect(begin == static_cast<int64_t>(at.size()) && end > begin, name, s, "ranges leave a gap", first,
               begin);
        at.resize(static_cast<size_t>(end), row);
      });
      expect(static_cast<int64_t>(at.size()) == places, name, s, "ranges do not end with the strip", first,
             last);
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

// Windows: the first query of each cell, and no other before it, is in the cell.
void check_source(const char* name, const WindowScheme& s) {
  for (int axis = 0; axis < s.kAxes; ++axis) {
    for (int64_t q = 0; q < s.query[axis]; ++q) {
      const int64_t cell = s.cell(axis, q);
      expect(cell == q * s.window[axis] / s.query[axis], name, s, "the cell of a position", axis, q);
      expect(s.first_query(axis, cell) <= q && q < s.first_query(axis, cell + 1), name, s,
             "first_query() and cell() differ", axis, q);
    }
  }
}

template <class Scheme>
void check(const char* name, const Scheme& s) {
  ++shapes;
  const int64_t rows = s.rows(), queries = s.queries(), keys = s.keys();
  const auto device = make_device_scheme(s);
  const PlaneWalk walk = make_plane_walk(keys, queries * keys);
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t k = 0; k < keys; ++k) {
      expect(s.row(q, k) >= 0 && s.row(q, k) < rows, name, s, "row() is out of range", q, k);
      expect(device.row(q, k) == s.row(q, k), name, s, "row() differs on the device", q, k);
      const Pair pair = walk.after({0, k}, q * keys);
      expect(pair.query == q && pair.key == k, name, s, "PlaneWalk is elsewhere", q, k);
    }
  }
  // The inverse lists every pair once, under its row.
  std::vector<int> listed(static_cast<size_t>(queries * keys));
  expect(device.slots_fit, name, s, "slots do not fit", 0, 0);
  for (int64_t row = 0; row < rows; ++row) {
    const auto slots = device.slots(row);
    expect(slots.count >= 0 && slots.count <= device.max_slots(), name, s, "the number of slots", row,
           slots.count);
    for (int64_t i = 0; i < slots.count; ++i) {
      const Pair pair = device.pair(slots, i);
      if (pair.query == kNoPair) continue;
      const bool inside = pair.query >= 0 && pair.query < queries && pair.key >= 0 && pair.key < keys;
      expect(inside, name, s, "pair() is out of range", row, i);
      if (!inside) continue;
      expect(s.row(pair.query, pair.key) == row, name, s, "pair() belongs to another row", row, i);
      ++listed[static_cast<size_t>(pair.query * keys + pair.key)];
    }
  }
  for (int64_t q = 0; q < queries; ++q) {
    for (int64_t k = 0; k < keys; ++k) {
      expect(listed[static_cast<size_t>(q * keys + k)] == 1, name, s, "pair() does not list a pair once", q,
             k);
    }
  }
  check_source(name, s);
}

}  // namespace

int main() {
  Schemes::for_each([]<class Scheme>(Scheme*) {
    samples<Scheme>([](const Scheme& s) { check(typeid(Scheme).name(), s); });
  });
  std::printf("%lld shapes, %lld failures\n", static_cast<long long>(shapes),
              static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
