// Sums of half types in floats, as many as a register holds; compiled for the levels that have such
// registers, by sums_body.h.

#if POSENC_VECTOR_BYTES == 64

struct Wide {
  __m512 v;
};
constexpr int64_t kWide = 16;

inline Wide wide_of(const Doubles* x) {
  const __m256 low = to_floats(x[0]).v, high = to_floats(x[1]).v;
  return {_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1)};
}
inline Wide load_wide(const BFloat16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline Wide load_wide(const Half* x) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))};
}
inline Wide near_sum(Wide x, Wide s_hi, Wide s_lo, Wide e_hi, Wide e_lo) {
  return {_mm512_add_ps(_mm512_fmadd_ps(x.v, s_hi.v, e_hi.v), _mm512_fmadd_ps(x.v, s_lo.v, e_lo.v))};
}

template <class T>
inline bool in_doubt(const Wide (&sums)[2]) {
  __mmask16 doubt = 0;
  __m512i most = _mm512_setzero_si512();
  for (const Wide& x : sums) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i shifted = _mm512_add_epi32(bits, _mm512_set1_epi32(kToMiddle<T>));
    doubt |= _mm512_testn_epi32_mask(shifted, _mm512_set1_epi32(kAroundMiddle<T>));
    // Twice the bits lose the sign.
    most = _mm512_max_epu32(most, _mm512_sub_epi32(_mm512_add_epi32(bits, bits),
                                                   _mm512_set1_epi32(static_cast<int>(2 * kSmallest))));
  }
  doubt |= _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(static_cast<int>(2 * (kInfinity - kSmallest))));
  return doubt != 0;
}

inline __m256i round_clear(Wide x, BFloat16) {
  const __m512i up = _mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x8000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}
inline __m256i round_clear(Wide x, Half) { return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT); }

template <class T>
inline Line<T> round_clear(const Wide (&sums)[2]) {
  return {
      _mm512_inserti64x4(_mm512_castsi256_si512(round_clear(sums[0], T{})), round_clear(sums[1], T{}), 1)};
}

#else

struct Wide {
  __m256 v;
};
constexpr int64_t kWide = 8;

inline Wide wide_of(const Doubles* x) { return {to_floats(*x).v}; }
template <class T>
inline Wide load_wide(const T* x) {
  return {widen(Octet<T>::load(x)).v};
}
inline Wide near_sum(Wide x, Wide s_hi, Wide s_lo, Wide e_hi, Wide e_lo) {
  return {_mm256_add_ps(_mm256_fmadd_ps(x.v, s_hi.v, e_hi.v), _mm256_fmadd_ps(x.v, s_lo.v, e_lo.v))};
}

template <class T>
inline bool in_doubt(const Wide (&sums)[4]) {
  __m256i near_middle = _mm256_setzero_si256(), most = _mm256_set1_epi32(INT32_MIN);
  for (const Wide& x : sums) {
    const __m256i bits = _mm256_castps_si256(x.v);
    const __m256i shifted = _mm256_add_epi32(bits, _mm256_set1_epi32(kToMiddle<T>));
    const __m256i around = _mm256_and_si256(shifted, _mm256_set1_epi32(kAroundMiddle<T>));
    near_middle = _mm256_or_si256(near_middle, _mm256_cmpeq_epi32(around, _mm256_setzero_si256()));
    // Twice the bits lose the sign; the range begins at the least int, as signed numbers are compared.
    const __m256i range = _mm256_add_epi32(_mm256_add_epi32(bits, bits),
                                           _mm256_set1_epi32(static_cast<int>(0x80000000u - 2 * kSmallest)));
    most = _mm256_max_epi32(most, range);
  }
  const __m256i last = _mm256_set1_epi32(static_cast<int>(2 * (kInfinity - kSmallest) - 1 + 0x80000000u));
  const __m256i doubt = _mm256_or_si256(near_middle, _mm256_cmpgt_epi32(most, last));
  return _mm256_testz_si256(doubt, doubt) == 0;
}

