// The adjoint of small windows, in registers; compiled once per CPU level by level_*.cpp, inside the
// level's namespace, after window_bias_body.h.
#pragma once

#include "cpu/kernels/row_sums-inl.h"
#include "cpu/kernels/window_bias-inl.h"
#include "cpu/simd/level.h"
#include "cpu/simd/octet-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

// A line of the table, the rows of its 2 w - 1 offsets on the last axis, is the sum of runs of w gradients.
// The runs of queries at one cell of that axis begin at the same row of the line: they are summed up in lanes
// of their own, and the w sums are then added to the line, each from its row on.
constexpr int64_t kLineSums = 2 * kSmallWidth;

// Runs of keys that may lie apart, and the line that their sums are added to.
template <class T>
struct StridedRuns {
  using Reach = int64_t;
  static Reach reach(int64_t width) { return width; }

  accumulator_t<T> lane[kSmallWidth];

  void clear() {
    for (accumulator_t<T>& sum : lane) sum = 0;
  }
  void add(const T* from, int64_t stride, Reach width) {
    for (int64_t i = 0; i < width; ++i) lane[i] += widen(from[i * stride]);
  }

  struct Line {
    accumulator_t<T> lane[kLineSums];

    void clear() {
      for (accumulator_t<T>& sum : lane) sum = 0;
    }
    void add(const StridedRuns& runs, int64_t first) {
      for (int64_t i = 0; i < kSmallWidth; ++i) lane[first + i] += runs.lane[i];
    }
    void store(accumulator_t<T>* to) const { memcpy(to, lane, sizeof(lane)); }
  };
};

// Runs of keys side by side. What lies beyond a run is not read.
#if POSENC_VECTOR_BYTES == 64
inline __m256 load_lanes(const float* from, __mmask8 mask) { return _mm256_maskz_loadu_ps(mask, from); }
inline __m256 load_lanes(const BFloat16* from, __mmask8 mask) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(mask, from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
inline __m256 load_lanes(const Half* from, __mmask8 mask) {
  return _mm256_cvtph_ps(_mm_maskz_loadu_epi16(mask, from));
}

struct MaskedRuns {
  using Reach = __mmask8;
  static Reach reach(int64_t width) { return static_cast<Reach>((1u << width) - 1); }
};

template <class T>
struct AdjacentRuns : MaskedRuns {
  __m256 lane;

  void clear() { lane = _mm256_setzero_ps(); }
  void add(const T* from, int64_t, Reach mask) { lane = _mm256_add_ps(lane, load_lanes(from, mask)); }

  struct Line {
    __m512 lane;

    void clear() { lane = _mm512_setzero_ps(); }
    void add(const AdjacentRuns& runs, int64_t first) {
      const __mmask16 own = static_cast<__mmask16>(0xffu << first);
      lane = _mm512_add_ps(lane, _mm512_maskz_expand_ps(own, _mm512_castps256_ps512(runs.lane)));
    }
    void store(float* to) const { _mm512_storeu_ps(to, lane); }
  };
};

template <>
struct AdjacentRuns<double> : MaskedRuns {
  __m512d lane;

  void clear() { lane = _mm512_setzero_pd(); }
  void add(const double* from, int64_t, Reach mask) {
    lane = _mm512_add_pd(lane, _mm512_maskz_loadu_pd(mask, from));
  }

  struct Line {
    __m512d low, high;

    void clear() { low = high = _mm512_setzero_pd(); }
    void add(const AdjacentRuns& runs, int64_t first) {
      const __m512i from =
          _mm512_sub_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(first));
      const __m512d turned = _mm512_permutexvar_pd(from, runs.lane);
      const uint32_t own = 0xffu << first;
      low = _mm512_add_pd(low, _mm512_maskz_mov_pd(static_cast<__mmask8>(own), turned));
      high = _mm512_add_pd(high, _mm512_maskz_mov_pd(static_cast<__mmask8>(own >> 8), turned));
    }
    void store(double* to) const {
      _mm512_storeu_pd(to, low);
      _mm512_storeu_pd(to + 8, high);
    }
  };
};
#else
template <class T>
struct AdjacentRuns : StridedRuns<T> {
  void add(const T* from, int64_t, int64_t width) { StridedRuns<T>::add(from, 1, width); }
};

