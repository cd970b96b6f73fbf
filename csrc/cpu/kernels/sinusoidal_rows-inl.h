// Rows of sinusoids, of any positions and of a table's; compiled once per CPU level by level_*.cpp,
// inside the level's namespace, after sinusoidal_writer.h. Accuracy of angle addition. A sine or cosine
// is within an ulp, so v = fl(fl(V C) +- fl(W S)) is off by less than 2.5 * 2^-52 (|V C| + |W S|) and by
// its own rounding; |V C| + |W S| is at most 1, and at most |V| + |S|. Where |v| is at least 2^-16 of
// the smaller, that is less than 2^-10 ulp of a float32. Sixteen pairs with another value among them are
// in doubt: they are evaluated at their own position. No error grows from row to row.
#pragma once

#include "core/near_sum.h"
#include "cpu/kernels/sinusoidal_writer-inl.h"
#include "cpu/simd/level.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr double kDoubt = 0x1p-16;

// A quicker test goes before: of sums rounded to floats, and of a sine s and a cosine c at once. A sine in
// doubt is below its limit L, and |c| is at most 1, so |s c| is below L. Where a cosine is in doubt, that is
// below 2^-16, |s| is 1 but for 2^-33, and L is 2^-16 of something no less than |s|: again |s c| is below L,
// but for what rounding adds. What this test says beyond that changes nothing, as the exact test follows.
//
// Half types: a sum is on the same side of a middle between two of them as the nearest float, or that float
// is the middle. So floats that are no middle round as sums do, and middles are in doubt, too; so are, for
// float16, all floats below 2^-14, where its middles lie closer.
constexpr float kSlack = 1.0f + 0x1p-8f;

template <class T>
inline Floats16 quick_limit(Floats16 doubt) {
  const Floats16 limit = doubt * all_of_floats(kSlack);
  if constexpr (std::is_same_v<T, Half>) return largest(limit, all_of_floats(kSlack * 0x1p-14f));
  return limit;
}

// Sixteen sines and cosines in registers.
struct Angles {
  Doubles sine[2], cosine[2];

  POSENC_HD explicit Angles(const SixteenPairs& from) {
    const auto load = [](const double* at) { return widen(Octet<double>::load(at)); };
    for (int i = 0; i < 2; ++i) sine[i] = load(from.sine + i * kOctet);
    for (int i = 0; i < 2; ++i) cosine[i] = load(from.cosine + i * kOctet);
  }
};

// Sixteen values of rows as far after an anchor as before it, to be rounded once to a T.
struct Sums {
  Floats16 after, before;
};

// Whether the quick test leaves a doubt about some of these.
template <class T>
POSENC_HD bool doubtful(const Floats16& sine, const Floats16& cosine, const Floats16& limit) {
  const Bits16 small = below(size_of(sine * cosine), limit);
  if constexpr (sizeof(T) == sizeof(float)) {
    return any_sign(small);
  } else {
    constexpr int kCut = NearSum<T>::kCut;
    return any_sign(small | middles(least_words(cut_bits<kCut>(sine), cut_bits<kCut>(cosine))));
  }
}
template <class T>
POSENC_HD bool doubtful(const Sums& sine, const Sums& cosine, const Floats16& limit) {
  const Bits16 small =
      below(least(size_of(sine.after * cosine.after), size_of(sine.before * cosine.before)), limit);
  if constexpr (sizeof(T) == sizeof(float)) {
    return any_sign(small);
  } else {
    constexpr int kCut = NearSum<T>::kCut;
    const Bits16 cut = least_words(least_words(cut_bits<kCut>(sine.after), cut_bits<kCut>(cosine.after)),
                                   least_words(cut_bits<kCut>(sine.before), cut_bits<kCut>(cosine.before)));
    return any_sign(small | middles(cut));
  }
}

template <class T, bool kCosine>
POSENC_HD Sums sums(const Angles& a, const Angles& b) {
  const Doubles* value = kCosine ? a.cosine : a.sine;
  const Doubles* slope = kCosine ? a.sine : a.cosine;
  const Doubles x[] = {value[0] * b.cosine[0], value[1] * b.cosine[1]};
  const Doubles y[] = {slope[0] * b.sine[0], slope[1] * b.sine[1]};
  const Floats16 sum = before_rounding<T>(x[0] + y[0], x[1] + y[1]);
  const Floats16 difference = before_rounding<T>(x[0] - y[0], x[1] - y[1]);
  return kCosine ? Sums{difference, sum} : Sums{sum, difference};
}

