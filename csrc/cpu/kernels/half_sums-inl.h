// Sums of half types in floats, as many as a register holds; compiled for the levels that have such
// registers, by sums_body.h.

// A line's elements, widened. Of BFloat16 those at even places of a register come first, then those at odd
// ones: so they are widened by a shift and a mask, and put together again by a blend.
constexpr int64_t kWide = POSENC_VECTOR_BYTES / 4;
constexpr int64_t kHalfWides = kLine / 2 / kWide;

#if POSENC_VECTOR_BYTES == 64

struct Wide {
  __m512 v;
};

inline Wide load_wide(const float* from) { return {_mm512_loadu_ps(from)}; }
inline void store(Wide x, float* to) { _mm512_storeu_ps(to, x.v); }
inline Wide wide_of(const Doubles* x) {
  const __m256 low = to_floats(x[0]).v, high = to_floats(x[1]).v;
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}
inline void load_line(const BFloat16* x, Wide (&w)[kHalfWides]) {
  const __m512i both = _mm512_loadu_si512(x);
  w[0].v = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  w[1].v = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline void load_line(const Half* x, Wide (&w)[kHalfWides]) {
  for (int64_t i = 0; i < kHalfWides; ++i) {
    w[i].v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i * kWide)));
  }
}
inline void order_as(BFloat16, Wide (&w)[kHalfWides]) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512 first = w[0].v;
  w[0].v = _mm512_permutex2var_ps(first, even, w[1].v);
  w[1].v = _mm512_permutex2var_ps(first, _mm512_or_si512(even, _mm512_set1_epi32(1)), w[1].v);
}
inline Wide near_product(Wide x, Wide s_hi, Wide s_lo) {
  return {_mm512_fmadd_ps(x.v, s_hi.v, _mm512_mul_ps(x.v, s_lo.v))};
}
inline Wide near_sum(Wide x, Wide s_hi, Wide s_lo, Wide e_hi, Wide e_lo) {
  return {_mm512_add_ps(_mm512_fmadd_ps(x.v, s_hi.v, e_hi.v), _mm512_fmadd_ps(x.v, s_lo.v, e_lo.v))};
}

template <class T>
inline __m512i to_middle(Wide x) {
  return _mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_set1_epi32(kToMiddle<T>));
}
// Of each 32 bits the upper half of `upper`, the lower half of `lower`.
inline __m512i join_halves(__m512i upper, __m512i lower) {
  constexpr int kSelect = 0xca;  // the second where the first is set, else the third
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int>(0xffff0000u)), upper, lower, kSelect);
}
// Where sums are near a middle: for BFloat16 that is where the lower half of one of two is least.
inline __mmask32 round_near(const Wide (&sums)[kHalfWides], Line<BFloat16>& line) {
  const __m512i even = to_middle<BFloat16>(sums[0]), odd = to_middle<BFloat16>(sums[1]);
  line.all = join_halves(odd, _mm512_srli_epi32(even, 16));
  return _mm512_testn_epi32_mask(_mm512_min_epu16(even, odd), _mm512_set1_epi32(kAroundMiddle<BFloat16>));
}
inline __mmask32 round_near(const Wide (&sums)[kHalfWides], Line<Half>& line) {
  const __m256i low = _mm512_cvtps_ph(sums[0].v, _MM_FROUND_TO_NEAREST_INT);
  const __m256i high = _mm512_cvtps_ph(sums[1].v, _MM_FROUND_TO_NEAREST_INT);
  line.all = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  const __m512i cut =
      join_halves(_mm512_slli_epi32(_mm512_castps_si512(sums[1].v), 16), _mm512_castps_si512(sums[0].v));
  return _mm512_testn_epi16_mask(
      _mm512_add_epi16(cut, _mm512_set1_epi16(static_cast<int16_t>(kToMiddle<Half>))),
      _mm512_set1_epi16(static_cast<int16_t>(kAroundMiddle<Half>)));
}

