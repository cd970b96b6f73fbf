// The kernels of softmax with a bias, emulated, against straightforward loops and the CPU kernels of the
// baseline level: the same bits where sums have the same order, which in float32 and the half types are rows
// of fewer than 16, more than 64 or a multiple of 16 keys, and the gradients of scores whose keys are a
// multiple of 32.
#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "cpu/kernels/kernels.h"
#include "cuda/kernels/bias_softmax.cu"

namespace {

using namespace posenc_ext;
using namespace check;
using args::DiagonalScheme;
using args::IndexScheme;
using args::Mask;
using args::PairScheme;

Random draw;

std::string describe(const WindowScheme& s) {
  std::string text = "window";
  for (int a = 0; a < WindowScheme::kAxes; ++a)
    text += " " + std::to_string(s.window[a]) + "<-" + std::to_string(s.query[a]);
  return text + " prefix " + std::to_string(s.prefix_tokens);
}
std::string plane(int64_t queries, int64_t keys) {
  return " " + std::to_string(queries) + "x" + std::to_string(keys);
}
std::string describe(const DiagonalScheme& s) { return "diagonals" + plane(s.queries(), s.keys()); }
std::string describe(const PairScheme& s) { return "pairs" + plane(s.queries(), s.keys()); }
std::string describe(const IndexScheme& s) {
  return "index" + plane(s.queries(), s.keys()) + " of " + std::to_string(s.rows());
}

// An index in memory with gaps, keys before queries or not.
struct StridedIndex {
  Buffer<int64_t> wide;
  Buffer<int32_t> narrow;
  IndexScheme scheme;

  StridedIndex(int64_t queries, int64_t keys, int64_t rows, bool is_wide, bool key_major)
      : wide(is_wide ? size(queries, keys, key_major) : 0),
        narrow(is_wide ? 0 : size(queries, keys, key_major)) {
    const int64_t query_stride = key_major ? 1 : keys + 1, key_stride = key_major ? queries + 1 : 1;
    const void* data = is_wide ? static_cast<void*>(wide.data()) : narrow.data();
    scheme = {{data, is_wide, {2, {queries, keys}, {query_stride, key_stride}}, key_stride, 1, queries, keys},
              rows};
    for (int64_t i = 0; i < queries * keys; ++i) set(i, draw.below(rows));
  }
  void set(int64_t i, int64_t row) {
    const int64_t at = scheme.index.at.offset(i);
    if (scheme.index.is_int64) {
      wide[at] = row;
    } else {
      narrow[at] = static_cast<int32_t>(row);
    }
  }

 private:
  static int64_t size(int64_t queries, int64_t keys, bool key_major) {
    return key_major ? (keys - 1) * (queries + 1) + queries : (queries - 1) * (keys + 1) + keys;
  }
};

template <class Scheme>
constexpr bool kHeadsFirst = std::is_same_v<Scheme, DiagonalScheme> || std::is_same_v<Scheme, PairScheme>;

// Key k is added in lane k % 32; lanes are added by halves.
template <class Sum, class Term>
Sum lane_sum(int64_t count, Term term) {
  Sum lane[32] = {};
  for (int64_t k = 0; k < count; ++k) lane[k % 32] += term(k);
  for (int half = 16; half > 0; half /= 2) {
    for (int n = 0; n < half; ++n) lane[n] += lane[n + half];
  }
  return lane[0];
}

// A mask of any kind: of all samples, heads and queries, or the same for some of them.
template <class Sum>
struct AnyMask {
  Mask mask{Mask::Kind::none, nullptr, {}, 0, 0, 1, false, 0};
  Buffer<uint8_t> shown;
  Buffer<Sum> added;
  Buffer<int32_t> regions;

  AnyMask(Mask::Kind kind, bool causal, int64_t batch, int64_t heads, int64_t queries, int64_t keys)
      : AnyMask(kind, causal, batch, heads, queries, keys, draw.below(2), draw.below(2), draw.below(2)) {}

  bool is_shown(int64_t at) { return shown[at] != 0; }

