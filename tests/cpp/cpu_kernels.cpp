// Every CPU kernel, at the level in use, on fixed inputs: a line with a hash of the result per kernel and
// dtype, to be compared between levels, compilers and machines. No torch.
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "core/t5_buckets.h"
#include "cpu/kernels/kernels.h"

namespace {

using namespace posenc_ext;
using namespace posenc_ext::core;

struct alignas(64) Line {
  unsigned char bytes[64];
};

// Zeroed memory that begins with a cache line.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes), lines_(static_cast<size_t>(bytes / 64 + 4)) {}
  void* data() { return lines_.data(); }
  template <class T>
  T* as() {
    return static_cast<T*>(data());
  }
  uint64_t hash() const {  // FNV-1a
    uint64_t value = 0xcbf29ce484222325u;
    const auto* bytes = reinterpret_cast<const unsigned char*>(lines_.data());
    for (int64_t i = 0; i < bytes_; ++i) value = (value ^ bytes[i]) * 0x100000001b3u;
    return value;
  }

 private:
  int64_t bytes_;
  std::vector<Line> lines_;
};

constexpr DType kDTypes[] = {DType::float64, DType::float32, DType::float16, DType::bfloat16};

const char* name(DType type) {
  const char* names[] = {"float64", "float32", "float16", "bfloat16"};
  return names[static_cast<int>(type)];
}

// Numbers of many bits and of either sign, below 8 in magnitude; no zero.
Memory numbers(DType type, int64_t count) {
  Memory memory(count * element_size(type));
  POSENC_DISPATCH_DTYPE(type, {
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t random = (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u;
      const double whole = static_cast<double>(static_cast<int64_t>(random ^ (random >> 29)) | 1);
      memory.as<scalar_t>()[i] = round_to<scalar_t>(whole * 0x1p-60);
    }
  })
  return memory;
}

void print(const std::string& kernel, DType type, const Memory& result) {
  std::printf("%s %s %016llx\n", kernel.c_str(), name(type), static_cast<unsigned long long>(result.hash()));
}

struct SinusoidTables {
  std::vector<double> hi, lo;
  cpu::Frequencies frequencies;
  std::vector<cpu::SixteenPairs> steps;
  std::vector<float> doubt;
  std::vector<cpu::AnchorPairs> anchors;
  cpu::AngleSteps angles{};

  explicit SinusoidTables(const Sinusoid& spec) {
    const size_t sixteens = static_cast<size_t>((spec.frequencies() + 15) / 16);
    hi.resize(16 * sixteens);
    lo.resize(hi.size());
    for (int64_t j = 0; j < spec.frequencies(); ++j) {
      const DoubleDouble f = frequency(spec, j);
      hi[static_cast<size_t>(j)] = f.hi;
      lo[static_cast<size_t>(j)] = f.lo;
    }
    frequencies = {spec, hi.data(), lo.data()};
    constexpr int64_t kNear = 4 * cpu::AngleSteps::kBlock;
    steps.resize(sixteens * (cpu::AngleSteps::kReach + 1));
    doubt.resize(16 * sixteens);
    anchors.resize(sixteens * (kNear / cpu::AngleSteps::kBlock));
    const int64_t count = static_cast<int64_t>(sixteens);
    cpu::kernels().sinusoid_steps(frequencies, count, steps.data(), doubt.data());
    angles = {count, steps.data(), doubt.data(), anchors.data(), kNear};
    cpu::kernels().sinusoid_anchors(frequencies, angles, anchors.data());
  }
  SinusoidTables(const SinusoidTables&) = delete;
};