// Rare, so out of the way of the loops.
__attribute__((noinline)) void encode_sixteen(const double* hi, const double* lo, double p, bool cosine,
                                              double* values) {
  PairBlock block;
  encode_groups<false, false>(hi, lo, kSixteen, p, 0, block);
  memcpy(values, cosine ? block.cosine : block.sine, kSixteen * sizeof(double));
}

// The values of pairs from j on, rounded; where any of them is in doubt, all evaluated at position p.
template <class T, bool kCosine>
inline Sixteen<T> mended(Floats16 values, Floats16 doubt, const Frequencies& f, int64_t j, int64_t p) {
  if (!any_sign(below(size_of(values), doubt))) return Sixteen<T>::round(values);
  double exact[kSixteen];
  encode_sixteen(f.hi + j, f.lo + j, static_cast<double>(p), kCosine, exact);
  const auto load = [&exact](int64_t i) { return widen(Octet<double>::load(exact + i)); };
  return Sixteen<T>::round(before_rounding<T>(load(0), load(kOctet)));
}

// The row of a position whose anchor is kept, and stands before it or after.
template <class T, bool kAfter, class Writer>
void add_near(const SinusoidRows& a, int64_t p, const Writer& writer, T* row) {
  const AngleSteps& angles = a.angles;
  const int64_t block = AngleSteps::block_of(p), k = p - AngleSteps::anchor_of(block);
  const AnchorPairs* anchor = angles.anchors + block * angles.sixteens;
  const SixteenPairs* step = angles.steps + (kAfter ? k : -k);
  const auto own = [](const Sums& values) { return kAfter ? values.after : values.before; };
  for (int64_t j = 0; j < kSixteen * angles.sixteens;
       j += kSixteen, ++anchor, step += AngleSteps::kReach + 1) {
    const Angles at(anchor->at), by(*step);
    const Floats16 near_sine = own(sums<float, false>(at, by)), near_cosine = own(sums<float, true>(at, by));
    Sixteen<T> sine = round_clear<T>(near_sine), cosine = round_clear<T>(near_cosine);
    const Floats16 sine_doubt = load_floats(anchor->doubt);
    if (doubtful<T>(near_sine, near_cosine, quick_limit<T>(sine_doubt))) [[unlikely]] {
      sine = mended<T, false>(own(sums<T, false>(at, by)), sine_doubt, a.frequencies, j, p);
      cosine = mended<T, true>(own(sums<T, true>(at, by)), all_of_floats(kDoubt), a.frequencies, j, p);
    }
    writer.put_some(row, j, sine, cosine);
  }
}

template <class T, class Writer>
void encode_at(const SinusoidRows& a, double p, const Writer& writer, T* row) {
  encode_blocks<kShortFor<T>>(
      a.frequencies, p, a.order, [&](int64_t j, int64_t count, const PairBlock& block) {
        for (int64_t i = 0; i < count; i += kSixteen) {
          writer.put_some(row, j + i, round_sixteen<T>(block.sine + i), round_sixteen<T>(block.cosine + i));
        }
      });
}

template <class T>
void sinusoid_rows_typed(const SinusoidRows& a, int64_t begin, int64_t end) {
  const double near = static_cast<double>(a.angles.near);
  with_writer<T>(a.frequencies.spec, a.out, a.row_stride, a.past_caches, [&](const auto& writer) {
    for (int64_t i = begin; i < end; ++i) {
      T* row = static_cast<T*>(a.out) + i * a.row_stride;
      writer.put_zeros(row, a.row_stride, 1);
      const double p = position_of(a.positions, i);
      if constexpr (kShortFor<T>) {
        if (p >= 0.0 && p < near && p == floor(p)) {
          const int64_t whole = static_cast<int64_t>(p);
          const bool after = whole % AngleSteps::kBlock >= AngleSteps::kReach;
          after ? add_near<T, true>(a, whole, writer, row) : add_near<T, false>(a, whole, writer, row);
          continue;
        }
      }
      encode_at<T>(a, p, writer, row);
    }
  });
}

// The rows of a block that stand in the table: their offsets from its anchor.
struct BlockRows {
  int64_t centre, first, last;