 private:
  AnyMask(Mask::Kind kind, bool causal, int64_t batch, int64_t heads, int64_t queries, int64_t keys,
          int64_t by_sample, int64_t by_head, int64_t by_query)
      : shown(kind == Mask::Kind::shown ? (by_sample * (batch - 1) * (heads * queries + 1) +
                                           by_head * (heads - 1) * queries + by_query * (queries - 1) + 1) *
                                              keys
                                        : 0),
        added(kind == Mask::Kind::added ? (by_sample * (batch - 1) * (heads * queries + 1) +
                                           by_head * (heads - 1) * queries + by_query * (queries - 1) + 1) *
                                              keys
                                        : 0),
        regions(kind == Mask::Kind::regions ? windows_of(batch) * keys : 0) {
    mask.kind = kind;
    mask.causal = causal;
    mask.q_offset = draw.below(queries + keys) - queries;
    mask.windows = kind == Mask::Kind::regions ? windows_of(batch) : 1;
    const int64_t sample = by_sample * (heads * queries + 1) * keys;
    mask.batch =
        batch % 2 == 0 ? Strided{2, {batch / 2, 2}, {2 * sample, sample}} : Strided{1, {batch}, {sample}};
    mask.head_stride = by_head * queries * keys;
    mask.query_stride = by_query * keys;
    if (kind == Mask::Kind::shown) mask.data = shown.data();
    if (kind == Mask::Kind::added) mask.data = added.data();
    if (kind == Mask::Kind::regions) mask.data = regions.data();
    for (int64_t i = 0; i < shown.size(); ++i) shown[i] = draw.below(4) != 0;
    for (int64_t i = 0; i < added.size(); ++i) {
      added[i] =
          draw.below(5) == 0 ? -std::numeric_limits<Sum>::infinity() : static_cast<Sum>(draw.normal_like());
    }
    for (int64_t i = 0; i < regions.size(); ++i) regions[i] = static_cast<int32_t>(draw.below(3));
  }
  static int64_t windows_of(int64_t batch) { return batch % 3 == 0 ? 3 : batch % 2 == 0 ? 2 : 1; }
};

// Of each row, what must come out; `x` and `out` have room for the keys.
template <class T, class Sum = accumulator_t<T>>
void expected_row(const std::vector<Sum>& x, int64_t count, T* out) {
  constexpr Sum kInfinity = std::numeric_limits<Sum>::infinity();
  const int64_t keys = static_cast<int64_t>(x.size());
  Sum largest = -kInfinity;
  bool nan = false;
  for (int64_t k = 0; k < count; ++k) {
    nan = nan || std::isnan(x[static_cast<size_t>(k)]);
    largest = max_of(largest, x[static_cast<size_t>(k)]);
  }
  nan = nan || !std::isfinite(largest);
  const auto power = [&](int64_t k) { return exp_of_negative<Sum>(x[static_cast<size_t>(k)] - largest); };
  const Sum inverse = Sum(1) / lane_sum<Sum>(count, power);
  for (int64_t k = 0; k < keys; ++k)
    out[k] = round_to<T>(nan         ? std::numeric_limits<Sum>::quiet_NaN()
                         : k < count ? power(k) * inverse
                                     : Sum(0));
}

// And how far it may be from softmax in float64: an error of the argument, of exp and of the sum.
template <class T, class Sum = accumulator_t<T>>
bool is_near_softmax(const std::vector<Sum>& x, int64_t count, const T* out) {
  long double largest = -HUGE_VALL, size = 0, sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const long double value = x[static_cast<size_t>(k)];
    largest = std::max(largest, value);
    if (std::isfinite(value)) size = std::max(size, std::fabs(value));
  }
  for (int64_t k = 0; k < count; ++k) sum += std::exp(x[static_cast<size_t>(k)] - largest);
  const double unit = sizeof(Sum) == 8 ? 0x1p-53 : 0x1p-24;
  for (int64_t k = 0; k < count; ++k) {
    const double exact = static_cast<double>(std::exp(x[static_cast<size_t>(k)] - largest) / sum);
    const double slack = exact * unit * (8 + static_cast<double>(size) + static_cast<double>(count) / 32 + 5);
    const double smallest = sizeof(Sum) == 8 ? 0x1p-1022 : 0x1p-126;  // below, exp is 0
    if (std::fabs(to_double(out[k]) - exact) > ulp<T>(exact) / 2 + slack + smallest) return false;
  }
  return true;
}