void sinusoids(DType type) {
  for (const Layout layout : {Layout::interleaved, Layout::concat, Layout::concat_cos_first}) {
    for (const int64_t dim : {int64_t{7}, int64_t{40}, int64_t{130}}) {
      const double shift = dim == 40 ? 1.0 : 0.0, scale = dim == 130 ? 1000.0 : 1.0;
      const SinusoidTables tables(make_sinusoid(dim, 10000.0, shift, scale, layout, Odd::sin));
      const std::string which =
          " layout " + std::to_string(static_cast<int>(layout)) + " dim " + std::to_string(dim);
      for (int32_t order = 0; order < 3; ++order) {
        constexpr int64_t kRows = 90;
        Memory fractions = numbers(DType::float64, kRows), out(kRows * dim * element_size(type));
        cpu::SinusoidRows a{};
        a.spec = tables.frequencies.spec;
        a.frequencies = tables.frequencies;
        a.positions = {fractions.data(), PositionType::f64, {1, {kRows}, {1}}, 0};
        a.order = order;
        a.dtype = type;
        a.out = out.data();
        a.row_stride = dim;
        cpu::kernels().sinusoid_rows(a, 0, kRows);
        print("sinusoid_rows" + which + " order " + std::to_string(order), type, out);
        if (order == 0) {
          a.positions = {nullptr, PositionType::i64, {}, -5};
          a.angles = tables.angles;
          cpu::kernels().sinusoid_rows(a, 0, kRows);
          print("sinusoid_rows" + which + " whole positions", type, out);
        }
        Memory grad = numbers(type, kRows * dim), sums(kRows * 8);
        cpu::SinusoidBackward b{};
        b.spec = tables.frequencies.spec;
        b.frequencies = tables.frequencies;
        b.positions = {fractions.data(), PositionType::f64, {1, {kRows}, {1}}, 0};
        b.order = order;
        b.grad_dtype = type;
        b.grad = grad.data();
        b.grad_row = {1, {kRows}, {dim}};
        b.grad_channel_stride = 1;
        b.dtype = DType::float64;
        b.out = sums.data();
        cpu::kernels().sinusoid_backward(b, 0, kRows);
        print("sinusoid_backward" + which + " order " + std::to_string(order), type, sums);
      }
      if (type == DType::float64) continue;
      constexpr int64_t kLength = 700;
      Memory table(kLength * dim * element_size(type));
      cpu::SinusoidTable t{};
      t.frequencies = tables.frequencies;
      t.angles = tables.angles;
      t.start = -300;
      t.length = kLength;
      t.dtype = type;
      t.out = table.data();
      t.row_stride = dim;
      cpu::kernels().sinusoid_table(t, 0, t.blocks());
      print("sinusoid_table" + which, type, table);
    }
  }
}

const int64_t kSeed = 0x123456789abcdef;

cpu::SeededDropout dropout(bool drops) { return {make_dropout(0.3), drops ? &kSeed : nullptr}; }

