// Tables by angle addition; compiled once per CPU level by level_*.cpp, inside the level's namespace, after
// sinusoidal_body.h.
//
// Accuracy. A factor is within an ulp, so v = fl(fl(V C) +- fl(W S)) is off by less than 2.5 * 2^-52 (|V| +
// |S|), for |C|, |W| <= 1, and by its own rounding. Where |v| >= 2^-16 (|V| + |S|) that is less than 2^-10
// ulp of a float32. Other values, one in some 50,000, are evaluated at their own position. No error grows
// from row to row.

namespace {

// The channels of an anchor row: value V, that a quarter turn on W, and the bits of the float below which |v|
// is in doubt.
struct Anchor {
  double* value;
  double* slope;
  int32_t* doubt;
};

// Calls put(channel, sine or cosine, that a quarter turn on) for every channel at position p but that of a
// zero.
template <class Put>
inline void encode_turns(const Frequencies& f, double p, Put put) {
  const Sinusoid& s = f.spec;
  const Places at = places(s);
  encode_blocks<false>(f, p, 0, [&](int64_t j, int64_t count, const PairBlock& block) {
    const int64_t both = min_of(count, s.pairs() - j);
    for (int64_t i = 0; i < both; ++i) put(at.sine + at.step * (j + i), block.sine[i], block.cosine[i]);
    for (int64_t i = 0; i < both; ++i) put(at.cosine + at.step * (j + i), block.cosine[i], -block.sine[i]);
    if (both < count) put(at.extra, block.sine[both], block.cosine[both]);
  });
}

inline double value_at(const Frequencies& f, double p, int64_t c) {
  const Channel at = channel(f.spec, c);
  const QuarterTurns turns = reduce<false>(p, {f.hi[at.pair], f.lo[at.pair]});
  return sine_at(sine_cosine(turns), turns.quadrant, at.phase);
}

template <class T>
inline Floats before_rounding(Doubles x) {
  if constexpr (sizeof(T) == sizeof(float)) return to_floats(x);
  if constexpr (sizeof(T) < sizeof(float)) return round_to_odd(x);
}

// Channels worked on at a time: their anchors and two rows of them stay in L1.
constexpr int64_t kSegment = 512;

// `count` channels of the rows k after and k before the anchor. Returns whether any is in doubt.
template <class T>
inline bool add_angles(const Anchor& a, const double* cosine, const double* sine, int64_t count,
                       float* __restrict after, float* __restrict before) {
  for (int64_t c = 0; c < count; c += kOctet) {
    const auto load = [c](const double* from) { return widen(Octet<double>::load(from + c)); };
    const Doubles x = load(a.value) * load(cosine), y = load(a.slope) * load(sine);
    Octet<float>::round(before_rounding<T>(x + y)).store(after + c);
    Octet<float>::round(before_rounding<T>(x - y)).store(before + c);
  }
  int32_t below = 0;  // its sign
  for (int64_t c = 0; c < count; ++c) {
    below |= (bit_cast<int32_t>(after[c]) & 0x7fffffff) - a.doubt[c];
    below |= (bit_cast<int32_t>(before[c]) & 0x7fffffff) - a.doubt[c];
  }
  return below < 0;
}

template <class T>
void mend(const Frequencies& f, const Anchor& a, double p, int64_t first, int64_t count, float* row) {
  for (int64_t c = 0; c < count; ++c) {
    if ((bit_cast<int32_t>(row[c]) & 0x7fffffff) >= a.doubt[c]) continue;
    const double value = value_at(f, p, first + c);
    row[c] = sizeof(T) == sizeof(float) ? static_cast<float>(value) : round_to_odd(value);
  }
}

template <class T>
void table_block(const SinusoidTable& a, int64_t centre, const Anchor& anchor) {
  const int64_t dim = a.frequencies.spec.dim, width = a.width(dim);
  const auto position = [](int64_t p) { return static_cast<double>(p); };
  alignas(64) float after[kSegment], before[kSegment];
  for (int64_t first = 0; first < dim; first += kSegment) {
    const int64_t count = min_of(kSegment, dim - first);
    const Anchor here{anchor.value + first, anchor.slope + first, anchor.doubt + first};
    const auto write = [&](int64_t p, const float* row) {
      T* to = static_cast<T*>(a.out) + (p - a.start) * a.row_stride + first;
      write_row(a.past_caches, count, to,
                [row](int64_t c, int64_t) { return Octet<T>::round(widen(Octet<float>::load(row + c))); });
    };
    const auto holds = [&a](int64_t p) { return p >= a.start && p - a.start < a.length; };
    if (holds(centre)) {
      for (int64_t c = 0; c < count; c += kOctet) {
        const Doubles value = widen(Octet<double>::load(here.value + c));
        Octet<float>::round(before_rounding<T>(value)).store(after + c);
      }
      write(centre, after);
    }
    for (int64_t k = 1; k <= a.kReach; ++k) {
      const bool has_after = holds(centre + k), has_before = k < a.kReach && holds(centre - k);
      if (!has_after && !has_before) continue;
      const double* cosine = a.steps + (k - 1) * 2 * width + first;
      if (add_angles<T>(here, cosine, cosine + width, count, after, before)) {
        mend<T>(a.frequencies, here, position(centre + k), first, count, after);
        mend<T>(a.frequencies, here, position(centre - k), first, count, before);
      }
      if (has_after) write(centre + k, after);
      if (has_before) write(centre - k, before);
    }
  }
}

template <class T>
void sinusoid_table_typed(const SinusoidTable& a, int64_t begin, int64_t end) {
  const int64_t width = a.width(a.frequencies.spec.dim);
  // All that are left out below stay zero: the zero of an odd dim, and the rest of the last octet.
  double* doubles = new double[static_cast<size_t>(2 * width)]{};
  int32_t* doubt = new int32_t[static_cast<size_t>(width)]{};
  const Anchor anchor{doubles, doubles + width, doubt};
  const double* largest_step = a.steps + 2 * a.kReach * width;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t centre = (a.first_block() + block) * a.kBlock;
    encode_turns(a.frequencies, static_cast<double>(centre), [&](int64_t c, double value, double slope) {
      anchor.value[c] = value;
      anchor.slope[c] = slope;
    });
    for (int64_t c = 0; c < width; ++c) {
      const double doubt_below = 0x1p-16 * (fabs(anchor.value[c]) + largest_step[c]);
      anchor.doubt[c] = bit_cast<int32_t>(static_cast<float>(doubt_below));
    }
    table_block<T>(a, centre, anchor);
  }
  delete[] doubt;
  delete[] doubles;
  if (a.past_caches) finish_streams();
}

}  // namespace