template <class T, class Scheme>
void test_forward(const Scheme& scheme, Mask::Kind kind, bool causal, int64_t batch, int64_t heads,
                  bool special, bool with_cpu = true) {
  using Sum = accumulator_t<T>;
  constexpr DType kType = kTypeOf<T>, kSumType = kTypeOf<Sum>;
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  if (kind == Mask::Kind::regions && queries != keys) return;
  const bool heads_first = kHeadsFirst<Scheme> || draw.below(2) == 0;
  const int64_t gap = draw.below(3);
  const int64_t row_stride = heads_first ? 1 : heads + gap, head_stride = heads_first ? rows + gap : 1;
  Buffer<Sum> table((rows - 1) * row_stride + (heads - 1) * head_stride + 1);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = static_cast<Sum>(draw.normal_like());
  Buffer<T> scores(batch * heads * queries * keys, draw.below(3));
  for (int64_t i = 0; i < scores.size(); ++i) scores[i] = round_to<T>(draw.normal_like());
  for (int n = 0; special && n < 3; ++n) {
    scores[draw.below(scores.size())] = round_to<T>(draw.of({-HUGE_VAL, HUGE_VAL, std::nan("")}));
  }
  AnyMask<Sum> any(kind, causal, batch, heads, queries, keys);
  const Mask& mask = any.mask;
  const double scale = draw.of({1.0, 0.125, 0.7071});
  args::BiasSoftmax a{
      kType, batch, scores.data(), scale, {kSumType, table.data(), row_stride, head_stride, heads, nullptr},
      mask,  0,     nullptr};
  const std::string what = describe(scheme) + " " + name(kType) + " mask " +
                           std::to_string(static_cast<int>(kind)) + (causal ? " causal" : "") + " batch " +
                           std::to_string(batch) + " heads " + std::to_string(heads);
  Buffer<T> wanted(scores.size());
  std::vector<Sum> x(static_cast<size_t>(keys));
  for (int64_t row = 0; row < batch * heads * queries; ++row) {
    const int64_t sample = row / (heads * queries), head = row / queries % heads, query = row % queries;
    const int64_t mask_at = mask.batch.offset(sample) + head * mask.head_stride + query * mask.query_stride;
    for (int64_t k = 0; k < keys; ++k) {
      Sum& value = x[static_cast<size_t>(k)];
      value = widen(scores[row * keys + k]) * static_cast<Sum>(scale);
      value += table[scheme.row(query, k) * row_stride + head * head_stride];
      if (kind == Mask::Kind::added) value += any.added[mask_at + k];
      if (kind == Mask::Kind::shown && any.shown[mask_at + k] == 0)
        value = -std::numeric_limits<Sum>::infinity();
      if (kind == Mask::Kind::regions) {
        const int64_t window = sample % mask.windows * keys;
        if (any.regions[window + k] != any.regions[window + query]) value += -100;
      }
    }
    int64_t count = keys;
    if (causal) count = std::clamp<int64_t>(query + mask.q_offset + 1, 0, keys);
    expected_row<T>(x, count, wanted.data() + row * keys);
    if (!emulation::kFindsRaces && !is_nan(wanted[row * keys]) &&
        !is_near_softmax<T>(x, count, wanted.data() + row * keys))
      report("%s: row %d is no softmax", what.c_str(), static_cast<int>(row));
  }
  on_all_machines(name(kType), [&] {
    Buffer<T> got(scores.size(), draw.below(3));
    const bool in_place = draw.below(2) == 0;
    if (in_place) std::copy(scores.data(), scores.data() + scores.size(), got.data());
    a.scores = in_place ? got.data() : scores.data();
    a.out = got.data();
    cuda::kSoftmaxKernels[scheme].forward(scheme, a, nullptr);
    all_same(got, wanted, what + (in_place ? " in place" : ""));
  });
  if (!with_cpu || emulation::kFindsRaces) return;
  Buffer<T> cpu(scores.size());
  a.scores = scores.data();
  a.out = cpu.data();
  cpu::baseline::kKernels.softmax[scheme].forward(scheme, a, 0, heads * batch * queries);
  // On the CPU, the last vector of short rows overlaps the one before; of float64, vectors are half as wide.
  const bool same_order = sizeof(Sum) == 4 && (keys < 16 || keys > 64 || keys % 16 == 0);
  for (int64_t i = 0; i < cpu.size(); ++i) {
    // Of a row that is NaN, the CPU leaves hidden keys 0.
    if (same(cpu[i], wanted[i]) || (causal && is_nan(wanted[i]) && to_double(cpu[i]) == 0.0)) continue;
    // In another order: exp, the inverse and their product are as near as sums of so many terms.
    const double value = to_double(wanted[i]), unit = sizeof(Sum) == 8 ? 0x1p-53 : 0x1p-24;
    const double room =
        value * unit * (static_cast<double>(keys) / 8 + 16) + (sizeof(T) == 2 ? ulp<T>(value) : 0.0);
    if (!same_order && std::fabs(to_double(cpu[i]) - value) <= room) continue;
    return report("%s: element %d is %.17g, on the CPU %.17g", what.c_str(), static_cast<int>(i), value,
                  to_double(cpu[i]));
  }
}