#if POSENC_VECTOR_BYTES == 32
template <>
struct AdjacentRuns<float> {
  using Reach = __m256i;
  static __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static Reach reach(int64_t width) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(width)), lanes());
  }

  __m256 lane;

  void clear() { lane = _mm256_setzero_ps(); }
  void add(const float* from, int64_t, Reach mask) {
    lane = _mm256_add_ps(lane, _mm256_maskload_ps(from, mask));
  }

  struct Line {
    __m256 low, high;

    void clear() { low = high = _mm256_setzero_ps(); }
    void add(const AdjacentRuns& runs, int64_t first) {
      const __m256i from = _mm256_sub_epi32(lanes(), _mm256_set1_epi32(static_cast<int>(first)));
      const __m256 turned = _mm256_permutevar8x32_ps(runs.lane, from);
      const __m256 beyond = _mm256_castsi256_ps(_mm256_srai_epi32(from, 31));
      low = _mm256_add_ps(low, _mm256_andnot_ps(beyond, turned));
      high = _mm256_add_ps(high, _mm256_and_ps(beyond, turned));
    }
    void store(float* to) const {
      _mm256_storeu_ps(to, low);
      _mm256_storeu_ps(to + 8, high);
    }
  };
};
#endif
#endif

// Sums of one head, rows in descending order; `sums` has room for kLineSums more.
// kWidth: of the window, where that is known when this is compiled; else 0.
template <class Runs, int kWidth, class T>
inline void sum_window(const WindowScheme& s, const BiasBackward& a, const T* grad, accumulator_t<T>* sums) {
  const int64_t depth = s.window[0], height = s.window[1], prefix = s.prefix_tokens;
  const int64_t width = kWidth != 0 ? kWidth : s.window[2];
  const int64_t query_stride = a.query_stride, key_stride = a.key_stride;
  constexpr int64_t kCells = kWidth != 0 ? kWidth : kSmallWidth;
  // Beyond the width there are no cells: their runs are empty, and read nothing.
  typename Runs::Reach reach[kCells];
  for (int64_t c = 0; c < kCells; ++c) reach[c] = Runs::reach(c < width ? width : 0);
  grad += prefix * (query_stride + key_stride);
  sums += 3 * prefix;
  for (int64_t i = 0; i < 2 * depth - 1; ++i) {
    const int64_t first_x = max_of<int64_t>(0, depth - 1 - i), last_x = min_of(depth, 2 * depth - 1 - i);
    for (int64_t j = 0; j < 2 * height - 1; ++j, sums += 2 * width - 1) {
      const int64_t first_y = max_of<int64_t>(0, height - 1 - j), last_y = min_of(height, 2 * height - 1 - j);
      Runs runs[kCells];
#pragma GCC unroll 8
      for (int64_t c = 0; c < kCells; ++c) runs[c].clear();
      for (int64_t x = first_x; x < last_x; ++x) {
        for (int64_t y = first_y; y < last_y; ++y) {
          const int64_t key = ((x + i - (depth - 1)) * height + y + j - (height - 1)) * width;
          const T* run = grad + (x * height + y) * width * query_stride + key * key_stride;
#pragma GCC unroll 8
          for (int64_t c = 0; c < kCells; ++c) runs[c].add(run + c * query_stride, key_stride, reach[c]);
        }
      }
      typename Runs::Line line;
      line.clear();
#pragma GCC unroll 8
      for (int64_t c = 0; c < kCells; ++c) line.add(runs[c], max_of<int64_t>(0, width - 1 - c));
      line.store(sums);
    }
  }
}