// For each of 1 to kReach steps the cosine of every channel's angle, then the sine; at the end the largest
// |sine|.
void sinusoid_steps(const Frequencies& f, double* steps) {
  const int64_t width = SinusoidTable::width(f.spec.dim);
  double* largest = steps + 2 * SinusoidTable::kReach * width;
  for (int64_t c = 0; c < SinusoidTable::steps_size(f.spec.dim); ++c) steps[c] = 0.0;
  for (int64_t k = 0; k < SinusoidTable::kReach; ++k) {
    double* cosine = steps + 2 * k * width;
    double* sine = cosine + width;
    const Places at = places(f.spec);
    encode_blocks<false>(f, static_cast<double>(k + 1), 0,
                         [&](int64_t j, int64_t count, const PairBlock& block) {
                           const auto put = [&](int64_t c, int64_t i) {
                             cosine[c] = block.cosine[i];
                             sine[c] = block.sine[i];
                           };
                           const int64_t both = min_of(count, f.spec.pairs() - j);
                           for (int64_t i = 0; i < both; ++i) put(at.sine + at.step * (j + i), i);
                           for (int64_t i = 0; i < both; ++i) put(at.cosine + at.step * (j + i), i);
                           if (both < count) put(at.extra, both);
                         });
    for (int64_t c = 0; c < width; ++c) largest[c] = max_of(largest[c], fabs(sine[c]));
  }
}

void sinusoid_table(const SinusoidTable& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case DType::float32:
      return sinusoid_table_typed<float>(a, begin, end);
    case DType::float16:
      return sinusoid_table_typed<Half>(a, begin, end);
    default:
      return sinusoid_table_typed<BFloat16>(a, begin, end);
  }
}
