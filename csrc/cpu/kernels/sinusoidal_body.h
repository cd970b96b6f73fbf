// Bodies of the sinusoid kernels; compiled once per CPU level by level_*.cpp, which opens the level's
// namespace around this file.

namespace {

using namespace posenc_ext::core;

// Pairs worked on at a time: the arrays below stay in L1.
constexpr int64_t kPairBlock = 128;

struct PairBlock {
  double sine[kPairBlock];
  double cosine[kPairBlock];
};

template <bool kHuge>
void encode_pairs(const double* hi, const double* lo, int64_t count, double p, int32_t order,
                  PairBlock& out) {
  for (int64_t i = 0; i < count; ++i) {
    const QuarterTurns turns = reduce<kHuge>(p, {hi[i], lo[i]});
    const SineCosine rest = sine_cosine(turns);
    out.sine[i] = sine_at(rest, turns.quadrant, order);
    out.cosine[i] = sine_at(rest, turns.quadrant, order + 1);
  }
  if (order == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    const double factor = derivative_factor({hi[i], lo[i]}, order);
    out.sine[i] *= factor;
    out.cosine[i] *= factor;
  }
}

// Calls put(channel, value) for every channel of the encoding of position p.
template <class Put>
inline void encode_row(const Frequencies& f, double p, int32_t order, Put put) {
  const Sinusoid& s = f.spec;
  const Places at = places(s);
  const bool huge = needs_huge_reduction(s, p);
  const int64_t sines = s.frequencies(), cosines = s.pairs();
  PairBlock block;
  for (int64_t j = 0; j < sines; j += kPairBlock) {
    const int64_t count = min_of(kPairBlock, sines - j);
    if (huge) {
      encode_pairs<true>(f.hi + j, f.lo + j, count, p, order, block);
    } else {
      encode_pairs<false>(f.hi + j, f.lo + j, count, p, order, block);
    }
    const int64_t both = min_of(count, cosines - j);
    if (at.step == 2) {
      for (int64_t i = 0; i < both; ++i) {
        put(2 * (j + i), block.sine[i]);
        put(2 * (j + i) + 1, block.cosine[i]);
      }
    } else {
      for (int64_t i = 0; i < both; ++i) put(at.sine + j + i, block.sine[i]);
      for (int64_t i = 0; i < both; ++i) put(at.cosine + j + i, block.cosine[i]);
    }
    if (both < count) put(at.extra, block.sine[both]);
  }
  if (s.dim % 2 != 0 && s.odd == Odd::zero) put(at.extra, 0.0);
}

inline double position_of(const Positions& p, int64_t i) {
  if (p.data == nullptr) return position_after(p.start, i);
  return load_position(p.data, p.type, p.at.offset(i));
}

template <class T>
void sinusoid_rows_typed(const SinusoidRows& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* row = static_cast<T*>(a.out) + i * a.row_stride;
    const double p = position_of(a.positions, i);
    if (a.channel_stride == 1) {
      encode_row(a.frequencies, p, a.order, [row](int64_t c, double v) { row[c] = round_to<T>(v); });
    } else {
      const int64_t stride = a.channel_stride;
      encode_row(a.frequencies, p, a.order,
                 [row, stride](int64_t c, double v) { row[c * stride] = round_to<T>(v); });
    }
  }
}

template <class T>
double sinusoid_dot(const SinusoidBackward& a, int64_t i) {
  const T* grad = static_cast<const T*>(a.grad) + a.grad_row.offset(i);
  const int64_t stride = a.grad_channel_stride;
  double sum = 0.0;
  encode_row(a.frequencies, position_of(a.positions, i), a.order,
             [&sum, grad, stride](int64_t c, double v) { sum += to_double(grad[c * stride]) * v; });
  return sum;
}

}  // namespace

void sinusoid_rows(const SinusoidRows& a, int64_t begin, int64_t end) {
  POSENC_DISPATCH_DTYPE(a.dtype, sinusoid_rows_typed<scalar_t>(a, begin, end))
}

void sinusoid_backward(const SinusoidBackward& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    double sum = 0.0;
    POSENC_DISPATCH_DTYPE(a.grad_dtype, sum = sinusoid_dot<scalar_t>(a, i))
    POSENC_DISPATCH_DTYPE(a.dtype, static_cast<scalar_t*>(a.out)[i] = round_to<scalar_t>(sum))
  }
}