  BlockRows(const SinusoidTable& a, int64_t at) : centre(at), first(a.start - at), last(first + a.length) {}
  POSENC_HD bool has_after(int64_t k) const { return k >= first && k < last && k < AngleSteps::kReach; }
  POSENC_HD bool has_before(int64_t k) const { return -k >= first && -k < last && k > 0; }
  template <class T>
  POSENC_HD T* row(const SinusoidTable& a, int64_t k) const {
    return static_cast<T*>(a.out) + (k - first) * a.row_stride;
  }
};

// kSixteens times sixteen pairs from j on, of the rows that lie first to last - 1 steps after the anchor and
// before it.
template <class T, int kSixteens, class Writer>
void add_steps(const SinusoidTable& a, const BlockRows& rows, int64_t first, int64_t last, int64_t j,
               const AnchorPairs* anchors, const Writer& writer) {
  AnchorPairs anchor[kSixteens];  // of its own: these stay in registers, as no row can overlap them
  for (int i = 0; i < kSixteens; ++i) anchor[i] = anchors[i];
  const SixteenPairs* step = a.angles.steps_of(j / kSixteen) + first;
  for (int64_t k = first; k < last; ++k, ++step) {
    T *after_row = rows.row<T>(a, k), *before_row = rows.row<T>(a, -k);
#pragma GCC unroll 2
    for (int i = 0; i < kSixteens; ++i) {
      const int64_t pair = j + i * kSixteen;
      const Angles at(anchor[i].at), by(step[i * (AngleSteps::kReach + 1)]);
      const Sums near_sine = sums<float, false>(at, by), near_cosine = sums<float, true>(at, by);
      struct {
        Sixteen<T> sine, cosine;
      } after{round_clear<T>(near_sine.after), round_clear<T>(near_cosine.after)},
          before{round_clear<T>(near_sine.before), round_clear<T>(near_cosine.before)};
      const Floats16 sine_doubt = load_floats(anchor[i].doubt), limit = quick_limit<T>(sine_doubt);
      if (doubtful<T>(near_sine, near_cosine, limit)) [[unlikely]] {
        const Sums sine = sums<T, false>(at, by), cosine = sums<T, true>(at, by);
        const Floats16 cosine_doubt = all_of_floats(kDoubt);
        const Frequencies& f = a.frequencies;
        after.sine = mended<T, false>(sine.after, sine_doubt, f, pair, rows.centre + k);
        after.cosine = mended<T, true>(cosine.after, cosine_doubt, f, pair, rows.centre + k);
        before.sine = mended<T, false>(sine.before, sine_doubt, f, pair, rows.centre - k);
        before.cosine = mended<T, true>(cosine.before, cosine_doubt, f, pair, rows.centre - k);
      }
      const auto put = [&](T* row, const auto& some) {
        kSixteens == 1 ? writer.put_some(row, pair, some.sine, some.cosine)
                       : writer.put(row, pair, some.sine, some.cosine);
      };
      if (rows.has_after(k)) put(after_row, after);
      if (rows.has_before(k)) put(before_row, before);
    }
  }
}

// Pairs [first, first + count) of the rows of a block, in pieces of two sixteens: shorter ones take longer on
// their way past the caches, and longer ones do not stay in registers. Pieces of a row follow one another
// after a few rows: memory is faster where 256 bytes that lie side by side come together.
template <class T, class Writer>
void add_pairs(const SinusoidTable& a, const BlockRows& rows, int64_t first, int64_t count,
               const AnchorPairs* anchors, const Writer& writer) {
  constexpr int64_t kSteps = AngleSteps::kReach / 2 + 1;
  for (int64_t k = 0; k <= AngleSteps::kReach; k += kSteps) {
    const int64_t last = min_of(k + kSteps, AngleSteps::kReach + 1);
    const AnchorPairs* anchor = anchors;
    int64_t j = first;
    for (; j + kSixteen < first + count && writer.holds(j + kSixteen); j += 2 * kSixteen, anchor += 2) {
      add_steps<T, 2>(a, rows, k, last, j, anchor, writer);
    }
    for (; j < first + count; j += kSixteen, ++anchor) add_steps<T, 1>(a, rows, k, last, j, anchor, writer);
  }
}