template <class Runs, class T>
inline void sum_small_window(const WindowScheme& s, const BiasBackward& a, const T* grad,
                             accumulator_t<T>* sums) {
  if (s.window[2] == kUsual) return sum_window<Runs, kUsual>(s, a, grad, sums);
  sum_window<Runs, 0>(s, a, grad, sums);
}

// Windows of which a head's gradient stays in the caches while row after row sums up its own part of it.
inline bool is_small(const WindowScheme& s) {
  constexpr int64_t kSmallKeys = 256;
  return !s.is_expanded() && s.window[2] > 1 && s.window[2] <= kSmallWidth && s.keys() <= kSmallKeys;
}

// AVX2 has no masked loads of half types: their gradients become floats first.
template <class T>
constexpr bool kWidensFirst = POSENC_VECTOR_BYTES == 32 && sizeof(T) == 2;

template <class T, class Stride>
inline void widen_row(Row<T, Stride> row, int64_t count, float* to) {
  write_octets(false, count, to,
            [=](int64_t c, int64_t n) { return Octet<float>::round(widen(row.load(c, n))); });
}

// One head of the gradient, [queries, keys], to floats that lie side by side.
template <class T>
inline void widen_head(const WindowScheme& s, const BiasBackward& a, const T* grad, float* to) {
  const int64_t queries = s.queries(), keys = s.keys();
  if (a.key_stride == 1 && a.query_stride == keys) {
    return widen_row<T, SideBySide>({grad, {}}, queries * keys, to);
  }
  for (int64_t query = 0; query < queries; ++query) {
    widen_row<T, int64_t>({grad + query * a.query_stride, a.key_stride}, keys, to + query * keys);
  }
}

// `wide` has room for the head where it is to be widened.
template <class T>
inline void sum_head(const WindowScheme& s, const BiasBackward& a, const T* grad, accumulator_t<T>* sums,
                     float* wide) {
  if constexpr (kWidensFirst<T>) {
    if (a.widened_elements(s) != 0) {
      widen_head(s, a, grad, wide);
      BiasBackward widened = a;
      widened.query_stride = s.keys();
      widened.key_stride = 1;
      return sum_small_window<AdjacentRuns<float>>(s, widened, static_cast<const float*>(wide), sums);
    }
  }
  if (a.key_stride == 1) return sum_small_window<AdjacentRuns<T>>(s, a, grad, sums);
  sum_small_window<StridedRuns<T>>(s, a, grad, sums);
}

template <class T>
void small_window_backward(const WindowScheme& s, const BiasBackward& a, void* scratch, int64_t begin,
                           int64_t end) {
  using Sum = accumulator_t<T>;
  using Bits = typename BitsOf<sizeof(T)>::type;
  const int64_t rows = s.rows(), prefix = s.prefix_tokens, stride = a.key_stride;
  Sum* sums = static_cast<Sum*>(scratch);
  T* rounded = reinterpret_cast<T*>(sums + rows + kLineSums);
  for (int64_t first = begin; first < end; first += kHeadsAtOnce) {
    const int64_t heads = min_of(kHeadsAtOnce, end - first);
    for (int64_t head = 0; head < heads; ++head) {
      const T* grad = static_cast<const T*>(a.grad) + (first + head) * a.head_stride;
      sum_head(s, a, grad, sums, reinterpret_cast<float*>(rounded + kHeadsAtOnce * rows));
      if (prefix != 0) {
        sums[0] = Sum(0) + widen(grad[0]);
        sums[1] =
            lane_sum<Sum>(s.queries() - 1, [=](int64_t i) { return widen(grad[(1 + i) * a.query_stride]); });
        sums[2] = lane_sum<Sum>(s.keys() - 1, [=](int64_t i) { return widen(grad[(1 + i) * stride]); });
      }
      for (int64_t i = 0; i < rows; ++i) rounded[head * rows + i] = round_to<T>(sums[i]);
    }
    restore_heads(reinterpret_cast<const Bits*>(rounded), rows, heads, static_cast<Bits*>(a.out) + first,
                  a.heads);
  }
}

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
