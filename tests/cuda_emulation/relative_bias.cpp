// The relative-position bias kernels, emulated, against straightforward loops over core/schemes.h.
#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "core/t5_buckets.h"
#include "cuda/kernels/relative_bias.cu"

namespace {

using namespace posenc_ext;
using namespace check;

Random draw;

std::string describe(const WindowScheme& s, int64_t heads) {
  std::string text = "window";
  for (int a = 0; a < WindowScheme::kAxes; ++a)
    text += " " + std::to_string(s.window[a]) + "<-" + std::to_string(s.query[a]);
  return text + " prefix " + std::to_string(s.prefix_tokens) + " heads " + std::to_string(heads);
}

std::string describe(const T5Scheme& s, int64_t heads) {
  return "t5 " + std::to_string(s.rows()) + (s.bidirectional ? " rows " : " rows causal ") +
         std::to_string(s.queries()) + "x" + std::to_string(s.keys()) + " offset " +
         std::to_string(s.q_offset) + " heads " + std::to_string(heads);
}

// A gather copies bits, so integers that count up stand for all types of their size.
template <class T, class Scheme>
void test_forward(const Scheme& scheme, int64_t heads, bool head_major, int64_t gap, int64_t skip) {
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const int64_t row_stride = head_major ? 1 : heads + gap, head_stride = head_major ? rows + gap : 1;
  Buffer<T> table((rows - 1) * row_stride + (heads - 1) * head_stride + 1);
  for (int64_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<T>(0x9E3779B97F4A7C15u * static_cast<uint64_t>(i + 1));
  cuda::BiasForward a{type_of_size(sizeof(T)), table.data(), row_stride, head_stride, heads, nullptr};
  on_all_machines(dtype_of_size(sizeof(T)), [&] {
    Buffer<T> got(heads * queries * keys, skip);
    a.out = got.data();
    cuda::kBiasKernels[scheme].forward(scheme, a, nullptr);
    if (!got.guard_is_intact())
      report("bias_forward wrote in front of its result: %s", describe(scheme, heads).c_str());
    for (int64_t i = 0; i < got.size(); ++i) {
      const int64_t head = i / (queries * keys), pair = i % (queries * keys);
      if (got[i] == table[scheme.row(pair / keys, pair % keys) * row_stride + head * head_stride]) continue;
      report("bias_forward %s, %zu bytes: element %lld", describe(scheme, heads).c_str(), sizeof(T),
             static_cast<long long>(i));
      break;
    }
  });
}

// With small whole numbers every partial sum is exact and the result has one right value; with others it has
// a narrow interval.
template <class T, class Scheme>
void test_backward(DType type, const Scheme& scheme, int64_t heads, bool key_major, int64_t gap, bool whole) {
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const int64_t query_stride = key_major ? 1 : keys + gap, key_stride = key_major ? queries + gap : 1;
  const int64_t head_stride = key_major ? keys * key_stride : queries * query_stride;
  Buffer<T> grad((heads - 1) * head_stride + (queries - 1) * query_stride + (keys - 1) * key_stride + 1);
  for (int64_t i = 0; i < grad.size(); ++i) {
    grad[i] = round_to<T>(whole ? static_cast<double>(draw.below(9) - 4) : draw.uniform());
  }
  std::vector<double> sum(static_cast<size_t>(rows * heads)), size(sum.size()), count(sum.size());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t q = 0; q < queries; ++q) {
      for (int64_t k = 0; k < keys; ++k) {
        const size_t at = static_cast<size_t>(scheme.row(q, k) * heads + h);
        const double term = to_double(grad[h * head_stride + q * query_stride + k * key_stride]);
        sum[at] += term;
        size[at] += std::fabs(term);
        count[at] += 1.0;
      }
    }
  }
  const double epsilon = whole ? 0.0 : std::is_same_v<T, double> ? 0x1p-52 : 0x1p-24;
  cuda::BiasBackward a{type,         grad.data(), 1,     0,       head_stride,
                       query_stride, key_stride,  heads, nullptr, nullptr};
  const int64_t chunks = cuda::split_rows(scheme).count;
  std::vector<T> first;
  on_all_machines(name(type), [&] {
    Buffer<T> got(rows * heads, 1);
    Buffer<accumulator_t<T>> partial(chunks == 1 ? 0 : rows * heads * chunks);
    a.partial = partial.data();
    a.out = got.data();
    cuda::kBiasKernels[scheme].backward(scheme, a, nullptr);
    if (!got.guard_is_intact())
      report("bias_backward wrote in front of its result: %s", describe(scheme, heads).c_str());
    for (int64_t i = 0; i < got.size(); ++i) {
      const size_t at = static_cast<size_t>(i);
      const double slack = epsilon * size[at] * count[at];
      const double value = to_double(got[i]);
      if (value < to_double(round_to<T>(sum[at] - slack)) ||
          value > to_double(round_to<T>(sum[at] + slack))) {
        report("bias_backward %s %s: element %lld is %.9g, not %.9g", describe(scheme, heads).c_str(),
               name(type), static_cast<long long>(i), value, sum[at]);
        break;
      }
    }
    // However threads and blocks run: the same bits.
    if (first.empty()) first.assign(got.data(), got.data() + got.size());
    for (int64_t i = 0; i < got.size(); ++i) {
      if (!same_bits(first[static_cast<size_t>(i)], got[i])) report("bias_backward differs between runs");
    }
  });
}