// With small whole numbers all sums are exact and each result has one right value; with others the gradient
// of the table has a narrow interval. That of the scores has one order of its sums.
template <class T, class Scheme>
void test_backward(const Scheme& scheme, int64_t batch, int64_t heads, bool whole, int64_t bad_place = -1) {
  using Sum = accumulator_t<T>;
  constexpr DType kType = kTypeOf<T>;
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const int64_t row_stride = kHeadsFirst<Scheme> ? 1 : heads, head_stride = kHeadsFirst<Scheme> ? rows : 1;
  Buffer<T> grad(batch * heads * queries * keys, draw.below(3)), result(grad.size(), draw.below(3));
  for (int64_t i = 0; i < grad.size(); ++i) {
    grad[i] = round_to<T>(whole ? static_cast<double>(draw.below(5) - 2) : draw.normal_like());
    result[i] = round_to<T>(whole ? static_cast<double>(draw.below(4) == 0)
                                  : draw.uniform() * 2 / static_cast<double>(keys));
  }
  const double scale = whole ? 0.5 : 0.7071;
  const double unit = sizeof(Sum) == 8 ? 0x1p-53 : 0x1p-24;
  const std::string what = describe(scheme) + " gradients " + name(kType) + (whole ? " whole" : "") +
                           " batch " + std::to_string(batch) + " heads " + std::to_string(heads);
  Buffer<T> wanted(grad.size());
  std::vector<double> sum(static_cast<size_t>(rows * heads)), slack(sum.size()), count(sum.size()),
      size(sum.size());
  for (int64_t line = 0; line < batch * heads * queries; ++line) {
    const int64_t head = line / queries % heads, query = line % queries, first = line * keys;
    const Sum dot =
        lane_sum<Sum>(keys, [&](int64_t k) { return widen(result[first + k]) * widen(grad[first + k]); });
    double exact = 0, terms = 0;
    for (int64_t k = 0; k < keys; ++k) {
      const double term = to_double(result[first + k]) * to_double(grad[first + k]);
      exact += term;
      terms += std::fabs(term);
    }
    for (int64_t k = 0; k < keys; ++k) {
      const Sum p = widen(result[first + k]), g = widen(grad[first + k]);
      wanted[first + k] = round_to<T>(p * (g - dot) * static_cast<Sum>(scale));
      if (line / queries / heads * queries * keys + query * keys + k == bad_place) continue;
      const size_t at = static_cast<size_t>(scheme.row(query, k) * row_stride + head * head_stride);
      const double value = to_double(p) * (to_double(g) - exact);
      sum[at] += value;
      size[at] += std::fabs(value);
      count[at] += 1;
      slack[at] +=
          std::fabs(to_double(p)) * unit *
          (2 * (std::fabs(to_double(g)) + std::fabs(exact)) + (static_cast<double>(keys) + 2) * terms);
    }
  }
  if (whole && *std::max_element(size.begin(), size.end()) >= 0x1p24)
    report("%s: numbers that are too large", what.c_str());
  args::BiasSoftmaxBackward a{kType,   batch,   heads,   grad.data(), result.data(), scale,
                              nullptr, nullptr, nullptr, row_stride,  head_stride,   /*non_temporal=*/false};
  const int64_t chunks = cuda::split_table(scheme, batch).count;
  constexpr bool kIndexed = std::is_same_v<Scheme, IndexScheme>;
  std::vector<Sum> first_run;
  on_all_machines(name(kType), [&] {
    Buffer<T> got(grad.size(), draw.below(3));
    Buffer<Sum> table(rows * heads, 1), dots(batch * heads * queries, 1);
    Buffer<Sum> partial(chunks > 1 || kIndexed ? chunks * rows * heads : 0);
    a.grad_scores = got.data();
    a.grad_table = table.data();
    a.partial = partial.data();
    a.dots = dots.data();
    cuda::kSoftmaxKernels[scheme].backward(scheme, a, nullptr);
    if ((take_failed_assertions() > 0) != (bad_place >= 0))
      report("%s: an index outside the table and an assertion go together", what.c_str());
    all_same(got, wanted, what);
    if constexpr (std::is_same_v<Scheme, PairScheme>) {
      Buffer<T> of_scores_alone(grad.size());
      a.grad_scores = of_scores_alone.data();
      a.grad_table = nullptr;
      cuda::kSoftmaxKernels[scheme].backward(scheme, a, nullptr);
      all_same(of_scores_alone, wanted, what + ", of scores alone");
    }
    if (!table.guard_is_intact()) report("%s: wrote in front of the table", what.c_str());
    for (int64_t i = 0; i < table.size(); ++i) {
      const size_t at = static_cast<size_t>(i);
      const double room = whole ? 0.0 : slack[at] + unit * count[at] * size[at];
      if (std::fabs(to_double(table[i]) - sum[at]) <= room) continue;
      report("%s: row %d is %.9g, not %.9g", what.c_str(), static_cast<int>(i), to_double(table[i]), sum[at]);
      break;
    }
    // However threads and blocks run: the same bits.
    if (first_run.empty()) first_run.assign(table.data(), table.data() + table.size());
    for (int64_t i = 0; i < table.size(); ++i) {
      if (!same_bits(first_run[static_cast<size_t>(i)], table[i]))
        report("%s differs between runs", what.c_str());
    }
  });
  if (emulation::kFindsRaces || bad_place >= 0 || (!whole && (keys % 32 != 0 || sizeof(T) == 8))) return;
  Buffer<T> cpu(grad.size());
  Buffer<Sum> table(rows * heads);
  a.grad_scores = cpu.data();
  a.grad_table = table.data();
  a.dots = nullptr;
  const auto& kernel = cpu::baseline::kKernels.softmax[scheme];
  constexpr bool kPairs = std::is_same_v<Scheme, PairScheme>;
  kernel.backward(scheme, a, {batch * kernel.tiles(scheme), 1}, 0, kPairs ? heads * queries : heads);
  all_same(cpu, wanted, what + " on the CPU");
  for (int64_t i = 0; whole && i < static_cast<int64_t>(first_run.size()); ++i) {
    if (table[i] != first_run[static_cast<size_t>(i)])  // also -0 and 0
      return report("%s: row %d is not the CPU's", what.c_str(), static_cast<int>(i));
  }
}