// The anchors of pairs [j, j + count), count a multiple of sixteen that a block holds.
inline void make_anchors(const Frequencies& f, const float* step_doubt, int64_t centre, int64_t j,
                         int64_t count, AnchorPairs* anchors) {
  const double p = static_cast<double>(centre);
  PairBlock block;
  encode_pairs<false>(f.hi + j, f.lo + j, count, p, 0, needs_huge_reduction(f.spec, p), block);
  for (int64_t i = 0; i < count; i += kSixteen, ++anchors) {
    for (int64_t c = 0; c < kSixteen; ++c) {
      anchors->at.sine[c] = block.sine[i + c];
      anchors->at.cosine[c] = block.cosine[i + c];
      anchors->doubt[c] = static_cast<float>(kDoubt * fabs(block.sine[i + c])) + step_doubt[j + i + c];
    }
  }
}

// Pairs [first, first + count), as many as a block of pairs holds, of the rows of a block.
template <class T, class Writer>
void add_block(const SinusoidTable& a, int64_t number, int64_t first, int64_t count, const Writer& writer) {
  const BlockRows rows(a, AngleSteps::anchor_of(number));
  // Past the caches others' memory has taken the place of the kept ones: to read them takes longer.
  if (!a.past_caches && rows.centre >= 0 && rows.centre < a.angles.near) {
    const AnchorPairs* anchors = a.angles.anchors + number * a.angles.sixteens + first / kSixteen;
    return add_pairs<T>(a, rows, first, count, anchors, writer);
  }
  AnchorPairs anchors[kPairBlock / kSixteen];
  make_anchors(a.frequencies, a.angles.doubt, rows.centre, first, count, anchors);
  add_pairs<T>(a, rows, first, count, anchors, writer);
}

template <class T>
void sinusoid_table_typed(const SinusoidTable& a, int64_t begin, int64_t end) {
  constexpr int64_t kBlocks = 8;  // worked on at a time: their steps stay in L1
  const int64_t width = kSixteen * a.angles.sixteens;
  with_writer<T>(a.frequencies.spec, a.out, a.row_stride, a.past_caches, [&](const auto& writer) {
    for (int64_t i = begin; i < end; i += kBlocks) {
      const int64_t from = a.first_block() + i, to = from + min_of(kBlocks, end - i);
      for (int64_t first = 0; first < width; first += kPairBlock) {
        const int64_t count = min_of(kPairBlock, width - first);
        for (int64_t block = from; block < to; ++block) add_block<T>(a, block, first, count, writer);
      }
      const int64_t row = max_of(from * AngleSteps::kBlock - a.start, int64_t{0});
      const int64_t last = min_of(to * AngleSteps::kBlock - a.start, a.length);
      writer.put_zeros(static_cast<T*>(a.out) + row * a.row_stride, a.row_stride, last - row);
    }
  });
}

void sinusoid_steps(const Frequencies& f, int64_t sixteens, SixteenPairs* steps, float* doubt) {
  for (int64_t i = 0; i < kSixteen * sixteens; ++i) doubt[i] = 0.0f;
  for (int64_t k = 0; k <= AngleSteps::kReach; ++k) {
    AnchorPairs anchors[kPairBlock / kSixteen];
    for (int64_t first = 0; first < sixteens; first += kPairBlock / kSixteen) {
      const int64_t count = min_of(kPairBlock / kSixteen, sixteens - first);
      make_anchors(f, doubt, k, kSixteen * first, kSixteen * count, anchors);
      for (int64_t g = 0; g < count; ++g) {
        steps[(first + g) * (AngleSteps::kReach + 1) + k] = anchors[g].at;
        float* largest = doubt + kSixteen * (first + g);
        for (int64_t i = 0; i < kSixteen; ++i) {
          largest[i] = max_of(largest[i], static_cast<float>(kDoubt * fabs(anchors[g].at.sine[i])));
        }
      }
    }
  }
}

void sinusoid_anchors(const Frequencies& f, const AngleSteps& steps, AnchorPairs* anchors) {
  const int64_t width = kSixteen * steps.sixteens;
  for (int64_t p = AngleSteps::kReach; p < steps.near; p += AngleSteps::kBlock) {
    for (int64_t j = 0; j < width; j += kPairBlock) {
      const int64_t count = min_of(kPairBlock, width - j);
      make_anchors(f, steps.doubt, p, j, count, anchors);
      anchors += count / kSixteen;
    }
  }
}

void sinusoid_rows(const SinusoidRows& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, sinusoid_rows_typed<scalar_t>(a, begin, end))
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

}  // namespace

}  // namespace posenc_ext::cpu::POSENC_LEVEL
