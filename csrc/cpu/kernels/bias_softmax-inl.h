// softmax(scores * scale + bias + mask) and its gradients. The bias comes row by row from its source, as the
// gradient of its table goes to its sums in tiles of rows: neither is ever stored whole.
#pragma once

#include <limits>

#include "args/bias_softmax.h"
#include "core/exp.h"
#include "cpu/kernels/relative_bias-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/store-inl.h"
#include "cpu/simd/vec-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// ---- Sources and sums, besides those of the schemes; T is the type of sums.

// Of values that are in memory as rows: of diagonals, which overlap, and of pairs.
template <class T, class Scheme>
struct StoredSource {
  const Scheme& scheme;
  const BiasForward& a;
  const T* values = nullptr;  // of the head

  void set_head(int64_t head) { values = static_cast<const T*>(a.table) + head * a.head_stride; }

  template <class F>
  void for_each_row(int64_t first, int64_t last, F f) const {
    for (int64_t query = first; query < last; ++query) f(values + scheme.row(query, 0));
  }
};

// Calls f(first value) for the line of a query, whatever the index is stored as.
template <class F>
inline void with_index_line(const Index& index, int64_t query, F f) {
  const int64_t first = index.at.offset(query * index.keys);
  if (index.is_int64) {
    f(static_cast<const int64_t*>(index.data) + first);
  } else {
    f(static_cast<const int32_t*>(index.data) + first);
  }
}

template <class T>
struct IndexSource {
  const IndexScheme& scheme;
  const BiasForward& a;
  Scratch<T> column, row;

  IndexSource(const IndexScheme& scheme, const BiasForward& a)
      : scheme(scheme), a(a), column(scheme.rows()), row(scheme.keys()) {}

  void set_head(int64_t head) {
    const T* table = static_cast<const T*>(a.table) + head * a.head_stride;
    for (int64_t r = 0; r < scheme.rows(); ++r) column.data()[r] = table[r * a.row_stride];
  }

  template <class F>
  void for_each_row(int64_t first, int64_t last, F f) {
    const int64_t stride = scheme.index.key_stride;
    for (int64_t query = first; query < last; ++query) {
      with_index_line(scheme.index, query, [&](const auto* index) {
        for (int64_t k = 0; k < scheme.keys(); ++k) row.data()[k] = column.data()[index[k * stride]];
      });
      f(row.data());
    }
  }
};

// What is added to sums at a time: the rows of the queries [query, end), which are the parts [first, last).
struct Tile {
  int64_t first, last, query, end;
};

// Tiles of whole passes that fit the L1 cache.
inline int64_t queries_of_tile(int64_t keys) { return max_of<int64_t>(4, 4096 / keys / 4 * 4); }

inline int64_t tiles_of_queries(int64_t queries, int64_t keys) {
  return (queries + queries_of_tile(keys) - 1) / queries_of_tile(keys);
}

inline Tile tile_of_queries(int64_t queries, int64_t keys, int64_t i) {
  const int64_t size = queries_of_tile(keys), first = i * size, last = min_of(queries, first + size);
  return {first, last, first, last};
}

template <class T>
struct DiagonalSums : StripRows<T> {
  static int64_t tiles(const DiagonalScheme& s) { return tiles_of_queries(s.queries(), s.keys()); }
  static Tile tile(const DiagonalScheme& s, int64_t i) { return tile_of_queries(s.queries(), s.keys(), i); }

  const DiagonalScheme& scheme;
  T* sums = nullptr;

  DiagonalSums(const DiagonalScheme& scheme, const BiasBackward& a)
      : StripRows<T>{a.query_stride, a.key_stride, scheme.keys()}, scheme(scheme) {}

  void begin(T* to) { sums = to; }
  void add(const T* grad, int64_t first, int64_t last) {
    this->add_rows(grad, first, last, sums + scheme.row(last - 1, 0));
  }
  void finish() {}
};

template <class T>
struct IndexSums {
  static int64_t tiles(const IndexScheme& s) { return tiles_of_queries(s.queries(), s.keys()); }
  static Tile tile(const IndexScheme& s, int64_t i) { return tile_of_queries(s.queries(), s.keys(), i); }

  const IndexScheme& scheme;
  const BiasBackward& a;
  T* sums = nullptr;

  void begin(T* to) { sums = to; }
  void add(const T* grad, int64_t first, int64_t last) {
    const int64_t stride = scheme.index.key_stride;
    for (int64_t query = first; query < last; ++query) {
      const T* row = grad + query * a.query_stride;
      with_index_line(scheme.index, query, [&](const auto* index) {
        for (int64_t k = 0; k < scheme.keys(); ++k) sums[index[k * stride]] += row[k];
      });
    }
  }
  void finish() {}
};