constexpr Mask::Kind kKinds[] = {Mask::Kind::none, Mask::Kind::shown, Mask::Kind::added, Mask::Kind::regions};

// Every dtype, mask and direction.
template <class Scheme>
void test_scheme(const Scheme& scheme) {
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      for (const Mask::Kind kind : kKinds) {
        test_forward<scalar_t>(scheme, kind, draw.below(2) == 0, 1 + draw.below(4), 1 + draw.below(3),
                               draw.below(3) == 0);
      }
      test_forward<scalar_t>(scheme, Mask::Kind::none, /*causal=*/true, 2, 2, false);
      test_backward<scalar_t>(scheme, 1 + draw.below(3), 1 + draw.below(3), /*whole=*/true);
      test_backward<scalar_t>(scheme, 1 + draw.below(3), scheme.keys() > 20 ? 2 : 9, /*whole=*/false);
    })
  }
}

// Rows of several chunks, the last one short; or samples.
template <class Scheme>
void test_cut(const Scheme& scheme, int64_t batch) {
  if (cuda::split_table(scheme, batch).count < 2) report("%s is not cut", describe(scheme).c_str());
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      test_backward<scalar_t>(scheme, batch, 1 + draw.below(2), /*whole=*/true);
      test_backward<scalar_t>(scheme, batch, 9, /*whole=*/false);
    })
  }
}

