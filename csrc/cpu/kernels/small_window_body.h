// The adjoint of small windows, in registers; compiled once per CPU level by level_*.cpp, inside the level's
// namespace, after window_bias_body.h.

namespace {

using namespace posenc_ext::core;

// The adjoint of small windows. A line of the table, the rows of its 2 w - 1 offsets on the last axis, is the
// sum of runs of w gradients: each begins at the lane where its first key's row stands. For each of the w
// queries that share cells on the other axes there are lanes of their own, which are added at the end.
constexpr int64_t kLineSums = 2 * kSmallWidth;

template <class T>
struct StridedSums {
  struct Reach {
    int64_t first, last;
  };
  accumulator_t<T> lane[kLineSums];

  // Which lanes a run reaches.
  static Reach reach(int64_t first, int64_t last) { return {first, last}; }
  void clear() {
    for (accumulator_t<T>& sum : lane) sum = 0;
  }
  // The run, counted from where it would begin if it reached lane 0; what it does not reach is not read.
  void add(const T* from, int64_t stride, Reach r) {
    for (int64_t i = r.first; i < r.last; ++i) lane[i] += widen(from[i * stride]);
  }
  void add(const StridedSums& other) {
    for (int64_t i = 0; i < kLineSums; ++i) lane[i] += other.lane[i];
  }
  void store(accumulator_t<T>* to) const { memcpy(to, lane, sizeof(lane)); }
};

// The same for keys side by side.
#if POSENC_VECTOR_BYTES == 64
inline __m512 load_lanes(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512 load_lanes(const BFloat16* from, __mmask16 mask) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
inline __m512 load_lanes(const Half* from, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}

struct MaskedLanes {
  using Reach = __mmask16;
  static Reach reach(int64_t first, int64_t last) { return static_cast<Reach>((1u << last) - (1u << first)); }
};

template <class T>
struct AdjacentSums : MaskedLanes {
  __m512 lane;

  void clear() { lane = _mm512_setzero_ps(); }
  void add(const T* from, int64_t, Reach mask) { lane = _mm512_add_ps(lane, load_lanes(from, mask)); }
  void add(const AdjacentSums& other) { lane = _mm512_add_ps(lane, other.lane); }
  void store(float* to) const { _mm512_storeu_ps(to, lane); }
};

template <>
struct AdjacentSums<double> : MaskedLanes {
  __m512d low, high;

  void clear() { low = high = _mm512_setzero_pd(); }
  void add(const double* from, int64_t, Reach mask) {
    low = _mm512_add_pd(low, _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from));
    high = _mm512_add_pd(high, _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask >> 8), from + 8));
  }
  void add(const AdjacentSums& other) {
    low = _mm512_add_pd(low, other.low);
    high = _mm512_add_pd(high, other.high);
  }
  void store(double* to) const {
    _mm512_storeu_pd(to, low);
    _mm512_storeu_pd(to + 8, high);
  }
};
#else
template <class T>
struct AdjacentSums : StridedSums<T> {
  void add(const T* from, int64_t, typename StridedSums<T>::Reach r) { StridedSums<T>::add(from, 1, r); }
  void add(const AdjacentSums& other) { StridedSums<T>::add(other); }
};

#if POSENC_VECTOR_BYTES == 32
template <>
struct AdjacentSums<float> {
  struct Reach {
    __m256i low, high;
  };
  __m256 low, high;

  static Reach reach(int64_t first, int64_t last) {
    int32_t mask[kLineSums];
    for (int64_t i = 0; i < kLineSums; ++i) mask[i] = first <= i && i < last ? -1 : 0;
    const __m256i* half = reinterpret_cast<const __m256i*>(mask);
    return {_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1)};
  }
  void clear() { low = high = _mm256_setzero_ps(); }
  void add(const float* from, int64_t, const Reach& mask) {
    low = _mm256_add_ps(low, _mm256_maskload_ps(from, mask.low));
    high = _mm256_add_ps(high, _mm256_maskload_ps(from + 8, mask.high));
  }
  void add(const AdjacentSums& other) {
    low = _mm256_add_ps(low, other.low);
    high = _mm256_add_ps(high, other.high);
  }
  void store(float* to) const {
    _mm256_storeu_ps(to, low);
    _mm256_storeu_ps(to + 8, high);
  }
};
#endif
#endif