template <class Scheme>
void test_scheme(const Scheme& scheme) {
  for (const int64_t heads : {int64_t{1}, 2 + draw.below(6), 8 + draw.below(5)}) {
    test_forward<uint16_t>(scheme, heads, draw.below(2) == 0, draw.below(3), draw.below(8));
    test_forward<uint32_t>(scheme, heads, draw.below(2) == 0, draw.below(3), draw.below(4));
    test_forward<uint64_t>(scheme, heads, draw.below(2) == 0, draw.below(3), draw.below(2));
    const DType type = draw.of({DType::float64, DType::float32, DType::float16, DType::bfloat16});
    POSENC_DISPATCH_DTYPE(type, {
      test_backward<scalar_t>(type, scheme, heads, draw.below(2) == 0, draw.below(3), /*whole=*/true);
      test_backward<scalar_t>(type, scheme, heads, draw.below(2) == 0, draw.below(3), /*whole=*/false);
    })
  }
}

// Rows of several chunks, the last one short, beside rows of one.
template <class Scheme>
void test_split_rows(const Scheme& scheme) {
  if (cuda::split_rows(scheme).count < 2)
    report("%s has no rows that are split", describe(scheme, 1).c_str());
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      test_backward<scalar_t>(type, scheme, 1 + draw.below(3), false, 0, /*whole=*/true);
      test_backward<scalar_t>(type, scheme, 9, true, 1, /*whole=*/false);
    })
  }
}

T5Scheme t5(int64_t rows, bool bidirectional, int64_t max_distance, int64_t queries, int64_t keys,
            int64_t offset) {
  T5Scheme scheme = make_t5_scheme(rows, bidirectional, max_distance);
  scheme.query_count = queries;
  scheme.key_count = keys;
  scheme.q_offset = offset;
  return scheme;
}

// One axis to three, square and not, whole and uneven replication of queries, with and without a prefix
// token; the pairs of the larger ones fill several tiles.
const WindowScheme kWindows[] = {
    {{1, 1, 1}, {1, 1, 1}, 0},  {{1, 1, 1}, {1, 1, 1}, 1}, {{1, 1, 5}, {1, 1, 5}, 0},
    {{1, 1, 5}, {1, 1, 13}, 1}, {{1, 2, 2}, {1, 2, 2}, 0}, {{1, 3, 4}, {1, 3, 4}, 1},
    {{1, 4, 3}, {1, 9, 7}, 0},  {{1, 7, 7}, {1, 7, 7}, 0}, {{1, 5, 8}, {1, 5, 8}, 1},
    {{2, 3, 4}, {2, 3, 4}, 0},  {{2, 2, 3}, {5, 4, 3}, 1}, {{1, 1, 40}, {1, 1, 40}, 0},
};

// Strides beyond 2^32 elements: an index cut to 32 bits anywhere would land on another row.
void test_long_strides() {
  constexpr int64_t kStride = (int64_t{1} << 32) + 16;
  const WindowScheme scheme{{1, 1, 2}, {1, 1, 2}, 0};
  SparseMemory memory(3 * kStride * sizeof(uint16_t));
  uint16_t* table = memory.as<uint16_t>();
  for (int64_t row = 0; row < 3; ++row) table[row * kStride] = static_cast<uint16_t>(100 + row);
  on_all_machines(dtype_of_size(2), [&] {
    uint16_t got[4] = {};
    cuda::kBiasKernels[scheme].forward(scheme, {DType::float16, table, kStride, 1, 1, got}, nullptr);
    if (got[0] != 101 || got[1] != 100 || got[2] != 102 || got[3] != 101)
      report("bias_forward with long strides");
  });
  // The same memory as a gradient: [heads, queries, keys] = [1, 2, 2] with long rows of queries.
  BFloat16* grad = memory.as<BFloat16>();
  for (int64_t q = 0; q < 2; ++q) {
    for (int64_t k = 0; k < 2; ++k)
      grad[q * kStride + k] = round_to<BFloat16>(static_cast<double>(1 + 2 * q + k));
  }
  on_all_machines("bfloat16", [&] {
    BFloat16 got[3] = {};
    cuda::kBiasKernels[scheme].backward(scheme, {DType::bfloat16, grad, 1, 0, 0, kStride, 1, 1, nullptr, got},
                                        nullptr);
    if (to_float(got[0]) != 2.0f || to_float(got[1]) != 5.0f || to_float(got[2]) != 3.0f) {
      report("bias_backward with long strides");
    }
  });
}