void adds(DType type) {
  const int64_t batch = 5, length = 70, dim = 40, cached_positions = 16;
  const SinusoidTables tables(make_sinusoid(dim, 10000.0, 0.0, 1.0, Layout::interleaved, Odd::error));
  Memory cached(cached_positions * dim * 8);
  cpu::SinusoidRows rows{};
  rows.spec = tables.frequencies.spec;
  rows.frequencies = tables.frequencies;
  rows.positions = {nullptr, PositionType::i64, {}, 0};
  rows.dtype = DType::float64;
  rows.out = cached.data();
  rows.row_stride = dim;
  cpu::kernels().sinusoid_rows(rows, 0, cached_positions);
  Memory x = numbers(type, batch * length * dim);
  const int64_t offsets[] = {0, -3, 7, 1000, 65535};
  for (const bool batch_first : {false, true}) {
    for (const double x_scale : {1.0, 0.37}) {
      for (const bool drops : {false, true}) {
        Memory out(batch * length * dim * element_size(type));
        cpu::AddSinusoidal a{};
        a.spec = tables.frequencies.spec;
        a.frequencies = tables.frequencies;
        a.cached_rows = cached.as<double>();
        a.cached_positions = cached_positions;
        a.batch = batch;
        a.length = length;
        a.start = 1;
        a.offsets = batch_first ? offsets : nullptr;
        a.offset_type = PositionType::i64;
        a.offset_stride = 1;
        a.x_scale = x_scale;
        a.dropout = dropout(drops);
        a.dtype = type;
        a.x = x.data();
        a.x_batch_stride = a.out_batch_stride = batch_first ? length * dim : dim;
        a.x_length_stride = a.out_length_stride = batch_first ? dim : batch * dim;
        a.x_channel_stride = 1;
        a.out = out.data();
        cpu::kernels().add_sinusoidal(a, 0, a.items());
        print(std::string("add_sinusoidal ") + (batch_first ? "batch first" : "length first") +
                  (drops ? " dropout" : "") + (x_scale == 1.0 ? "" : " scaled"),
              type, out);
      }
    }
  }
  const int64_t count = batch * length * dim;
  for (const bool drops : {false, true}) {
    Memory out(count * element_size(type));
    cpu::ScaleDropout a{};
    a.scale = 1.7;
    a.dropout = dropout(drops);
    a.dtype = type;
    a.x = x.data();
    a.inner = 4096;
    a.inner_stride = 1;
    a.outer = {1, {(count + 4095) / 4096}, {4096}};
    a.total = count;
    a.out = out.data();
    cpu::kernels().scale_dropout(a, 0, a.items());
    print(drops ? "scale_dropout" : "scale_dropout p=0", type, out);
  }
}

void embeddings(DType type) {
  const int64_t batch = 6, tokens = 37, dim = 44, length = tokens + 1;
  Memory x = numbers(type, batch * tokens * dim), prefix = numbers(type, dim),
         pos = numbers(type, length * dim);
  for (const double x_scale : {1.0, 2.3}) {
    for (const bool drops : {false, true}) {
      for (const bool side_by_side : {true, false}) {  // of the channels of x
        Memory out(batch * length * dim * element_size(type));
        cpu::AddPositionEmbedding a{};
        a.dtype = type;
        a.batch = batch;
        a.length = length;
        a.prefix_length = 1;
        a.dim = dim;
        a.x = {x.data(), tokens * dim, side_by_side ? dim : 1, side_by_side ? 1 : tokens};
        a.x_scale = x_scale;
        a.prefixes = 1;
        a.prefix[0] = {prefix.data(), 0, dim, 1};
        a.prefix_end[0] = 1;
        a.pos = pos.data();
        a.pos_token_stride = dim;
        a.pos_channel_stride = 1;
        a.dropout = dropout(drops);
        a.out = out.data();
        a.out_batch_stride = length * dim;
        a.out_token_stride = dim;
        a.whole_samples = !side_by_side;
        a.item_tokens = 32;
        a.item_samples = side_by_side ? 4 : 1;
        cpu::kernels().add_position_embedding(a, 0, a.items());
        print(std::string("add_position_embedding") + (side_by_side ? "" : " transposed") +
                  (drops ? " dropout" : "") + (x_scale == 1.0 ? "" : " scaled"),
              type, out);
      }
    }
  }
  for (const bool transposed : {false, true}) {
    const int64_t rows = 37, columns = 260, samples = 70;
    Memory grad = numbers(type, samples * rows * columns), out(rows * columns * element_size(type));
    cpu::SumBatch a{};
    a.dtype = type;
    a.batch = samples;
    a.rows = rows;
    a.columns = columns;
    a.grad = grad.data();
    a.batch_stride = rows * columns;
    a.row_stride = transposed ? 1 : columns;
    a.column_stride = transposed ? rows : 1;
    a.out = out.data();
    a.out_row_stride = columns;
    a.out_column_stride = 1;
    cpu::kernels().sum_batch(a, 0, a.items());
    print(transposed ? "sum_batch transposed" : "sum_batch", type, out);
  }
}