// Sums of one head, rows in descending order; `sums` has room for kLineSums more.
template <class Sums, class T>
inline void sum_small_window(const WindowScheme& s, const BiasBackward& a, const T* grad,
                             accumulator_t<T>* sums) {
  const int64_t depth = s.window[0], height = s.window[1], width = s.window[2], prefix = s.prefix();
  const int64_t query_stride = a.query_stride, key_stride = a.key_stride;
  typename Sums::Reach reach[kSmallWidth];
  int64_t offset[kSmallWidth];
  for (int64_t c = 0; c < kSmallWidth; ++c) {
    const int64_t first = max_of<int64_t>(0, width - 1 - c);
    reach[c] = Sums::reach(first, c < width ? first + width : first);
    offset[c] = c * query_stride - first * key_stride;
  }
  grad += prefix * (query_stride + key_stride);
  sums += 3 * prefix;
  for (int64_t i = 0; i < 2 * depth - 1; ++i) {
    const int64_t first_x = max_of<int64_t>(0, depth - 1 - i), last_x = min_of(depth, 2 * depth - 1 - i);
    for (int64_t j = 0; j < 2 * height - 1; ++j, sums += 2 * width - 1) {
      const int64_t first_y = max_of<int64_t>(0, height - 1 - j), last_y = min_of(height, 2 * height - 1 - j);
      Sums chain[kSmallWidth];
#pragma GCC unroll 8
      for (int64_t c = 0; c < kSmallWidth; ++c) chain[c].clear();
      for (int64_t x = first_x; x < last_x; ++x) {
        for (int64_t y = first_y; y < last_y; ++y) {
          const int64_t key = ((x + i - (depth - 1)) * height + y + j - (height - 1)) * width;
          const T* run = grad + (x * height + y) * width * query_stride + key * key_stride;
#pragma GCC unroll 8
          for (int64_t c = 0; c < kSmallWidth; ++c) chain[c].add(run + offset[c], key_stride, reach[c]);
        }
      }
#pragma GCC unroll 8
      for (int64_t c = 1; c < kSmallWidth; ++c) chain[0].add(chain[c]);
      chain[0].store(sums);
    }
  }
}

// Windows of which a head's gradient stays in the caches while row after row sums up its own part of it.
inline bool is_small(const WindowScheme& s) {
  constexpr int64_t kSmallKeys = 256;
  return s.window[2] > 1 && s.window[2] <= kSmallWidth && s.keys() <= kSmallKeys;
}

// AVX2 has no masked loads of half types: their gradients become floats first.
template <class T>
constexpr bool kWidensFirst = POSENC_VECTOR_BYTES == 32 && sizeof(T) == 2;

template <class T, class Stride>
inline void widen_row(Row<T, Stride> row, int64_t count, float* to) {
  write_row(false, count, to,
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
      return sum_small_window<AdjacentSums<float>>(s, widened, static_cast<const float*>(wide), sums);
    }
  }
  if (a.key_stride == 1) return sum_small_window<AdjacentSums<T>>(s, a, grad, sums);
  sum_small_window<StridedSums<T>>(s, a, grad, sums);
}

template <class T>
void small_window_backward(const WindowScheme& s, const BiasBackward& a, void* scratch, int64_t begin,
                           int64_t end) {
  using Sum = accumulator_t<T>;
  using Bits = typename BitsOf<sizeof(T)>::type;
  const int64_t rows = s.rows(), prefix = s.prefix(), stride = a.key_stride;
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