// The sums rounded, and whether core/near_sum.h leaves a doubt about one.
template <uint16_t kSmallest, class T>
inline bool rounds_in_doubt(const Wide (&sums)[kHalfWides], Line<T>& line) {
  const __mmask32 near_middle = round_near(sums, line);
  const __m512i range = _mm512_sub_epi16(_mm512_add_epi16(line.all, line.all),
                                         _mm512_set1_epi16(static_cast<int16_t>(2 * kSmallest)));
  const __m512i end = _mm512_set1_epi16(static_cast<int16_t>(kTwiceRange<T, kSmallest>));
  return _kortestz_mask32_u8(near_middle, _mm512_cmpge_epu16_mask(range, end)) == 0;
}

#else

struct Wide {
  __m256 v;
};

inline Wide load_wide(const float* from) { return {_mm256_loadu_ps(from)}; }
inline void store(Wide x, float* to) { _mm256_storeu_ps(to, x.v); }
inline Wide wide_of(const Doubles* x) { return {to_floats(*x).v}; }
inline void load_line(const BFloat16* x, Wide (&w)[kHalfWides]) {
  for (int64_t i = 0; i < kHalfWides; i += 2) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i * kWide));
    w[i].v = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    w[i + 1].v =
        _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
}
inline void load_line(const Half* x, Wide (&w)[kHalfWides]) {
  for (int64_t i = 0; i < kHalfWides; ++i) w[i].v = widen(Octet<Half>::load(x + i * kWide)).v;
}
inline __m256 in_order(__m256 x) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8));
}
inline void order_as(BFloat16, Wide (&w)[kHalfWides]) {
  for (int64_t i = 0; i < kHalfWides; i += 2) {
    const __m256 first = w[i].v;
    w[i].v = in_order(_mm256_shuffle_ps(first, w[i + 1].v, 0x88));
    w[i + 1].v = in_order(_mm256_shuffle_ps(first, w[i + 1].v, 0xdd));
  }
}
inline Wide near_product(Wide x, Wide s_hi, Wide s_lo) {
  return {_mm256_fmadd_ps(x.v, s_hi.v, _mm256_mul_ps(x.v, s_lo.v))};
}
inline Wide near_sum(Wide x, Wide s_hi, Wide s_lo, Wide e_hi, Wide e_lo) {
  return {_mm256_add_ps(_mm256_fmadd_ps(x.v, s_hi.v, e_hi.v), _mm256_fmadd_ps(x.v, s_lo.v, e_lo.v))};
}

template <class T>
inline __m256i to_middle(Wide x) {
  return _mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_set1_epi32(kToMiddle<T>));
}
// The sums rounded, and all bits set in a lane where one is near a middle. For BFloat16 that is where the
// lower half of one of four is least.
inline __m256i round_near(const Wide (&sums)[kHalfWides], Line<BFloat16>& line) {
  __m256i least[2];
  for (int i = 0; i < 2; ++i) {
    const __m256i even = to_middle<BFloat16>(sums[2 * i]), odd = to_middle<BFloat16>(sums[2 * i + 1]);
    line.half[i] = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
    least[i] = _mm256_min_epu16(even, odd);
  }
  const __m256i around = _mm256_set1_epi32(kAroundMiddle<BFloat16>);
  const __m256i low = _mm256_and_si256(_mm256_min_epu16(least[0], least[1]), around);
  return _mm256_cmpeq_epi32(low, _mm256_setzero_si256());
}
inline __m256i round_near(const Wide (&sums)[kHalfWides], Line<Half>& line) {
  __m256i around[2];
  for (int i = 0; i < 2; ++i) {
    const __m256 low = sums[2 * i].v, high = sums[2 * i + 1].v;
    line.half[i] = _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                                    _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
    const __m256i cut =
        _mm256_blend_epi16(_mm256_castps_si256(low), _mm256_slli_epi32(_mm256_castps_si256(high), 16), 0xaa);
    around[i] =
        _mm256_and_si256(_mm256_add_epi16(cut, _mm256_set1_epi16(static_cast<int16_t>(kToMiddle<Half>))),
                         _mm256_set1_epi16(static_cast<int16_t>(kAroundMiddle<Half>)));
  }
  return _mm256_cmpeq_epi16(_mm256_min_epu16(around[0], around[1]), _mm256_setzero_si256());
}

