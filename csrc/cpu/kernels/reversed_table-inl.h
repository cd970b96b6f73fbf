// Tables [rows, heads] turned to [heads, rows] with rows in descending order, and back.
#pragma once

#include "args/relative_bias.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

template <int kBytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using type = uint16_t;
};
template <>
struct BitsOf<4> {
  using type = uint32_t;
};
template <>
struct BitsOf<8> {
  using type = uint64_t;
};

// Four rows of four elements, and their transpose. T is an unsigned integer.
template <class T>
struct FourByFour {
  typedef T Vector __attribute__((vector_size(4 * sizeof(T)), aligned(1), may_alias));
  Vector row[4];

  static FourByFour load(const T* from, int64_t step) {
    FourByFour result;
    for (int64_t i = 0; i < 4; ++i) result.row[i] = *reinterpret_cast<const Vector*>(from + i * step);
    return result;
  }
  void store(T* to, int64_t step) const {
    for (int64_t i = 0; i < 4; ++i) *reinterpret_cast<Vector*>(to + i * step) = row[i];
  }
  FourByFour transposed() const {
    const Vector low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    const Vector high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    const Vector low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    const Vector high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    return {{__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
             __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
             __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
             __builtin_shufflevector(high01, high23, 2, 3, 6, 7)}};
  }
};

// to[head * rows + rows - 1 - row] = table[row, head] for the first `heads` heads.
template <class T>
inline void reverse_heads(const T* table, int64_t row_stride, int64_t head_stride, int64_t rows,
                          int64_t heads, T* to) {
  int64_t row = 0;
  if (heads == kHeadsAtOnce && head_stride == 1) {
    for (; row + 4 <= rows; row += 4) {
      FourByFour<T>::load(table + (row + 3) * row_stride, -row_stride)
          .transposed()
          .store(to + rows - 4 - row, rows);
    }
  }
  for (int64_t head = 0; head < heads; ++head) {
    const T* from = table + head * head_stride;
    for (int64_t r = row; r < rows; ++r) to[head * rows + rows - 1 - r] = from[r * row_stride];
  }
}

// The way back, into a contiguous table: table[row * row_stride + head] = from[head * rows + rows - 1 - row].
template <class T>
inline void restore_heads(const T* from, int64_t rows, int64_t heads, T* table, int64_t row_stride) {
  int64_t row = 0;
  if (heads == kHeadsAtOnce) {
    for (; row + 4 <= rows; row += 4) {
      FourByFour<T>::load(from + rows - 4 - row, rows)
          .transposed()
          .store(table + (row + 3) * row_stride, -row_stride);
    }
  }
  for (; row < rows; ++row) {
    for (int64_t head = 0; head < heads; ++head) {
      table[row * row_stride + head] = from[head * rows + rows - 1 - row];
    }
  }
}

template <class T>
void reverse_table_typed(const ReverseTable& a, int64_t begin, int64_t end) {
  const T* table = static_cast<const T*>(a.table);
  T* to = static_cast<T*>(a.reversed_table);
  for (int64_t head = begin; head < end; head += kHeadsAtOnce) {
    reverse_heads(table + head * a.head_stride, a.row_stride, a.head_stride, a.rows,
                  min_of(kHeadsAtOnce, end - head), to + head * a.rows);
  }
}

void reverse_table(const ReverseTable& a, int64_t begin, int64_t end) {
  if (a.element_size == 8) return reverse_table_typed<uint64_t>(a, begin, end);
  if (a.element_size == 4) return reverse_table_typed<uint32_t>(a, begin, end);
  reverse_table_typed<uint16_t>(a, begin, end);
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