void given_positions(DType type) {
  const int64_t rows = 9, dim = 44, count = 150;
  std::vector<int64_t> positions, first(1), terms;
  for (int64_t i = 0; i < count; ++i) positions.push_back(i * i * 7919 % rows);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      if (positions[static_cast<size_t>(i)] == row) terms.push_back(i * dim);
    }
    first.push_back(static_cast<int64_t>(terms.size()));
  }
  Memory x = numbers(type, count * dim), table = numbers(type, rows * dim);
  for (const double x_scale : {1.0, 2.3}) {
    for (const bool drops : {false, true}) {
      Memory out(count * dim * element_size(type));
      cpu::AddPositions a{};
      a.dtype = type;
      a.dim = dim;
      a.x = x.data();
      a.x_at = {1, {count}, {dim}};
      a.x_channel_stride = 1;
      a.x_scale = x_scale;
      a.positions = {positions.data(), PositionType::i64, {1, {count}, {1}}, 0};
      a.table = table.data();
      a.table_row_stride = dim;
      a.table_channel_stride = 1;
      a.dropout = dropout(drops);
      a.out = out.data();
      cpu::kernels().add_positions(a, 0, count);
      print(std::string("add_positions") + (drops ? " dropout" : "") + (x_scale == 1.0 ? "" : " scaled"),
            type, out);
    }
  }
  Memory out(rows * dim * element_size(type));
  cpu::SumPositions s{};
  s.dtype = type;
  s.rows = rows;
  s.dim = dim;
  s.first = first.data();
  s.terms = terms.data();
  s.grad = x.data();
  s.channel_stride = 1;
  s.out = out.data();
  cpu::kernels().sum_positions(s, 0, s.items());
  print("sum_positions", type, out);
}

void reduce(DType type, int64_t rows, int64_t heads, int64_t blocks, Memory& partial, Memory& out) {
  const cpu::BiasReduce a{type, rows, heads, blocks, partial.data(), out.data(), heads, 1};
  cpu::kernels().bias_reduce(a, 0, heads);
}

template <class Scheme>
void bias(const std::string& name, const Scheme& scheme, DType type, bool cut = true) {
  const int64_t heads = 6, rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  Memory table = numbers(type, rows * heads), out(heads * queries * keys * element_size(type));
  const cpu::BiasForward a{type, table.data(), heads, 1, heads, out.data()};
  cpu::kernels().bias[scheme].forward(scheme, a, false, 0, heads * queries);
  print(name, type, out);

  const int64_t sum_size = type == DType::float64 ? 8 : 4, parts = cpu::kernels().bias[scheme].parts(scheme);
  for (const int64_t part : {parts, cut ? (parts + 2) / 3 : parts}) {
    const cpu::Chunks blocks{part, (parts + part - 1) / part};
    Memory grad = numbers(type, heads * queries * keys), sums(rows * heads * element_size(type)),
           partial(heads * blocks.count * rows * sum_size);
    const cpu::BiasBackward b{type,       grad.data(),    1,
                              0,          queries * keys, keys,
                              1,          heads,          blocks.count > 1 ? partial.data() : nullptr,
                              sums.data()};
    cpu::kernels().bias[scheme].backward(scheme, b, blocks, 0, heads * blocks.count);
    if (blocks.count > 1) reduce(type, rows, heads, blocks.count, partial, sums);
    print(name + " backward, blocks: " + std::to_string(blocks.count), type, sums);
  }
}