// The sums rounded, and whether core/near_sum.h leaves a doubt about one.
template <uint16_t kSmallest, class T>
inline bool rounds_in_doubt(const Wide (&sums)[kHalfWides], Line<T>& line) {
  const __m256i near_middle = round_near(sums, line);
  // The range begins at the least number, as signed ones are compared.
  const __m256i least = _mm256_set1_epi16(static_cast<int16_t>(0x8000 - 2 * kSmallest));
  const __m256i last = _mm256_set1_epi16(static_cast<int16_t>(0x8000 + kTwiceRange<T, kSmallest> - 1));
  const auto range = [=](__m256i half) { return _mm256_add_epi16(_mm256_add_epi16(half, half), least); };
  const __m256i furthest = _mm256_max_epi16(range(line.half[0]), range(line.half[1]));
  const __m256i doubt = _mm256_or_si256(near_middle, _mm256_cmpgt_epi16(furthest, last));
  return _mm256_testz_si256(doubt, doubt) == 0;
}

#endif

inline void order_as(Half, Wide (&)[kHalfWides]) {}

// Encodings, and each as the sum of two floats: a line of the high ones, a line of the low ones and so on, in
// the order of load_line.
struct NearAddend {
  const double* exact;
  const float* parts;

  NearAddend operator+(int64_t elements) const { return {exact + elements, parts + 2 * elements}; }
};

// Doubles as sums of two floats.
constexpr int64_t kDoubles = kWide / kOctet;
struct Parts {
  Wide high, low;

  explicit Parts(const Doubles (&x)[kDoubles]) : high(wide_of(x)) {
    Doubles rest[kDoubles];
    for (int64_t i = 0; i < kDoubles; ++i) rest[i] = x[i] - to_double(to_floats(x[i]));
    low = wide_of(rest);
  }
  Parts(Wide high, Wide low) : high(high), low(low) {}

  static Parts all(double x) {
    Doubles same[kDoubles];
    for (Doubles& octet : same) octet = all_of(x);
    return Parts(same);
  }
  // Both with the sign of x: so the sum of their products with zero has the sign of its own.
  static Parts of_one_sign(double x) {
    const float nearest = static_cast<float>(x);
    const bool is_less = !(fabs(static_cast<double>(nearest)) > fabs(x));  // NaN is kept
    const float high = is_less ? nearest : bit_cast<float>(bit_cast<uint32_t>(nearest) - 1);
    const double rest = fabs(x - static_cast<double>(high));
    return {all(static_cast<double>(high)).high, all(x < 0.0 ? -rest : rest).high};
  }
};

inline double kept_scale(const SeededDropout& d) { return d.drops() ? d.dropout.scale : 1.0; }

// A scale outside the bound makes what is no number of every sum: that leaves all in doubt.
inline double near_scale(double x_scale, double factor) {
  return is_near(x_scale, factor) ? x_scale : __builtin_nan("");
}

// x * x_scale + encoding: in floats, unless core/near_sum.h leaves a doubt.
template <class T>
struct NearScaledSum {
  using Addend = NearAddend;

  ScaledSum<T, double> exact;
  Parts scale;
  Doubles factor;

  NearScaledSum(double x_scale, const SeededDropout& d)
      : exact(x_scale, d),
        scale(Parts::all(near_scale(x_scale * kept_scale(d), kept_scale(d)))),
        factor(all_of(kept_scale(d))) {}

  NearAddend prepared(const double* addends, int64_t count, double* room) const {
    float* to = reinterpret_cast<float*>(room);
    for (int64_t c = 0; c < count; c += kLineElements<T>) {
      Wide high[kHalfWides], low[kHalfWides];
      for (int64_t i = 0; i < kHalfWides; ++i) {
        Doubles x[kDoubles];
        for (int64_t k = 0; k < kDoubles; ++k) {
          x[k] = Octet<double>::load(addends + c + i * kWide + k * kOctet).all * factor;
        }
        const Parts parts(x);
        high[i] = parts.high, low[i] = parts.low;
      }
      order_as(T{}, high);
      order_as(T{}, low);
      for (int64_t i = 0; i < kHalfWides; ++i) {
        store(high[i], to + 2 * c + i * kWide);
        store(low[i], to + 2 * c + (kHalfWides + i) * kWide);
      }
    }
    return {addends, to};
  }

  struct Shared {
    Wide high[kHalfWides], low[kHalfWides];
  };

