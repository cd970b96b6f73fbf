// Rows of sinusoids: of any positions, and of a table.
//
// Whole positions by angle addition: sin(a +- b) = sin a cos b +- cos a sin b, a the angle of an anchor, b
// that of a few steps. Accuracy: a sine or cosine is within an ulp, so v = fl(fl(V C) +- fl(W S)) is off by
// less than 2.5 * 2^-52 (|V C| + |W S|) and by its own rounding; |V C| + |W S| is at most 1, and at most |V|
// + |S|. Where |v| is at least 2^-16 of the smaller, that is less than 2^-10 ulp of a float32. Sixteen pairs
// with another value among them are in doubt: they are evaluated at their own position. No error grows from
// row to row.
#pragma once

#include "cpu/kernels/sinusoidal-inl.h"
#include "cpu/simd/store-inl.h"

namespace posenc_ext::cpu::POSENC_LEVEL {
namespace {

constexpr double kDoubt = 0x1p-16;
constexpr int kSixteen = 16;  // pairs

// Rounds what is not in the middle between two T, nor a NaN.
template <class T, int N>
POSENC_HD Vec<T, N> round_clear(Vec<float, N> x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, Half>) {
    return round_number<T>(x);
  } else {
    return cast_bits<T>(upper_halves(cast_bits<uint32_t>(x) + 0x8000u));
  }
}

// Where the sines and cosines of a row go.
template <class T>
struct RowWriter {
  ChannelOffsets at;
  int64_t sines, cosines;  // in a row
  bool odd_zero, non_temporal;

  RowWriter(const Sinusoid& s, const void* out, int64_t row_stride, bool large)
      : at(channel_offsets(s)),
        sines(s.frequencies()),
        cosines(s.pairs()),
        odd_zero(s.dim % 2 != 0 && s.odd == Odd::zero),
        non_temporal(large && has_whole_lines(out, row_stride)) {}

  // Whether sines and cosines begin and end with whole cache lines.
  bool has_whole_lines(const void* out, int64_t row_stride) const {
    const auto lines = [](int64_t elements) { return elements % kLineElements<T> == 0; };
    if (reinterpret_cast<uintptr_t>(out) % kLine != 0 || !lines(row_stride)) return false;
    return at.step == 2 || (lines(at.sine) && lines(at.cosine));
  }

  bool holds(int64_t j) const { return j + kSixteen <= cosines; }

  // Pairs [j, j + 16), all of which there are.
  POSENC_HD void put(T* row, int64_t j, Vec<float, kSixteen> sine, Vec<float, kSixteen> cosine) const {
    if (at.step == 2) {
      write(row + 2 * j, round_clear<T>(interleave(sine, cosine)));
    } else {
      write(row + at.sine + j, round_clear<T>(sine));
      write(row + at.cosine + j, round_clear<T>(cosine));
    }
  }

  // Those of them that there are; the last one of an odd dim lacks its cosine.
  template <class F>
  void put_some(T* row, int64_t j, Vec<F, kSixteen> sine, Vec<F, kSixteen> cosine) const {
    const int64_t some_sines = min_of<int64_t>(sines - j, kSixteen),
                  some_cosines = min_of<int64_t>(cosines - j, kSixteen);
    if (at.step == 2) {
      write_some(row + 2 * j, round_to<T>(interleave(sine, cosine)), some_sines + some_cosines);
    } else {
      write_some(row + at.sine + j, round_to<T>(sine), some_sines);
      write_some(row + at.cosine + j, round_to<T>(cosine), some_cosines);
    }
  }

  // The zero of an odd dim in some rows.
  void put_zeros(T* row, int64_t row_stride, int64_t count) const {
    if (!odd_zero) return;
    for (int64_t i = 0; i < count; ++i) row[i * row_stride + at.extra] = T{};
  }