// The sums of a batch of whole numbers, which are exact in any order.
template <class Scheme, class Sum>
void expect_batch(const char* name, const Scheme& scheme, int64_t rows, Sum sum,
                  double (*factor)(const Scheme&, int64_t, int64_t),
                  int64_t (*row)(const Scheme&, int64_t, int64_t)) {
  const int64_t batch = 3, heads = 2, queries = scheme.queries(), keys = scheme.keys(),
                plane = queries * keys;
  std::vector<float> grad, out(static_cast<size_t>(rows * heads)), expected(out.size());
  for (int64_t i = 0; i < batch * heads * plane; ++i) {
    grad.push_back(static_cast<float>(i * i * 7919 % 9 - 4));
    const int64_t head = i / plane % heads, q = i / keys % queries, k = i % keys;
    expected[static_cast<size_t>(row(scheme, q, k) * heads + head)] +=
        grad.back() * static_cast<float>(factor(scheme, q, k));
  }
  std::vector<double> partial(static_cast<size_t>(heads * queries));
  sum(cpu::BiasBackward{DType::float32, grad.data(), batch, heads * plane, plane, keys, 1, heads,
                        partial.data(), out.data()});
  if (out != expected) std::printf("FAILED batch of %s\n", name);
}

template <class Scheme>
void expect_batch(const char* name, const Scheme& scheme) {
  const auto sum = [&](const cpu::BiasBackward& a) {
    const cpu::Chunks whole{cpu::kernels().bias[scheme].parts(scheme), 1};
    cpu::kernels().bias[scheme].backward(scheme, a, whole, 0, a.heads);
  };
  expect_batch<Scheme>(
      name, scheme, scheme.rows(), sum, [](const Scheme&, int64_t, int64_t) { return 1.0; },
      [](const Scheme& s, int64_t q, int64_t k) { return s.row(q, k); });
}

void batches() {
  expect_batch("a small window", WindowScheme{{3, 1, 4}, {3, 1, 4}, 1});
  expect_batch("a large window", WindowScheme{{2, 1, 9}, {2, 1, 9}, 1});
  expect_batch("an expanded window", WindowScheme{{2, 1, 3}, {5, 1, 6}, 1});
  T5Scheme t5 = make_t5_scheme(32, true, 128);
  t5.query_count = 11;
  t5.key_count = 19;
  expect_batch("t5", t5);
  const AlibiScheme alibi{11, 19, 3, false};
  const auto sum = [&](const cpu::BiasBackward& a) {
    cpu::kernels().alibi_backward(alibi, a, 0, a.heads * alibi.queries());
    cpu::kernels().alibi_reduce(alibi, a, 0, a.heads);
  };
  expect_batch<AlibiScheme>(
      "alibi", alibi, 1, sum, [](const AlibiScheme& s, int64_t q, int64_t k) { return -s.distance(q, k); },
      [](const AlibiScheme&, int64_t, int64_t) { return int64_t{0}; });
}

void biases(DType type) {
  bias("window 7x7", WindowScheme{{7, 1, 7}, {7, 1, 7}, 0}, type, /*cut=*/false);  // as small ones never are
  bias("window 5x9 with a prefix", WindowScheme{{5, 1, 9}, {5, 1, 9}, 1}, type);
  bias("window 2x4x12", WindowScheme{{2, 4, 12}, {2, 4, 12}, 0}, type);
  bias("window 16x16", WindowScheme{{16, 1, 16}, {16, 1, 16}, 0}, type);
  bias("window 6x5 expanded", WindowScheme{{6, 1, 5}, {13, 1, 11}, 0}, type);
  for (const bool bidirectional : {false, true}) {
    T5Scheme scheme = make_t5_scheme(32, bidirectional, 128);
    scheme.query_count = 70;
    scheme.key_count = 190;
    scheme.q_offset = 60;
    bias(bidirectional ? "t5" : "t5 causal", scheme, type);
  }
}