  Shared shared(NearAddend addend) const {
    Shared s;
    for (int64_t i = 0; i < kHalfWides; ++i) {
      s.high[i] = load_wide(addend.parts + i * kWide);
      s.low[i] = load_wide(addend.parts + (kHalfWides + i) * kWide);
    }
    return s;
  }

  bool near_line(const T* x, const Shared& s, Line<T>& line) const {
    Wide sums[kHalfWides];
    load_line(x, sums);
    for (int64_t i = 0; i < kHalfWides; ++i) {
      sums[i] = near_sum(sums[i], scale.high, scale.low, s.high[i], s.low[i]);
    }
    return !rounds_in_doubt<NearSum<T>::kSmallest>(sums, line);
  }

  template <bool kDrops>
  POSENC_ALONE Line<T> exact_line(const T* x, NearAddend addend) const {
    return exact.template line<kDrops>(x, exact.shared(addend.exact));
  }
};

// x * x_scale: in floats, unless core/near_sum.h leaves a doubt.
struct NearProduct {
  using Addend = const BFloat16*;

  Product<BFloat16> exact;
  Parts scale;

  NearProduct(double x_scale, const SeededDropout& d)
      : exact(x_scale, d), scale(Parts::of_one_sign(near_scale(x_scale * kept_scale(d), 1.0))) {}

  struct Shared {};
  Shared shared(const BFloat16*) const { return {}; }

  bool near_line(const BFloat16* x, const Shared&, Line<BFloat16>& line) const {
    Wide products[kHalfWides];
    load_line(x, products);
    for (Wide& product : products) product = near_product(product, scale.high, scale.low);
    return !rounds_in_doubt<0>(products, line);
  }

  template <bool kDrops>
  POSENC_ALONE Line<BFloat16> exact_line(const BFloat16* x, const BFloat16*) const {
    return exact.line<kDrops>(x, {});
  }
};

// Middles of float16 lie closer below 2^-14, where gradients often are.
template <>
struct Scaling<BFloat16> {
  using type = NearProduct;
};

template <>
struct EncodingSum<Half> {
  using type = NearScaledSum<Half>;
};
template <>
struct EncodingSum<BFloat16> {
  using type = NearScaledSum<BFloat16>;
};

#if POSENC_VECTOR_BYTES == 64

// What Octet<T>::round does.
inline Line<BFloat16> round_line(const Wide (&w)[kHalfWides], BFloat16) {
  return {
      _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(round_upper(w[0].v), 16), round_upper(w[1].v))};
}
inline Line<Half> round_line(const Wide (&w)[kHalfWides], Half) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(round_halves(w[0].v)), round_halves(w[1].v), 1)};
}
inline Wide operator+(Wide a, Wide b) { return {_mm512_add_ps(a.v, b.v)}; }

#else

inline Line<BFloat16> round_line(const Wide (&w)[kHalfWides], BFloat16) {
  Line<BFloat16> line;
  for (int i = 0; i < 2; ++i) {
    const __m256i even = _mm256_srli_epi32(round_upper(w[2 * i].v), 16);
    line.half[i] = _mm256_blend_epi16(even, round_upper(w[2 * i + 1].v), 0xaa);
  }
  return line;
}
inline Line<Half> round_line(const Wide (&w)[kHalfWides], Half) {
  Octet<Half> octets[kLineOctets<Half>];
  for (int64_t i = 0; i < kHalfWides; ++i) octets[i] = Octet<Half>::round(Floats{w[i].v});
  return Line<Half>::of(octets);
}
inline Wide operator+(Wide a, Wide b) { return {_mm256_add_ps(a.v, b.v)}; }

#endif

template <class T>
struct WidePlainSum {
  using Addend = const T*;

  struct Shared {
    Wide addend[kHalfWides];
  };
  Shared shared(const T* addend) const {
    Shared s;
    load_line(addend, s.addend);
    return s;
  }

  template <bool kDrops>
  Line<T> line(const T* x, const Shared& s) const {
    Wide sums[kHalfWides];
    load_line(x, sums);
    for (int64_t i = 0; i < kHalfWides; ++i) sums[i] = sums[i] + s.addend[i];
    return round_line(sums, T{});
  }
};

template <>
struct PlainSum<Half> : WidePlainSum<Half> {};
template <>
struct PlainSum<BFloat16> : WidePlainSum<BFloat16> {};