// Rows are added up in slabs, where a row is one run: 14x14 backward takes 0.45 ns an element, 0.51 without.
// Windows whose queries share cells are one tile, others have lines of cells.
template <class T>
struct WindowTileSums : WindowSums<T> {
  static constexpr int64_t kMaxSlabs = 1 << 16;  // elements, which stay in L2

  static bool has_slabs(const WindowScheme& s) {
    return !s.is_expanded() && s.window[2] > 1 && s.window[2] * s.window[2] * window_lines(s) <= kMaxSlabs;
  }
  static int64_t lines_of_tile(const WindowScheme& s) {
    const int64_t lines = WindowSums<T>::parts(s);
    return s.is_expanded() ? lines : min_of(lines, max_of<int64_t>(1, 4096 / (s.window[2] * s.keys())));
  }
  static int64_t tiles(const WindowScheme& s) {
    return (WindowSums<T>::parts(s) + lines_of_tile(s) - 1) / lines_of_tile(s);
  }
  static Tile tile(const WindowScheme& s, int64_t i) {
    const int64_t lines = WindowSums<T>::parts(s), first = i * lines_of_tile(s);
    const int64_t last = min_of(lines, first + lines_of_tile(s)), prefix = s.prefix_tokens;
    return {first, last, first == 0 ? 0 : prefix + first * s.window[2],
            last == lines ? s.queries() : prefix + last * s.window[2]};
  }

  WindowTileSums(const WindowScheme& s, const BiasBackward& a) : WindowSums<T>(s, a, has_slabs(s)) {}
};

template <class T, class Scheme>
struct SoftmaxRows;
template <class T>
struct SoftmaxRows<T, WindowScheme> {
  using Source = WindowSource<T>;
  using Sums = WindowTileSums<T>;
};
template <class T>
struct SoftmaxRows<T, DiagonalScheme> {
  using Source = StoredSource<T, DiagonalScheme>;
  using Sums = DiagonalSums<T>;
};
template <class T>
struct SoftmaxRows<T, IndexScheme> {
  using Source = IndexSource<T>;
  using Sums = IndexSums<T>;
};
template <class T>
struct SoftmaxRows<T, PairScheme> {
  using Source = StoredSource<T, PairScheme>;
  struct Sums {  // none: each pair is a row
    static int64_t tiles(const PairScheme& s) { return s.queries(); }
  };
};

// ---- Masks: what is done to the elements [k, k + n) of a row, n <= N.

template <int N, class T>
inline Vec<T, N> load_up_to(const T* from, int64_t n) {
  return n == N ? load<N>(from) : load_some<N>(from, n);
}

struct NoMask {
  template <class T, int N>
  Vec<T, N> apply(Vec<T, N> x, int64_t, int64_t) const {
    return x;
  }
};

template <class Sum>
struct AddedMask {
  const Sum* row;

  template <class T, int N>
  Vec<T, N> apply(Vec<T, N> x, int64_t k, int64_t n) const {
    return x + load_up_to<N>(row + k, n);
  }
};

struct ShownMask {
  const uint8_t* row;

  template <class T, int N>
  Vec<T, N> apply(Vec<T, N> x, int64_t k, int64_t n) const {
    const auto shown = convert<MaskOf<T>>(load_up_to<N>(row + k, n));
    return select(shown != broadcast<N>(MaskOf<T>{0}), x, broadcast<N>(-std::numeric_limits<T>::infinity()));
  }
};

struct RegionMask {
  const int32_t* row;
  int32_t own;

  template <class T, int N>
  Vec<T, N> apply(Vec<T, N> x, int64_t k, int64_t n) const {
    const auto other = load_up_to<N>(row + k, n) != broadcast<N>(own);
    return select(convert<MaskOf<T>>(other), x + T(Mask::kOtherRegion), x);
  }
};

// Calls f(mask of a query) with the masks of a head of a sample.
template <class Sum, class F>
inline void with_masks(const Mask& a, int64_t sample, int64_t head, int64_t keys, F f) {
  const int64_t first = a.batch.offset(sample) + head * a.head_stride, stride = a.query_stride;
  switch (a.kind) {
    case Mask::Kind::none:
      return f([](int64_t) { return NoMask{}; });
    case Mask::Kind::shown:
      return f([rows = static_cast<const uint8_t*>(a.data) + first, stride](int64_t query) {
        return ShownMask{rows + query * stride};
      });
    case Mask::Kind::added:
      return f([rows = static_cast<const Sum*>(a.data) + first, stride](int64_t query) {
        return AddedMask<Sum>{rows + query * stride};
      });
    case Mask::Kind::regions:
      return f([ids = static_cast<const int32_t*>(a.data) + sample % a.windows * keys](int64_t query) {
        return RegionMask{ids, ids[query]};
      });
  }
}