// Longer rows than a warp has registers for.
template <class Scheme>
void test_long_rows(const Scheme& scheme, bool with_cpu = true) {
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      test_forward<scalar_t>(scheme, kKinds[draw.below(3)], false, 1, 2, false, with_cpu);
      test_forward<scalar_t>(scheme, kKinds[draw.below(3)], true, 2, 1, true, with_cpu);
    })
  }
}

// Values below and above the rows, near and far: seen, and nothing outside the table is touched.
void test_index_outside_the_table() {
  constexpr int64_t kFar = int64_t{1} << 33;
  for (const int64_t value : {int64_t{-2}, int64_t{7}, kFar, -kFar}) {
    const int64_t queries = 5, keys = 70, place = 2 * keys + 69;
    StridedIndex index(queries, keys, 7, /*is_wide=*/true, draw.below(2) == 0);
    test_backward<float>(index.scheme, 1, 2, /*whole=*/true);
    index.set(place, value);
    Buffer<float> table(14), scores(queries * keys), got(queries * keys);
    for (int64_t i = 0; i < scores.size(); ++i) scores[i] = 1.0f;
    for (int64_t i = 0; i < table.size(); ++i) table[i] = 1.0f;
    const AnyMask<float> none(Mask::Kind::none, false, 1, 1, queries, keys);
    on_all_machines("float32", [&] {
      cuda::kSoftmaxKernels[index.scheme].forward(index.scheme,
                                                  {DType::float32,
                                                   1,
                                                   scores.data(),
                                                   1.0,
                                                   {DType::float32, table.data(), 2, 1, 1, nullptr},
                                                   none.mask,
                                                   0,
                                                   got.data()},
                                                  nullptr);
      if (take_failed_assertions() != 1) report("softmax by an index outside the table without an assertion");
      if (got[0] != got[1]) report("softmax by an index outside the table");
    });
    args::BiasSoftmaxBackward a{DType::float32, 1, 1, scores.data(), got.data(), 1.0, nullptr, nullptr,
                                nullptr,        1, 1, false};
    on_all_machines("float32", [&] {
      Buffer<float> grad(queries * keys), partial(7), dots(queries), sums(7);
      a.grad_scores = grad.data();
      a.partial = partial.data();
      a.grad_table = sums.data();
      a.dots = dots.data();
      cuda::kSoftmaxKernels[index.scheme].backward(index.scheme, a, nullptr);
      if (take_failed_assertions() == 0)
        report("gradients by an index outside the table without an assertion");
    });
  }
}