 private:
  template <int N>
  POSENC_HD void write(T* to, Vec<T, N> values) const {
    non_temporal ? stream(to, values) : store(to, values);
  }
  template <int N>
  void write_some(T* to, Vec<T, N> values, int64_t count) const {
    count == N ? write(to, values) : store_some(to, values, count);
  }
};

// Sines and cosines of N pairs in registers.
template <int N>
struct Angles {
  Vec<double, N> sine, cosine;
};

template <int N>
POSENC_HD Angles<N> load_angles(const SixteenPairs& from, int i) {
  return {load<N>(from.sine + i), load<N>(from.cosine + i)};
}

// Of a + b, or of a - b.
template <bool kPlus, int N>
POSENC_HD Angles<N> add_angles(const Angles<N>& a, const Angles<N>& b) {
  const auto x = a.sine * b.cosine, y = a.cosine * b.sine, z = a.cosine * b.cosine, w = a.sine * b.sine;
  if constexpr (kPlus) return {x + y, z - w};
  return {x - y, z + w};
}

using Bits = Vec<int32_t, kSixteen>;

// The bits of magnitudes as integers, which are in the same order.
POSENC_HD Bits magnitude(Vec<float, kSixteen> x) { return cast_bits<int32_t>(abs(x)); }

// Negative where a magnitude is below the limit.
POSENC_HD Bits below(Bits magnitude, Vec<float, kSixteen> limit) {
  return magnitude - cast_bits<int32_t>(limit);
}

// The bits of a float that T lacks, moved up: of a float in the middle between two T the least integer.
template <class T>
POSENC_HD Bits cut_bits(Vec<float, kSixteen> x) {
  return cast_bits<int32_t>(x) << (std::is_same_v<T, Half> ? 32 - 13 : 32 - 16);
}

// Sines and cosines of a row, rounded to floats. These round on to T as the sums do, except in the middle.
template <int N>
struct Sums {
  Vec<float, N> sine, cosine;
};

// Those of the rows before and after an anchor.
template <int N>
struct BothSums {
  Sums<N> plus, minus;
};

// Of pairs [i, i + N), in one register of doubles after another: "table 5000x512" takes 1.1 times as long at
// AVX2 where all sixteen pairs are loaded first.
template <int N>
POSENC_HD BothSums<N> add_both(const SixteenPairs& at, const SixteenPairs& by, int i = 0) {
  if constexpr (FitsRegister<double, N>) {
    auto a = load_angles<N>(at, i), b = load_angles<N>(by, i);
    stay_in_registers(a.sine, a.cosine, b.sine, b.cosine);
    const auto plus = add_angles<true>(a, b), minus = add_angles<false>(a, b);
    return {{convert<float>(plus.sine), convert<float>(plus.cosine)},
            {convert<float>(minus.sine), convert<float>(minus.cosine)}};
  } else {
    const auto low = add_both<N / 2>(at, by, i), high = add_both<N / 2>(at, by, i + N / 2);
    return {{join(low.plus.sine, high.plus.sine), join(low.plus.cosine, high.plus.cosine)},
            {join(low.minus.sine, high.minus.sine), join(low.minus.cosine, high.minus.cosine)}};
  }
}

// Negative where one of some sums may need put_exact(). A sine s in doubt is below its limit L, and |c| of
// its cosine is at most 1, so |s c| is below L. Of a cosine in doubt, below 2^-16, |s| is 1 except for 2^-33,
// and L is 2^-16 of no less than |s|: again |s c| is below L, except for rounding.
template <class T, class... S>
POSENC_HD Bits in_doubt(Vec<float, kSixteen> sine_limit, const S&... sums) {
  constexpr float kSlack = 1.0f + 0x1p-8f;
  const auto least = [](auto first, auto... rest) {
    ((first = min_of(first, rest)), ...);
    return first;
  };
  const Bits product = least(magnitude(sums.sine * sums.cosine)...);
  Bits small = below(product, sine_limit * kSlack);
  // Subnormal float16 have other middles.
  if constexpr (std::is_same_v<T, Half>)
    small = small | below(product, broadcast<kSixteen>(kSlack * 0x1p-14f));
  if constexpr (sizeof(T) == sizeof(float)) return small;
  const Bits cut = least(min_of(cut_bits<T>(sums.sine), cut_bits<T>(sums.cosine))...);
  return small | (cut & (Bits{} - cut));
}

// Pairs from j on of the row of position p, which is `by` before or after the anchor: what is in doubt is
// evaluated at p.
template <class T, bool kPlus>
POSENC_ALONE void put_exact(const RowWriter<T>& writer, T* row, const Frequencies& f, int64_t j, int64_t p,
                            const AnchorPairs& anchor, const SixteenPairs& by) {
  PairBlock block;
  encode_groups<false, false>(f.hi + j, f.lo + j, kSixteen, static_cast<double>(p), 0, block);
  const auto exact = [](Vec<double, kSixteen> sum, Vec<float, kSixteen> limit, const double* value) {
    // With all that rounding to T takes.
    const auto to_float = [](Vec<double, kSixteen> x) {
      return sizeof(T) < sizeof(float) ? round_to_odd(x) : convert<float>(x);
    };
    const auto x = to_float(sum);
    return any_negative(below(magnitude(x), limit)) ? to_float(load<kSixteen>(value)) : x;
  };
  const auto sum = add_angles<kPlus>(load_angles<kSixteen>(anchor.at, 0), load_angles<kSixteen>(by, 0));
  writer.put_some(row, j, exact(sum.sine, load<kSixteen>(anchor.doubt), block.sine),
                  exact(sum.cosine, broadcast<kSixteen>(static_cast<float>(kDoubt)), block.cosine));
}

// Pairs [j, j + 16 * count) of the row k after an anchor or before it.
template <class T, bool kPlus>
void put_row(RowWriter<T> writer, T* row, const Frequencies& f, int64_t j, int64_t count, int64_t centre,
             int64_t k, const AnchorPairs* anchors, const SixteenPairs* steps) {
  const int64_t p = kPlus ? centre + k : centre - k;
  for (int64_t i = 0; i < count; ++i, ++anchors, steps += AngleSteps::kReach + 1, j += kSixteen) {
    const auto both = add_both<kSixteen>(anchors->at, steps[k]);
    const Sums<kSixteen>& sum = kPlus ? both.plus : both.minus;
    if (any_negative(in_doubt<T>(load<kSixteen>(anchors->doubt), sum)) || !writer.holds(j)) [[unlikely]] {
      put_exact<T, kPlus>(writer, row, f, j, p, *anchors, steps[k]);
    } else {
      writer.put(row, j, sum.sine, sum.cosine);
    }
  }
}

// The same of both rows, which share products.
template <class T>
void put_rows(RowWriter<T> writer, T* after, T* before, const Frequencies& f, int64_t j, int64_t count,
              int64_t centre, int64_t k, const AnchorPairs* anchors, const SixteenPairs* steps) {
  for (int64_t i = 0; i < count; ++i, ++anchors, steps += AngleSteps::kReach + 1, j += kSixteen) {
    const auto both = add_both<kSixteen>(anchors->at, steps[k]);
    const Bits doubt = in_doubt<T>(load<kSixteen>(anchors->doubt), both.plus, both.minus);
    if (any_negative(doubt) || !writer.holds(j)) [[unlikely]] {
      put_exact<T, true>(writer, after, f, j, centre + k, *anchors, steps[k]);
      put_exact<T, false>(writer, before, f, j, centre - k, *anchors, steps[k]);
    } else {
      writer.put(after, j, both.plus.sine, both.plus.cosine);
      writer.put(before, j, both.minus.sine, both.minus.cosine);
    }
  }
}

template <class T>
void sinusoid_rows_typed(const SinusoidRows& a, int64_t begin, int64_t end) {
  const RowWriter<T> writer(a.frequencies.spec, a.out, a.row_stride, a.non_temporal);
  const AngleSteps& angles = a.angles;
  for (int64_t i = begin; i < end; ++i) {
    T* row = static_cast<T*>(a.out) + i * a.row_stride;
    writer.put_zeros(row, a.row_stride, 1);
    const double p = position_of(a.positions, i);
    if constexpr (kShortFor<T>) {
      if (p >= 0.0 && p < static_cast<double>(angles.near) && p == floor(p)) {
        const int64_t block = AngleSteps::block_of(static_cast<int64_t>(p));
        const int64_t centre = AngleSteps::anchor_of(block), k = static_cast<int64_t>(p) - centre;
        const AnchorPairs* anchors = angles.anchors + block * angles.sixteens;
        const auto put = k < 0 ? put_row<T, false> : put_row<T, true>;
        put(writer, row, a.frequencies, 0, angles.sixteens, centre, std::abs(k), anchors, angles.steps);
        continue;
      }
    }
    encode_blocks<kShortFor<T>>(
        a.frequencies, p, a.order, [&](int64_t j, int64_t count, const PairBlock& block) {
          for (int64_t k = 0; k < count; k += kSixteen) {
            writer.put_some(row, j + k, load<kSixteen>(block.sine + k), load<kSixteen>(block.cosine + k));
          }
        });
  }
  if (writer.non_temporal) finish_streams();
}

// The anchors of pairs [j, j + count) at a position; `count` is a multiple of sixteen that a block holds.
void make_anchors(const Frequencies& f, const float* step_doubt, int64_t position, int64_t j, int64_t count,
                  AnchorPairs* anchors) {
  const double p = static_cast<double>(position);
  PairBlock block;
  encode_pairs<false>(f.hi + j, f.lo + j, count, p, 0, needs_huge_reduction(f.spec, p), block);
  for (int64_t i = 0; i < count; i += kSixteen, ++anchors) {
    const auto sine = load<kSixteen>(block.sine + i);
    store(anchors->at.sine, sine);
    store(anchors->at.cosine, load<kSixteen>(block.cosine + i));
    store(anchors->doubt, convert<float>(abs(sine) * kDoubt) + load<kSixteen>(step_doubt + j + i));
  }
}

// Pairs [first, first + count), as many as a PairBlock holds, of the rows of a block.
template <class T>
void put_block(const SinusoidTable& a, int64_t block, int64_t first, int64_t count,
               const RowWriter<T>& writer) {
  AnchorPairs anchors[kPairBlock / kSixteen];
  const int64_t centre = AngleSteps::anchor_of(block);
  make_anchors(a.frequencies, a.angles.doubt, centre, first, count, anchors);
  const auto row_of = [&](int64_t p, bool in_block) {
    const bool is_row = in_block && p >= a.start && p < a.start + a.length;
    return is_row ? static_cast<T*>(a.out) + (p - a.start) * a.row_stride : nullptr;
  };
  for (int64_t k = 0; k <= AngleSteps::kReach; ++k) {
    T *after = row_of(centre + k, k < AngleSteps::kReach), *before = row_of(centre - k, k > 0);
    const SixteenPairs* steps = a.angles.steps_of(first / kSixteen);
    const auto put = [&](auto put_some, auto... rows) {
      put_some(writer, rows..., a.frequencies, first, count / kSixteen, centre, k, anchors, steps);
    };
    if (after != nullptr && before != nullptr) {
      put(put_rows<T>, after, before);
    } else if (after != nullptr) {
      put(put_row<T, true>, after);
    } else if (before != nullptr) {
      put(put_row<T, false>, before);
    }
  }
}

template <class T>
void sinusoid_table_typed(const SinusoidTable& a, int64_t begin, int64_t end) {
  const int64_t width = kSixteen * a.angles.sixteens;
  const RowWriter<T> writer(a.frequencies.spec, a.out, a.row_stride, a.non_temporal);
  const int64_t from = a.first_block() + begin, to = a.first_block() + end;
  for (int64_t first = 0; first < width; first += kPairBlock) {  // whose steps stay in L1
    const int64_t count = min_of(kPairBlock, width - first);
    for (int64_t block = from; block < to; ++block) put_block<T>(a, block, first, count, writer);
  }
  const int64_t row = max_of(from * AngleSteps::kBlock - a.start, int64_t{0});
  const int64_t last = min_of(to * AngleSteps::kBlock - a.start, a.length);
  writer.put_zeros(static_cast<T*>(a.out) + row * a.row_stride, a.row_stride, last - row);
  if (writer.non_temporal) finish_streams();
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

void sinusoid_steps(const Frequencies& f, int64_t sixteens, SixteenPairs* steps, float* doubt) {
  for (int64_t i = 0; i < kSixteen * sixteens; ++i) doubt[i] = 0.0f;
  for (int64_t k = 0; k <= AngleSteps::kReach; ++k) {
    for (int64_t i = 0; i < sixteens; ++i) {
      AnchorPairs anchor;
      make_anchors(f, doubt, k, kSixteen * i, kSixteen, &anchor);
      steps[i * (AngleSteps::kReach + 1) + k] = anchor.at;
      for (int64_t c = 0; c < kSixteen; ++c) {
        float& largest = doubt[kSixteen * i + c];
        largest = max_of(largest, static_cast<float>(kDoubt * fabs(anchor.at.sine[c])));
      }
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