// ---- Rows

template <class Sum>
constexpr int kRowVec = 64 / sizeof(Sum);

// What softmax makes of a row: scores * scale + bias + mask.
template <class T, class Sum, class MaskRow>
struct SoftmaxArgument {
  const T* scores;
  Sum scale;
  const Sum* bias;
  MaskRow mask;

  template <int N>
  Vec<Sum, N> at(int64_t k, int64_t n = N) const {
    const auto score = widen(load_up_to<N>(scores + k, n)) * scale + load_up_to<N>(bias + k, n);
    return mask.apply(score, k, n);
  }
};

// Where no key is shown, the row is NaN, as that of torch.softmax.
template <class Sum, class T>
inline bool fill_if_hidden(Sum largest, int64_t keys, T* out) {
  if (largest > -std::numeric_limits<Sum>::infinity()) return false;
  for (int64_t k = 0; k < keys; ++k) out[k] = round_to<T>(std::numeric_limits<Sum>::quiet_NaN());
  return true;
}

// A row that fits kVecs vectors, the last of which overlaps the one before.
template <int kVecs, class Sum, class T, class Argument>
POSENC_ALONE void short_softmax_row(const Argument& x, int64_t keys, T* out) {
  constexpr int N = kRowVec<Sum>;
  const auto start = [keys](int i) POSENC_LAMBDA { return i + 1 < kVecs ? i * N : keys - N; };
  Vec<Sum, N> e[kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kVecs; ++i) {
    __builtin_prefetch(x.scores + start(i) + 512);
    e[i] = x.template at<N>(start(i));
  }
  auto most = e[0];
#pragma GCC unroll 8
  for (int i = 1; i < kVecs; ++i) most = max_of(most, e[i]);
  const Sum largest = max_lane(most);
  if (fill_if_hidden(largest, keys, out)) return;
#pragma GCC unroll 8
  for (int i = 0; i < kVecs; ++i) e[i] = exp_of_negative<Sum>(e[i] - broadcast<N>(largest));
  Vec<Sum, N> sum[2] = {};
#pragma GCC unroll 8
  for (int i = 0; i + 1 < kVecs; ++i) sum[i % 2] = sum[i % 2] + e[i];
  const auto rest = keep(e[kVecs - 1], ~uint64_t{0} << (kVecs * N - keys));
  sum[(kVecs - 1) % 2] = sum[(kVecs - 1) % 2] + rest;
  const Sum inverse = Sum(1) / sum_of(sum[0] + sum[1]);
#pragma GCC unroll 8
  for (int i = 0; i < kVecs; ++i) store(out + start(i), round_to<T>(e[i] * inverse));
}

// A row by way of `z`, which has room for it and three vectors. `count`: how many keys a causal mask shows.
// The last vector overlaps the one before: a partial store is slow where the next row is loaded from there.
template <class Sum, class T, class Argument>
POSENC_ALONE void long_softmax_row(const Argument& x, int64_t count, int64_t keys, Sum* z, T* out) {
  constexpr int N = kRowVec<Sum>;
  const auto least = broadcast<N>(-std::numeric_limits<Sum>::infinity());
  auto most = least;
  const auto add = [&](int64_t k) POSENC_LAMBDA {
    const auto vec = x.template at<N>(k);
    store(z + k, vec);
    most = max_of(most, vec);
  };
  int64_t k = 0;
  for (; k + N <= count; k += N) add(k);
  if (k < count && count >= N) add(count - N);
  if (count < N) store(z, x.template at<N>(0, count));
  store(z + count, least);
  store(z + count + N, least);
  const Sum largest = max_lane(count < N ? load<N>(z) : most);
  if (fill_if_hidden(largest, keys, out)) return;
  Vec<Sum, N> sum[2] = {};
  for (k = 0; k < count; k += 2 * N) {
    for (int i = 0; i < 2; ++i) {
      __builtin_prefetch(x.scores + keys + k + i * N);
      const auto e = exp_of_negative<Sum>(load<N>(z + k + i * N) - broadcast<N>(largest));
      store(z + k + i * N, e);
      sum[i] = sum[i] + e;
    }
  }
  const Sum inverse = Sum(1) / sum_of(sum[0] + sum[1]);
  const auto rounded = [&](int64_t k) POSENC_LAMBDA { return round_to<T>(load<N>(z + k) * inverse); };
  for (k = 0; k + N <= count; k += N) store(out + k, rounded(k));
  if (k < count && count >= N) store(out + count - N, rounded(count - N));
  if (count < N) store_some(out, rounded(0), count);
  for (k = count; k < keys; ++k) out[k] = round_to<T>(Sum(0) * inverse);  // NaN where the others are
}