void gather(DType type) {
  const int64_t samples = 2, queries = 23, keys = 37, rows = 50, heads = 6;
  const int64_t pairs = samples * queries * keys, lines = samples * queries;
  std::vector<int64_t> values;
  for (int64_t i = 0; i < pairs; ++i) values.push_back(i * i * 7919 % rows);
  const cpu::Index index{values.data(), true, {1, {pairs}, {1}}, 1, samples, queries, keys};
  int64_t place = -1;
  cpu::kernels().find_out_of_range(index, rows, 0, lines, &place);
  if (place != -1) std::puts("FAILED find_out_of_range");
  cpu::kernels().find_out_of_range(index, rows - 1, 0, lines, &place);
  if (place < 0 || values[static_cast<size_t>(place)] != rows - 1) std::puts("FAILED find_out_of_range");

  Memory table = numbers(type, rows * heads), columns(rows * heads * element_size(type)),
         out(heads * pairs * element_size(type));
  const int64_t size = element_size(type);
  for (int64_t i = 0; i < rows * heads; ++i) {
    memcpy(columns.as<char>() + (i % heads * rows + i / heads) * size, table.as<char>() + i * size,
           static_cast<size_t>(size));
  }
  const cpu::GatherForward a{index, type, columns.data(), 1, rows, rows, heads, out.data()};
  cpu::kernels().gather_forward(a, false, 0, lines);
  print("gather", type, out);

  const cpu::Chunks blocks{(lines + 2) / 3, 3};
  Memory grad = numbers(type, heads * pairs), sums(rows * heads * size),
         partial(heads * blocks.count * rows * (type == DType::float64 ? 8 : 4));
  const Strided grad_at{3, {samples, queries, keys}, {heads * queries * keys, keys, 1}};
  const cpu::GatherBackward b{index,   rows, heads,          type,           grad.data(),
                              grad_at, 1,    queries * keys, partial.data(), sums.data()};
  cpu::kernels().gather_backward(b, blocks, 0, heads * blocks.count);
  reduce(type, rows, heads, blocks.count, partial, sums);
  print("gather backward", type, sums);
}

void alibi(DType type) {
  const int64_t heads = 6, queries = 45, keys = 101;
  for (const bool causal : {false, true}) {
    const AlibiScheme scheme{queries, keys, 40, causal};
    const std::string which = causal ? "alibi causal" : "alibi";
    Memory slopes = numbers(type, heads), out(heads * queries * keys * element_size(type));
    const cpu::BiasForward a{type, slopes.data(), 0, 1, heads, out.data()};
    cpu::kernels().alibi_forward(scheme, a, false, 0, heads * queries);
    print(which, type, out);
    Memory grad = numbers(type, heads * queries * keys), partial(heads * queries * 8),
           sums(heads * element_size(type));
    const cpu::BiasBackward b{type,  grad.data(),    1,          0, queries * keys, keys, 1,
                              heads, partial.data(), sums.data()};
    cpu::kernels().alibi_backward(scheme, b, 0, heads * queries);
    cpu::kernels().alibi_reduce(scheme, b, 0, heads);
    print(which + " backward", type, sums);
  }
}