// More than 2^32 elements: an int anywhere would overflow. Of windows also those whose queries, times the
// window, no longer fit 32 bits.
template <class Scheme>
void test_large_forward(const Scheme& scheme, int64_t heads) {
  const int64_t rows = scheme.rows(), plane = scheme.queries() * scheme.keys();
  Buffer<uint16_t> table(rows * heads);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint16_t>(i + 1);
  SparseMemory memory(static_cast<size_t>(heads * plane) * sizeof(uint16_t));
  on_the_ends_of_a_large_grid(dtype_of_size(2), [&] {
    cuda::kBiasKernels[scheme].forward(
        scheme, {DType::float16, table.data(), heads, 1, heads, memory.as<void>()}, nullptr);
  });
  for (int64_t pair = plane - 64; pair < plane; ++pair) {
    const int64_t row = scheme.row(pair / scheme.keys(), pair % scheme.keys());
    if (memory.as<uint16_t>()[(heads - 1) * plane + pair] != table[row * heads + heads - 1])
      return report("bias_forward of many elements: %s", describe(scheme, heads).c_str());
  }
}

// The last slots of a row of so many.
template <class Scheme>
void test_large_row(const Scheme& scheme, int64_t row) {
  const auto fast = make_device_scheme(scheme);
  const auto slots = fast.slots(row);
  if (!fast.slots_fit || slots.count <= int64_t{1} << 31)
    report("%s is no large row", describe(scheme, 1).c_str());
  for (const int64_t i : {(int64_t{1} << 31) - 1, int64_t{1} << 31, slots.count - 1}) {
    const Pair pair = fast.pair(slots, i);
    if (pair.query != kNoPair && scheme.row(pair.query, pair.key) != row)
      report("slot of a large row: %s", describe(scheme, 1).c_str());
  }
}

void test_large_counts() {
  if (emulation::kFindsRaces) return;
  test_large_forward(t5(32, true, 128, (int64_t{1} << 17) + 1, 1 << 15, 5), 2);
  test_large_forward(WindowScheme{{1, 1, 4}, {1, 1, (1 << 29) - 1}, 1}, 3);
  test_large_forward(WindowScheme{{1, 1, 4}, {1, 1, (1 << 30) + 2}, 0}, 1);
  test_large_row(t5(32, true, 128, 1 << 20, 1 << 13, 0), 15);
  test_large_row(WindowScheme{{1, 1, 1}, {1, 3, 1 << 30}, 0}, 0);
  // One gradient for all heads: in one chunk, and in several, whose sums are more than 2^31.
  for (const int64_t queries : {2, 2500}) {
    const WindowScheme scheme{{1, 1, 2}, {1, 1, queries}, 0};
    const int64_t heads = queries == 2 ? (int64_t{1} << 30) + 1 : (int64_t{1} << 28) + 1,
                  chunks = cuda::split_rows(scheme).count;
    Buffer<BFloat16> grad(2 * queries);
    for (int64_t i = 0; i < grad.size(); ++i) grad[i] = round_to<BFloat16>(1.0);
    SparseMemory partial(static_cast<size_t>(3 * heads * chunks) * sizeof(float));
    SparseMemory memory(static_cast<size_t>(3 * heads) * sizeof(BFloat16));
    on_the_ends_of_a_large_grid("bfloat16", [&] {
      cuda::kBiasKernels[scheme].backward(
          scheme, {DType::bfloat16, grad.data(), 1, 0, 0, 2, 1, heads, partial.as<void>(), memory.as<void>()},
          nullptr);
    });
    const double wanted[] = {static_cast<double>(queries) / 2,
                             static_cast<double>(queries) / 2};  // first row, last row
    for (const int64_t i : {int64_t{0}, 3 * heads - 1}) {
      if (!same(memory.as<BFloat16>()[i], round_to<BFloat16>(wanted[i > 0])))
        report("bias_backward of many heads: %g", to_double(memory.as<BFloat16>()[i]));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  for (const WindowScheme& scheme : kWindows) test_scheme(scheme);
  for (const bool bidirectional : {false, true}) {
    test_scheme(t5(4, bidirectional, 3, 1, 1, 0));
    test_scheme(t5(9, bidirectional, 20, 5, 70, 3));
    test_scheme(t5(32, bidirectional, 128, 40, 33, -7));
    test_scheme(t5(32, bidirectional, 128, 1, 300, 299));
    test_split_rows(t5(6, bidirectional, 10, 60, 80, 5));
  }
  test_split_rows(WindowScheme{{1, 1, 2}, {1, 1, 2500}, 1});
  test_split_rows(WindowScheme{{1, 2, 2}, {1, 52, 41}, 0});
  // More tiles than a small device holds blocks: blocks go on to a second unit.
  test_forward<uint32_t>(WindowScheme{{1, 1, 100}, {1, 1, 100}, 0}, 2, false, 0, 1);
  // More heads than pass through shared memory together, in unequal numbers.
  for (const bool head_major : {false, true}) {
    test_forward<uint16_t>(kWindows[7], 37, head_major, 1, 3);
    test_forward<uint32_t>(kWindows[7], 19, head_major, 0, 1);
    test_forward<uint64_t>(kWindows[5], 9, head_major, 2, 0);
  }
  test_long_strides();
  return finish();
}