// Which one serves a row depends on its keys alone: they add the last elements in different lanes.
template <class Sum, class T, class Argument>
inline void softmax_row(const Argument& x, int64_t count, int64_t keys, Sum* z, T* out) {
  constexpr int N = kRowVec<Sum>;
  if (count == keys) {
    switch ((keys + N - 1) / N) {
      case 1:
        if (keys == N) return short_softmax_row<1, Sum>(x, keys, out);
        break;
      case 2:
        return short_softmax_row<2, Sum>(x, keys, out);
      case 3:
        return short_softmax_row<3, Sum>(x, keys, out);
      case 4:
        return short_softmax_row<4, Sum>(x, keys, out);
    }
  }
  long_softmax_row(x, count, keys, z, out);
}

// sums = result * (grad - sum of result * grad)
template <class T, class Sum>
POSENC_ALONE void softmax_backward_row(const T* grad, const T* result, int64_t keys, Sum* __restrict sums) {
  constexpr int N = kRowVec<Sum>;
  const int64_t ahead = max_of<int64_t>(keys, 512);
  const auto wide = [keys](const T* from, int64_t k)
                        POSENC_LAMBDA { return widen(load_up_to<N>(from + k, min_of<int64_t>(N, keys))); };
  Vec<Sum, N> dot[2] = {};
  int64_t k = 0;
  for (; k + 2 * N <= keys; k += 2 * N) {
    for (int i = 0; i < 2; ++i) dot[i] = dot[i] + wide(result, k + i * N) * wide(grad, k + i * N);
  }
  if (k + N <= keys) dot[0] = dot[0] + wide(result, k) * wide(grad, k), k += N;
  const int64_t last = max_of<int64_t>(0, keys - N);  // overlaps the one before
  if (k < keys) {
    dot[1] = dot[1] + keep(wide(result, last) * wide(grad, last), ~uint64_t{0} << (k - last));
  }
  const auto total = broadcast<N>(sum_of(dot[0] + dot[1]));
  const auto at = [&](int64_t k) POSENC_LAMBDA { return wide(result, k) * (wide(grad, k) - total); };
  for (k = 0; k + N <= keys; k += N) {
    __builtin_prefetch(grad + k + ahead);
    __builtin_prefetch(result + k + ahead);
    store(sums + k, at(k));
  }
  if (k == keys) return;
  keys >= N ? store(sums + last, at(last)) : store_some(sums, at(last), keys);
}

// out = sums * scale
template <class T, class Sum>
inline void write_scaled(const Sum* sums, Sum scale, int64_t count, T* out, bool non_temporal) {
  constexpr int N = kLineElements<T>;
  write_row<N>(non_temporal, count, out, [=](int64_t c, int64_t n) POSENC_LAMBDA {
    return round_to<T>(load_up_to<N>(sums + c, n) * scale);
  });
}

// ---- Kernels

template <class T, class Scheme>
void bias_softmax_typed(const Scheme& scheme, const BiasSoftmax& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t queries = scheme.queries(), keys = scheme.keys(), per_head = a.batch * queries;
  typename SoftmaxRows<Sum, Scheme>::Source source{scheme, a.bias};
  Scratch<Sum> z(keys + 3 * kRowVec<Sum>);
  const Sum scale = static_cast<Sum>(a.scale);
  for (int64_t head = -1; begin < end;) {
    if (begin / per_head != head) {
      head = begin / per_head;
      source.set_head(head);
    }
    const int64_t sample = begin % per_head / queries, first = begin % queries;
    const int64_t last = min_of(queries, first + (end - begin));
    with_masks<Sum>(a.mask, a.first_sample + sample, head, keys, [&](auto mask_of) {
      int64_t query = first, at = ((sample * a.bias.heads + head) * queries + first) * keys;
      source.for_each_row(first, last, [&](const Sum* bias) {
        const SoftmaxArgument<T, Sum, decltype(mask_of(query))> x{static_cast<const T*>(a.scores) + at, scale,
                                                                  bias, mask_of(query)};
        softmax_row(x, a.mask.shown(query, keys), keys, z.data(), static_cast<T*>(a.out) + at);
        ++query, at += keys;
      });
    });
    begin += last - first;
  }
}