inline __m256i rounded_up(Wide x) {
  return _mm256_srli_epi32(_mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_set1_epi32(0x8000)), 16);
}
inline __m256i round_clear(Wide a, Wide b, BFloat16) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded_up(a), rounded_up(b)), 0xd8);
}
inline __m256i round_clear(Wide a, Wide b, Half) {
  return _mm256_set_m128i(_mm256_cvtps_ph(b.v, _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

template <class T>
inline Line<T> round_clear(const Wide (&sums)[4]) {
  return {{round_clear(sums[0], sums[1], T{}), round_clear(sums[2], sums[3], T{})}};
}

#endif

// x * x_scale + encoding: in floats, unless core/near_sum.h leaves a doubt.
template <class T>
struct NearScaledSum {
  using Addend = double;
  static constexpr int64_t kWides = kLineElements<T> / kWide;
  static constexpr int64_t kDoubles = kWide / kOctet;

  // Doubles as sums of two floats.
  struct Parts {
    Wide high, low;

    static Parts of(const Doubles (&x)[kDoubles]) {
      Doubles rest[kDoubles];
      for (int64_t i = 0; i < kDoubles; ++i) rest[i] = x[i] - to_double(to_floats(x[i]));
      return {wide_of(x), wide_of(rest)};
    }
  };

  ScaledSum<T, double> exact;
  Parts x_scale;
  Doubles factor;
  bool near;

  NearScaledSum(double scale, const SeededDropout& d) : exact(scale, d) {
    const double kept_scale = d.drops() ? d.dropout.scale : 1.0;
    Doubles all[kDoubles];
    for (Doubles& x : all) x = all_of(scale * kept_scale);
    x_scale = Parts::of(all);
    factor = all_of(kept_scale);
    near = is_near(scale * kept_scale, kept_scale);
  }

  struct Shared {
    Parts addend[kWides];
  };

  Shared shared(const double* addend) const {
    Shared s;
    for (int64_t i = 0; i < kWides; ++i) {
      Doubles x[kDoubles];
      for (Doubles& octet : x) {
        octet = Octet<double>::load(addend).all * factor;
        addend += kOctet;
      }
      s.addend[i] = Parts::of(x);
    }
    return s;
  }

  template <bool kDrops>
  Line<T> line(const T* x, const double* addend, const Shared& s) const {
    Wide sums[kWides];
    for (int64_t i = 0; i < kWides; ++i) {
      sums[i] =
          near_sum(load_wide(x + i * kWide), x_scale.high, x_scale.low, s.addend[i].high, s.addend[i].low);
    }
    if (near && !in_doubt<T>(sums)) [[likely]]
      return round_clear<T>(sums);
    return exact.template line<kDrops>(x, addend, exact.shared(addend));
  }
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
inline __m256i round_wide(__m512 x, BFloat16) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0)));
}
inline __m256i round_wide(__m512 x, Half) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0x80000000u)));
  const __m512i clean =
      _mm512_mask_or_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), sign, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtps_ph(_mm512_castsi512_ps(clean), _MM_FROUND_TO_NEAREST_INT);
}

template <class T>
struct WidePlainSum {
  using Addend = T;

  struct Shared {
    Wide addend[2];
  };
  Shared shared(const T* addend) const { return {{load_wide(addend), load_wide(addend + kWide)}}; }

  template <bool kDrops>
  Line<T> line(const T* x, const T*, const Shared& s) const {
    const __m256i low = round_wide(_mm512_add_ps(load_wide(x).v, s.addend[0].v), T{});
    const __m256i high = round_wide(_mm512_add_ps(load_wide(x + kWide).v, s.addend[1].v), T{});
    return {_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)};
  }
};

template <>
struct PlainSum<Half> : WidePlainSum<Half> {};
template <>
struct PlainSum<BFloat16> : WidePlainSum<BFloat16> {};

#endif