// Forward under every kind of mask, and backward of its result in one block of a head and in several.
template <class Scheme>
void softmax(const std::string& scheme_name, const Scheme& scheme, DType type) {
  using Kind = cpu::Mask::Kind;
  const int64_t batch = 6, heads = 3, rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const int64_t count = batch * heads * queries * keys, size = element_size(type);
  const DType sum_type = type == DType::float64 ? DType::float64 : DType::float32;
  const int64_t sum_size = element_size(sum_type);
  Memory scores = numbers(type, count), table = numbers(sum_type, rows * heads),
         added = numbers(sum_type, batch * queries * keys);
  std::vector<uint8_t> shown;
  for (int64_t i = 0; i < batch * queries * keys; ++i) shown.push_back(i * i * 7919 % 5 > 1);
  std::vector<int32_t> regions;
  for (int64_t i = 0; i < 2 * keys; ++i) regions.push_back(static_cast<int32_t>(i * i * 31 % 4));
  const Strided samples{1, {batch}, {queries * keys}};
  struct Case {
    const char* name;
    cpu::Mask mask;
  };
  const Case cases[] = {
      {"", {Kind::none, nullptr, {}, 0, 0, 1, false, 0}},
      {" causal", {Kind::none, nullptr, {}, 0, 0, 1, true, 2}},
      {" added mask", {Kind::added, added.data(), samples, 0, keys, 1, false, 0}},
      {" shown mask, causal", {Kind::shown, shown.data(), samples, 0, keys, 1, true, 20}},
      {" regions", {Kind::regions, regions.data(), {}, 0, 0, 2, false, 0}},
  };
  for (const auto& [name, mask] : cases) {
    if (mask.kind == Kind::regions && queries != keys) continue;
    Memory out(count * size);
    const cpu::BiasForward bias{sum_type, table.data(), heads, 1, heads, nullptr};
    const cpu::BiasSoftmax a{type, batch, scores.data(), 0.37, bias, mask, 0, out.data()};
    const std::string which = "softmax " + scheme_name + name;
    cpu::kernels().softmax[scheme].forward(scheme, a, 0, heads * batch * queries);
    print(which, type, out);

    constexpr bool kPairs = std::is_same_v<Scheme, cpu::PairScheme>;  // whose items are queries
    const int64_t tiles = batch * cpu::kernels().softmax[scheme].tiles(scheme);
    for (const int64_t cut : {tiles, (tiles + 2) / 3}) {
      const cpu::Chunks blocks = kPairs ? cpu::Chunks{1, queries} : cpu::Chunks{cut, (tiles + cut - 1) / cut};
      for (const bool non_temporal : {false, true}) {
        Memory grad = numbers(type, count), grad_scores(count * size), sums(rows * heads * sum_size),
               partial(heads * blocks.count * rows * sum_size);
        const cpu::BiasSoftmaxBackward b{type,
                                         batch,
                                         heads,
                                         grad.data(),
                                         out.data(),
                                         0.37,
                                         grad_scores.data(),
                                         partial.data(),
                                         sums.data(),
                                         kPairs ? 1 : heads,
                                         kPairs ? rows : 1,
                                         non_temporal};
        cpu::kernels().softmax[scheme].backward(scheme, b, blocks, 0, heads * blocks.count);
        if (!kPairs && blocks.count > 1) {
          const cpu::BiasReduce reduce{sum_type,       rows,        heads,        blocks.count,
                                       partial.data(), sums.data(), b.row_stride, b.head_stride};
          cpu::kernels().bias_reduce(reduce, 0, heads);
        }
        const std::string how = which + " backward, blocks: " + std::to_string(blocks.count);
        print(how, type, sums);
        print(how + ", of scores", type, grad_scores);
      }
    }
  }
}

void softmaxes(DType type) {
  softmax("window 7x7", WindowScheme{{7, 1, 7}, {7, 1, 7}, 0}, type);
  softmax("window 5x9 with a prefix", WindowScheme{{5, 1, 9}, {5, 1, 9}, 1}, type);
  softmax("window 14x14", WindowScheme{{14, 1, 14}, {14, 1, 14}, 0}, type);
  softmax("window 6x5 expanded", WindowScheme{{6, 1, 5}, {13, 1, 11}, 0}, type);
  softmax("diagonals", cpu::DiagonalScheme{70, 190}, type);
  softmax("diagonals, few keys", cpu::DiagonalScheme{9, 9}, type);
  softmax("pairs", cpu::PairScheme{23, 37}, type);
  std::vector<int64_t> index;
  for (int64_t i = 0; i < 23 * 37; ++i) index.push_back(i * i * 7919 % 50);
  softmax("index", cpu::IndexScheme{{index.data(), true, {1, {23 * 37}, {1}}, 1, 1, 23, 37}, 50}, type);
}

}  // namespace

int main() {
  batches();
  for (const DType type : kDTypes) {
    sinusoids(type);
    adds(type);
    embeddings(type);
    given_positions(type);
    biases(type);
    gather(type);
    alibi(type);
    softmaxes(type);
  }
}