template <class Scheme>
void bias_softmax(const Scheme& scheme, const BiasSoftmax& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, bias_softmax_typed<scalar_t>(scheme, a, begin, end))
}

template <class Scheme>
int64_t softmax_tiles(const Scheme& scheme) {
  return SoftmaxRows<float, Scheme>::Sums::tiles(scheme);
}

template <class T, class Scheme>
void softmax_backward_typed(const Scheme& scheme, const BiasSoftmaxBackward& a, const Chunks& blocks,
                            int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  using Sums = typename SoftmaxRows<Sum, Scheme>::Sums;
  const int64_t rows = scheme.rows(), keys = scheme.keys(), plane = scheme.queries() * keys;
  const int64_t tiles = Sums::tiles(scheme);
  int64_t longest = 0;
  for (int64_t i = 0; i < min_of<int64_t>(tiles, 2); ++i) {
    const Tile tile = Sums::tile(scheme, i);
    longest = max_of(longest, tile.end - tile.query);
  }
  Scratch<Sum> scratch(longest * keys), sums(rows);
  const BiasBackward strides{{}, nullptr, 1, 0, 0, keys, 1, 1, nullptr, nullptr};
  Sums adjoint{scheme, strides};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / blocks.count, first = item % blocks.count * blocks.size;
    for (int64_t row = 0; row < rows; ++row) sums.data()[row] = Sum(0);
    adjoint.begin(sums.data());
    for (int64_t i = first; i < min_of(a.batch * tiles, first + blocks.size); ++i) {
      const Tile tile = Sums::tile(scheme, i % tiles);
      int64_t at = (i / tiles * a.heads + head) * plane + tile.query * keys;
      Sum* to = scratch.data();
      for (int64_t query = tile.query; query < tile.end; ++query, at += keys, to += keys) {
        softmax_backward_row(static_cast<const T*>(a.grad) + at, static_cast<const T*>(a.result) + at, keys,
                             to);
      }
      const int64_t count = to - scratch.data();
      write_scaled(scratch.data(), static_cast<Sum>(a.scale), count,
                   static_cast<T*>(a.grad_scores) + at - count, a.non_temporal);
      adjoint.add(scratch.data() - tile.query * keys, tile.first, tile.last);
    }
    adjoint.finish();
    if (blocks.count > 1) {
      memcpy(static_cast<Sum*>(a.partial) + item * rows, sums.data(),
             static_cast<size_t>(rows) * sizeof(Sum));
    } else {
      Sum* table = static_cast<Sum*>(a.grad_table) + head * a.head_stride;
      for (int64_t row = 0; row < rows; ++row) table[row * a.row_stride] = sums.data()[row];
    }
  }
  if (a.non_temporal) finish_streams();
}

// An item is a query of a head: the sum over samples, if it is needed, is that of the pair.
template <class T>
void softmax_backward_typed(const PairScheme& scheme, const BiasSoftmaxBackward& a, const Chunks&,
                            int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t queries = scheme.queries(), keys = scheme.keys();
  Scratch<Sum> row(keys);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / queries, query = item % queries;
    Sum* table = a.grad_table == nullptr ? nullptr : static_cast<Sum*>(a.grad_table) + item * keys;
    for (int64_t sample = 0; sample < a.batch; ++sample) {
      const int64_t at = ((sample * a.heads + head) * queries + query) * keys;
      Sum* to = sample == 0 && table != nullptr ? table : row.data();
      softmax_backward_row(static_cast<const T*>(a.grad) + at, static_cast<const T*>(a.result) + at, keys,
                           to);
      write_scaled(to, static_cast<Sum>(a.scale), keys, static_cast<T*>(a.grad_scores) + at, a.non_temporal);
      if (to != table && table != nullptr) add_row(row.data(), 1, keys, table);
    }
  }
  if (a.non_temporal) finish_streams();
}

template <class Scheme>
void softmax_backward(const Scheme& scheme, const BiasSoftmaxBackward& a, const Chunks& blocks, int64_t begin,
                      int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, softmax_backward_typed<scalar_t>(scheme, a, blocks, begin, end))
}

template <class... All>
constexpr SchemeTable<SoftmaxKernels, SoftmaxSchemes> softmax_kernels(SchemeList<All...>) {
  return {SoftmaxKernels<All>{bias_softmax<All>, softmax_tiles<All>, softmax_backward<All>}...};
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
