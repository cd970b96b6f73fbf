// The row of a pair, and the pairs of a row, without 64-bit divisions: what a kernel takes along with a
// scheme, made on the host.
#pragma once

#include "core/fast_divide.h"
#include "core/schemes.h"

namespace posenc_ext::core {

// Schemes that divide have a specialisation.
template <class Scheme>
struct FastRow {
  POSENC_HD int64_t operator()(const Scheme& s, int64_t q, int64_t k) const { return s.row(q, k); }
};

template <class Scheme>
FastRow<Scheme> make_fast_row(const Scheme&) {
  return {};
}

template <>
struct FastRow<WindowScheme> {
  FastDivide query[WindowScheme::kAxes], window[WindowScheme::kAxes];
  bool fits;  // all that is divided fits 32 bits

  POSENC_HD int64_t operator()(const WindowScheme& s, int64_t q, int64_t k) const {
    if (!fits || q < s.prefix_tokens || k < s.prefix_tokens) return s.row(q, k);
    uint32_t q_left = static_cast<uint32_t>(q - s.prefix_tokens);
    uint32_t k_left = static_cast<uint32_t>(k - s.prefix_tokens);
    uint32_t result = 0, stride = 1;
    for (int a = WindowScheme::kAxes - 1; a >= 0; --a) {
      const uint32_t q_next = query[a].quotient(q_left), k_next = window[a].quotient(k_left);
      const uint32_t size = window[a].divisor, position = query[a].remainder(q_left, q_next);
      const uint32_t cell = query[a].quotient(position * size);
      result += (cell - window[a].remainder(k_left, k_next) + size - 1) * stride;
      stride *= 2 * size - 1;
      q_left = q_next;
      k_left = k_next;
    }
    return result;
  }
};

inline FastRow<WindowScheme> make_fast_row(const WindowScheme& s) {
  FastRow<WindowScheme> row{};
  row.fits = s.queries() < kFastLimit && s.keys() < kFastLimit && s.rows() < kFastLimit;
  for (int a = 0; a < WindowScheme::kAxes; ++a)
    row.fits = row.fits && (s.query[a] + 1) * s.window[a] < kFastLimit;
  for (int a = 0; a < WindowScheme::kAxes; ++a) {
    row.query[a] = make_fast_divide(row.fits ? static_cast<uint32_t>(s.query[a]) : 1);
    row.window[a] = make_fast_divide(row.fits ? static_cast<uint32_t>(s.window[a]) : 1);
  }
  return row;
}

// The pairs of one row: slots() and slot(i) of its scheme. Schemes that divide have a specialisation, whose
// Row is made once per row.
template <class Scheme>
struct FastSlots {
  struct Row {
    int64_t row;
  };
  POSENC_HD bool fits() const { return true; }
  POSENC_HD Row row(const Scheme&, int64_t row) const { return {row}; }
  POSENC_HD int64_t slots(const Scheme& s, const Row& r) const { return s.slots(r.row); }
  POSENC_HD Pair slot(const Scheme& s, const Row& r, int64_t i) const { return s.slot(r.row, i); }
};

template <class Scheme>
FastSlots<Scheme> make_fast_slots(const Scheme&) {
  return {};
}

template <>
struct FastSlots<WindowScheme> {
  static constexpr int kAxes = WindowScheme::kAxes;
  FastRow<WindowScheme> divide;
  FastDivide offsets[kAxes];

  struct Row {
    int64_t special;  // its number among those of the prefix token, or negative
    uint32_t first[kAxes], count[kAxes],
        offset[kAxes];  // ranges of queries; offsets may be negative, mod 2^32
  };

  POSENC_HD bool fits() const { return divide.fits; }

  POSENC_HD uint32_t first_query(int axis, uint32_t cell) const {
    const uint32_t window = divide.window[axis].divisor;
    return divide.window[axis].quotient(cell * divide.query[axis].divisor + window - 1);
  }

  POSENC_HD Row row(const WindowScheme& s, int64_t row) const {
    Row r{row - s.patch_rows(), {}, {}, {}};
    uint32_t left = static_cast<uint32_t>(row);
    for (int a = kAxes - 1; a >= 0; --a) {
      const uint32_t next = offsets[a].quotient(left), window = divide.window[a].divisor;
      const uint32_t shifted = offsets[a].remainder(left, next);  // offset + window - 1
      r.offset[a] = shifted - (window - 1);
      r.first[a] = first_query(a, shifted < window ? 0 : r.offset[a]);
      r.count[a] = first_query(a, shifted < window ? shifted + 1 : window) - r.first[a];
      left = next;
    }
    return r;
  }

  POSENC_HD int64_t slots(const WindowScheme& s, const Row& r) const {
    return r.special >= 0 ? s.special_slots(r.special) : int64_t{r.count[0]} * r.count[1] * r.count[2];
  }

  POSENC_HD Pair slot(const WindowScheme& s, const Row& r, int64_t i) const {
    if (r.special >= 0) return s.special_slot(r.special, i);
    uint32_t left = static_cast<uint32_t>(i);
    int64_t q = 0, k = 0, query_stride = 1, key_stride = 1;
    for (int a = kAxes - 1; a >= 0; --a) {
      const uint32_t next = a > 0 ? left / r.count[a] : 0;
      const uint32_t position = r.first[a] + (left - next * r.count[a]);
      const uint32_t size = divide.window[a].divisor;
      q += position * query_stride;
      k += (divide.query[a].quotient(position * size) - r.offset[a]) * key_stride;
      query_stride *= divide.query[a].divisor;
      key_stride *= size;
      left = next;
    }
    return {s.prefix_tokens + q, s.prefix_tokens + k};
  }
};

inline FastSlots<WindowScheme> make_fast_slots(const WindowScheme& s) {
  FastSlots<WindowScheme> slots{make_fast_row(s), {}};
  slots.divide.fits = slots.divide.fits && s.max_slots() < kFastLimit;
  for (int a = 0; a < WindowScheme::kAxes; ++a)
    slots.offsets[a] = make_fast_divide(slots.fits() ? static_cast<uint32_t>(2 * s.window[a] - 1) : 1);
  return slots;
}

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