// More than 2^32 elements: an int anywhere would overflow. Rows of one key are 1, and their gradients 0.
void test_large_counts() {
  if (emulation::kFindsRaces) return;
  const int64_t batch = (int64_t{1} << 31) + 3;
  const PairScheme scheme{2, 1};
  const int64_t count = batch * 2;
  SparseMemory memory(static_cast<size_t>(count) * sizeof(BFloat16));
  Buffer<float> bias(2);
  bias[0] = bias[1] = 2.0f;
  const Mask mask{Mask::Kind::none, nullptr, {}, 0, 0, 1, false, 0};
  on_the_ends_of_a_large_grid("bfloat16", [&] {
    cuda::kSoftmaxKernels[scheme].forward(scheme,
                                          {DType::bfloat16,
                                           batch,
                                           memory.as<void>(),
                                           1.0,
                                           {DType::float32, bias.data(), 1, 2, 1, nullptr},
                                           mask,
                                           0,
                                           memory.as<void>()},
                                          nullptr);
  });
  for (const int64_t i : {int64_t{0}, count - 1}) {
    if (to_float(memory.as<BFloat16>()[i]) != 1.0f) report("bias_softmax of many rows");
  }
  // The result in place of the gradient, whose row's number is then 1.
  SparseMemory dots(static_cast<size_t>(count) * sizeof(float)),
      scores(static_cast<size_t>(count) * sizeof(BFloat16));
  const args::BiasSoftmaxBackward a{DType::bfloat16,
                                    batch,
                                    1,
                                    memory.as<void>(),
                                    memory.as<void>(),
                                    1.0,
                                    scores.as<void>(),
                                    nullptr,
                                    nullptr,
                                    1,
                                    2,
                                    false,
                                    dots.as<void>()};
  on_the_ends_of_a_large_grid("bfloat16", [&] {
    cuda::launch_warps(cuda::softmax_backward_kernel<BFloat16>, count, nullptr, a, count, 1);
  });
  if (dots.as<float>()[0] != 1.0f || dots.as<float>()[count - 1] != 1.0f) report("the gradient of many rows");
  // As many heads as there were rows: a pair each.
  SparseMemory table(static_cast<size_t>(count) * sizeof(float));
  dots.as<float>()[count - 1] = 3.0f;
  const cuda::SoftmaxTerms<BFloat16> terms{
      memory.as<BFloat16>(), memory.as<BFloat16>(), dots.as<float>(), count, 1, 1};
  const cuda::Chunks whole{1, 1};
  on_the_ends_of_a_large_grid("bfloat16", [&] {
    cuda::launch(cuda::pair_backward_kernel<BFloat16>, cuda::divide_up(count, cuda::kThreads),
                 dim3(cuda::kThreads), nullptr, terms, int64_t{1}, table.as<float>(), whole);
  });
  if (table.as<float>()[count - 1] != -2.0f) report("the gradient of many pairs");
}

// One axis to three, square and not, whole and uneven replication of queries, with and without a prefix
// token.
const WindowScheme kWindows[] = {
    {{1, 1, 1}, {1, 1, 1}, 0}, {{1, 1, 1}, {1, 1, 1}, 1}, {{1, 1, 5}, {1, 1, 13}, 1},
    {{1, 3, 4}, {1, 3, 4}, 1}, {{1, 4, 3}, {1, 9, 7}, 0}, {{1, 7, 7}, {1, 7, 7}, 0},
    {{2, 3, 4}, {2, 3, 4}, 0}, {{1, 4, 8}, {1, 4, 8}, 0},
};
constexpr int64_t kPlanes[][2] = {{1, 1}, {5, 5}, {3, 70}, {13, 9}, {33, 32}, {1, 96}};

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  for (const WindowScheme& scheme : kWindows) test_scheme(scheme);
  for (const auto& [queries, keys] : kPlanes) {
    test_scheme(DiagonalScheme{queries, keys});
    test_scheme(PairScheme{queries, keys});
    test_scheme(
        StridedIndex(queries, keys, 1 + draw.below(12), draw.below(2) == 0, draw.below(2) == 0).scheme);
  }
  test_long_rows(DiagonalScheme{2, 513});
  test_long_rows(PairScheme{2, 1100});
  // A table that is not staged in shared memory; one whose columns are, and rows longer than registers.
  test_long_rows(StridedIndex(3, 600, 5000, false, false).scheme);
  test_long_rows(WindowScheme{{1, 1, 600}, {1, 1, 3}, 0}, /*with_cpu=*/false);
  test_cut(StridedIndex(5, 6, 700, false, true).scheme, 80);  // blocks go on to more sums, too
  test_cut(PairScheme{2, 3}, 130);
  test_cut(DiagonalScheme{3, 40}, 400);
  test_cut(WindowScheme{{1, 1, 5}, {1, 1, 5}, 1}, 240);
  // The same barriers, and 50 s under ThreadSanitizer.
  if (!emulation::kFindsRaces) test_cut(WindowScheme{{1, 2, 2}, {1, 2, 2}, 0}, 520);
  test_index_outside_the_table();
  return finish();
}
