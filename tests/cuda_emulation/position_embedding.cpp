// The position-embedding kernels, emulated, against the CPU kernels of the baseline level: bit for bit,
// except for sums of float32, which are summed in pairs of floats instead of in float64.
#include <memory>

#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "cpu/kernels/kernels.h"
#include "cuda/kernels/position_embedding.cu"

namespace {

using namespace posenc_ext;
using namespace check;

Random draw;

enum class Form { contiguous, image, gaps, off_boundary, strided_channels, odd_tokens, expanded };
constexpr Form kForms[] = {Form::contiguous,       Form::image,      Form::gaps,    Form::off_boundary,
                           Form::strided_channels, Form::odd_tokens, Form::expanded};

// Tokens of a batch in memory of their own.
template <class T>
struct TokenData {
  args::Tokens view{};
  std::unique_ptr<Buffer<T>> memory;

  TokenData(int64_t batch, int64_t tokens, int64_t dim, Form form) {
    view.channel_stride = form == Form::image ? tokens : form == Form::strided_channels ? 2 : 1;
    view.token_stride = form == Form::image        ? 1
                        : form == Form::gaps       ? dim + 16
                        : form == Form::odd_tokens ? dim + 1
                                                   : dim * view.channel_stride;
    view.batch_stride = form == Form::expanded || batch == 1 ? 0
                        : form == Form::image                ? tokens * dim
                                                             : tokens * view.token_stride;
    const int64_t last = (tokens - 1) * view.token_stride + (dim - 1) * view.channel_stride;
    const int64_t extent = tokens == 0 ? 0 : (batch - 1) * view.batch_stride + last + 1;
    memory = std::make_unique<Buffer<T>>(extent, form == Form::off_boundary ? 1 : 0);
    for (int64_t i = 0; i < extent; ++i) (*memory)[i] = round_to<T>(draw.normal_like());
    if (extent > 0 && draw.below(3) == 0)
      (*memory)[draw.below(extent)] = round_to<T>(draw.of<double>({HUGE_VAL, NAN}));
    view.data = memory->data();
  }
};

// Prefixes: the number of tokens of each, negative where all samples share them.
template <class T>
void test_add(DType type, int64_t batch, int64_t tokens, int64_t dim, std::vector<int64_t> prefixes,
              Form form, bool batch_first, bool embed_prefix, double x_scale, double p) {
  cpu::AddPositionEmbedding host{};
  host.dtype = type;
  host.batch = batch;
  host.dim = dim;
  const TokenData<T> x(batch, tokens, dim, form);
  host.x = x.view;
  host.x_scale = x_scale;
  std::vector<TokenData<T>> prefix_data;
  for (const int64_t k : prefixes) {
    const Form its_form = draw.below(4) == 0 ? form : Form::contiguous;
    prefix_data.emplace_back(k < 0 ? 1 : batch, std::abs(k), dim, its_form);
    host.prefix_length += std::abs(k);
    host.prefix[host.prefixes] = prefix_data.back().view;
    host.prefix_end[host.prefixes++] = host.prefix_length;
  }
  host.length = host.prefix_length + tokens;
  const int64_t rows = embed_prefix ? host.length : tokens;
  const TokenData<T> pos(1, rows, dim, draw.below(4) == 0 ? form : Form::contiguous);
  host.pos = pos.view.data;
  host.pos_token_stride = pos.view.token_stride;
  host.pos_channel_stride = pos.view.channel_stride;
  host.first_embedded = embed_prefix ? 0 : host.prefix_length;
  const int64_t seed = draw.below(int64_t{1} << 60);
  host.dropout = {make_dropout(p), p > 0.0 ? &seed : nullptr};
  Buffer<T> wanted(batch * host.length * dim);
  host.out = wanted.data();
  host.out_batch_stride = batch_first ? host.length * dim : dim;
  host.out_token_stride = batch_first ? dim : batch * dim;
  host.item_tokens = host.length;
  host.item_samples = batch;
  cpu::baseline::kKernels.add_position_embedding(host, 0, host.items());

  Buffer<double> exact(wanted.size());
  std::vector<std::unique_ptr<Buffer<double>>> wide;
  const auto widened = [&](args::Tokens& tokens, Buffer<T>& from) {
    wide.push_back(std::make_unique<Buffer<double>>(from.size()));
    for (int64_t i = 0; i < from.size(); ++i) (*wide.back())[i] = to_double(from[i]);
    tokens.data = wide.back()->data();
  };
  cpu::AddPositionEmbedding doubles = host;
  doubles.dtype = DType::float64;
  doubles.out = exact.data();
  widened(doubles.x, *x.memory);
  for (int32_t i = 0; i < host.prefixes; ++i)
    widened(doubles.prefix[i], *prefix_data[static_cast<size_t>(i)].memory);
  args::Tokens wide_pos = pos.view;
  widened(wide_pos, *pos.memory);
  doubles.pos = wide_pos.data;
  cpu::baseline::kKernels.add_position_embedding(doubles, 0, doubles.items());

  cuda::AddPositionEmbedding device = host;
  const int64_t skip = draw.below(4) == 0 ? 1 : 0;
  on_all_machines(name(type), [&] {
    Buffer<T> got(wanted.size(), skip);
    device.out = got.data();
    cuda::add_position_embedding(device, nullptr);
    const std::string what = "add_position_embedding " + std::string(name(type)) + " form " +
                             std::to_string(static_cast<int>(form)) + " dim " + std::to_string(dim) +
                             " tokens " + std::to_string(tokens) + " prefixes " +
                             std::to_string(prefixes.size());
    if (type != DType::float32) return void(all_same(got, wanted, what));
    all_near(got, wanted, exact, 0.5 + 0x1p-20, [](int64_t) { return 0.0; }, what);  // once rounded
  });
}

template <class T>
void test_add_of(DType type) {
  const std::vector<int64_t> kPrefixes[] = {{}, {-1}, {1}, {-1, -1}, {-1, 0, 3}, {2, -1, 1, -2, 1, 1, -1, 1}};
  for (const Form form : kForms) {
    for (const int64_t dim : {int64_t{1}, int64_t{16}, 2 + draw.below(40), 8 * (1 + draw.below(9))}) {
      test_add<T>(type, 1 + draw.below(5), 1 + draw.below(40), dim, kPrefixes[draw.below(6)], form,
                  draw.below(2) == 0, draw.below(2) == 0, draw.of({1.0, 1.0, -1.7}),
                  draw.of({0.0, 0.0, 0.4}));
    }
    test_add<T>(type, 2, 3, 16, kPrefixes[4], form, true, false, 1.0, 0.0);   // prefix tokens are copied
    test_add<T>(type, 2, 3, 16, kPrefixes[4], form, true, false, 1e70, 0.3);  // a scale no float pair holds
  }
  for (const double p : {0.0, 0.3}) {
    test_add<T>(type, 3, 70, 96, {-1, 2}, Form::contiguous, true, true, 1.0, p);
    test_add<T>(type, 2, 70, 66, {-1, 2}, Form::image, true, true, 1.0, p);  // several squares, with rests
    test_add<T>(type, 3, 0, 8, {-1, 2}, Form::contiguous, false, true, 1.0, p);  // no token but prefixes
    test_add<T>(type, 40, 1, 8, {-1}, Form::contiguous, true, true, 2.0,
                p);  // more than one chunk of samples
  }
}

// With small whole numbers every partial sum is exact and the result has one right value; with others it has
// a narrow interval.
template <class T>
void test_sum(DType type, int64_t batch, int64_t rows, int64_t columns, int64_t column_stride, int64_t gap,
              int64_t skip, bool turned, bool whole) {
  const int64_t row_stride = columns * column_stride + gap;
  const int64_t batch_stride = rows * row_stride;
  Buffer<T> grad((batch - 1) * batch_stride + (rows - 1) * row_stride + (columns - 1) * column_stride + 1,
                 skip);
  for (int64_t i = 0; i < grad.size(); ++i) {
    grad[i] = round_to<T>(whole ? static_cast<double>(draw.below(9) - 4) : draw.uniform());
  }
  cuda::SumBatch a{type,
                   batch,
                   rows,
                   columns,
                   grad.data(),
                   batch_stride,
                   row_stride,
                   column_stride,
                   nullptr,
                   turned ? 1 : columns,
                   turned ? rows : 1};
  const double epsilon = whole ? 0.0 : std::is_same_v<T, double> ? 0x1p-52 : 0x1p-24;
  std::vector<T> first;
  on_all_machines(name(type), [&] {
    Buffer<T> got(rows * columns, skip);
    a.out = got.data();
    cuda::sum_batch(a, nullptr);
    if (!got.guard_is_intact()) report("sum_batch wrote in front of its result");
    for (int64_t i = 0; i < rows * columns; ++i) {
      const int64_t row = i / columns, column = i % columns;
      double sum = 0.0;
      for (int64_t b = 0; b < batch; ++b) {
        sum += to_double(grad[b * batch_stride + row * row_stride + column * column_stride]);
      }
      const double slack = epsilon * std::fabs(sum) * static_cast<double>(batch);
      const double value = to_double(got[row * a.out_row_stride + column * a.out_column_stride]);
      if (value >= to_double(round_to<T>(sum - slack)) && value <= to_double(round_to<T>(sum + slack)))
        continue;
      report("sum_batch %s [%lld, %lld, %lld]: element %lld is %.9g, not %.9g", name(type),
             static_cast<long long>(batch), static_cast<long long>(rows), static_cast<long long>(columns),
             static_cast<long long>(i), value, sum);
      break;
    }
    // However threads and blocks run: the same bits.
    if (first.empty()) first.assign(got.data(), got.data() + got.size());
    for (int64_t i = 0; i < got.size(); ++i) {
      if (!same_bits(first[static_cast<size_t>(i)], got[i])) report("sum_batch differs between runs");
    }
  });
}

template <class T>
void test_sum_of(DType type) {
  for (const bool whole : {true, false}) {
    for (const int64_t batch : {1, 2, 7, 8, 9, 37}) {
      test_sum<T>(type, batch, 1 + draw.below(3), 8 * (1 + draw.below(60)), 1, 8 * draw.below(2), 0, false,
                  whole);
      test_sum<T>(type, batch, 1 + draw.below(3), 1 + draw.below(90), 1 + draw.below(2), draw.below(3),
                  draw.below(2), draw.below(2) == 0, whole);
    }
    test_sum<T>(type, 3, 40, 64, 1, 0, 0, false, whole);  // more rows than a small device holds blocks
    test_sum<T>(type, 3, 40, 5, 1, 0, 0, true, whole);
  }
  test_sum<T>(type, 5, 1, 64, 0, 0, 0, false, true);  // an expanded gradient
}

// Rows [tokens, dim] in memory with gaps or with channels apart, of finite values.
template <class T>
struct Rows {
  int64_t row_stride, channel_stride;
  Buffer<T> memory;

  Rows(int64_t rows, int64_t dim, Form form)
      : row_stride(form == Form::image              ? 1
                   : form == Form::odd_tokens       ? dim + 1
                   : form == Form::gaps             ? dim + 16
                   : form == Form::strided_channels ? 2 * dim
                                                    : dim),
        channel_stride(form == Form::image              ? rows
                       : form == Form::strided_channels ? 2
                                                        : 1),
        memory(rows == 0 ? 0 : (rows - 1) * row_stride + (dim - 1) * channel_stride + 1,
               form == Form::off_boundary ? 1 : 0) {
    for (int64_t i = 0; i < memory.size(); ++i) memory[i] = round_to<T>(draw.normal_like());
  }
  Strided at(int64_t rows) const { return {1, {rows}, {row_stride}}; }
};

// `bad`: a position that is no row, planted once.
template <class T, class Position>
void test_positions(DType type, int64_t count, int64_t rows, int64_t dim, Form form, double x_scale, double p,
                    int64_t bad = -1) {
  const bool plant = bad != -1;
  const std::string what = std::string(name(type)) + " form " + std::to_string(static_cast<int>(form)) +
                           " count " + std::to_string(count) + " rows " + std::to_string(rows) + " dim " +
                           std::to_string(dim);
  Rows<T> x(count, dim, form), pos(rows, dim, draw.below(3) == 0 ? form : Form::contiguous);
  const int64_t position_stride = 1 + draw.below(3);
  Buffer<Position> positions(count * position_stride);
  const int64_t favourite = draw.below(rows);
  std::vector<std::vector<int64_t>> tokens_of(static_cast<size_t>(rows));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = draw.below(3) == 0 ? favourite : draw.below(rows);
    positions[i * position_stride] = static_cast<Position>(row);
    tokens_of[static_cast<size_t>(row)].push_back(i);
  }
  const Strided at{1, {count}, {position_stride}};
  const int64_t seed = draw.below(int64_t{1} << 60);
  const Dropout dropout = make_dropout(p);
  const int64_t* seeded = p > 0.0 ? &seed : nullptr;
  Buffer<T> wanted(count * dim);
  const PositionType kind = sizeof(Position) == 8 ? PositionType::i64 : PositionType::i32;
  cpu::AddPositions host{{type,
                          count,
                          rows,
                          dim,
                          x.memory.data(),
                          x.at(count),
                          x.channel_stride,
                          x_scale,
                          {positions.data(), kind, at, 0},
                          pos.memory.data(),
                          pos.row_stride,
                          pos.channel_stride,
                          {dropout, seeded},
                          wanted.data()},
                         false};
  cuda::AddPositions device = host;
  cpu::baseline::kKernels.add_positions(host, 0, count);
  Buffer<double> exact(count * dim), wide_x(x.memory.size()), wide_pos(pos.memory.size());
  for (int64_t i = 0; i < wide_x.size(); ++i) wide_x[i] = to_double(x.memory[i]);
  for (int64_t i = 0; i < wide_pos.size(); ++i) wide_pos[i] = to_double(pos.memory[i]);
  host.dtype = DType::float64;
  host.x = wide_x.data(), host.table = wide_pos.data(), host.out = exact.data();
  cpu::baseline::kKernels.add_positions(host, 0, count);
  const int64_t planted = count / 2;
  if (plant) positions[planted * position_stride] = static_cast<Position>(bad);
  on_all_machines(name(type), [&] {
    Buffer<T> got(count * dim, draw.below(4) == 0 ? 1 : 0);
    device.out = got.data();
    cuda::add_positions(device, nullptr);
    if ((take_failed_assertions() > 0) != plant)
      report("add_positions %s: a position outside and an assertion go together", what.c_str());
    if (plant) return;
    if (type != DType::float32) return void(all_same(got, wanted, "add_positions " + what));
    all_near(got, wanted, exact, 0.5 + 0x1p-20, [](int64_t) { return 0.0; }, "add_positions " + what);
  });

  // The sums are added in the CPU's order: the same bits.
  std::vector<int64_t> first{0}, terms, sorted, order;
  for (int64_t row = 0; row < rows; ++row) {
    for (const int64_t token : tokens_of[static_cast<size_t>(row)]) {
      terms.push_back(token * x.row_stride);
      sorted.push_back(row);
      order.push_back(token);
    }
    first.push_back(static_cast<int64_t>(terms.size()));
  }
  Buffer<T> sums(rows * dim);
  const cpu::SumPositions host_sum{
      {type, count, rows, dim, x.memory.data(), x.at(count), x.channel_stride, sums.data()},
      first.data(),
      terms.data()};
  cpu::baseline::kKernels.sum_positions(host_sum, 0, host_sum.items());
  if (plant) (bad < 0 ? sorted.front() : sorted.back()) = bad;
  cuda::SumPositions sum{host_sum, sorted.data(), order.data()};
  on_all_machines(name(type), [&] {
    Buffer<T> got(rows * dim, draw.below(4) == 0 ? 1 : 0);
    sum.out = got.data();
    cuda::sum_positions(sum, nullptr);
    if ((take_failed_assertions() > 0) != plant)
      report("sum_positions %s: a position outside and an assertion go together", what.c_str());
    if (!plant) all_same(got, sums, "sum_positions " + what);
  });
}

template <class T>
void test_positions_of(DType type) {
  for (const Form form : kForms) {
    if (form == Form::expanded) continue;
    for (const int64_t dim : {int64_t{1}, int64_t{16}, 8 * (1 + draw.below(9)), 2 + draw.below(40)}) {
      const double x_scale = draw.of({1.0, -1.5707963267948966}), p = draw.of({0.0, 0.4});
      test_positions<T, int64_t>(type, 1 + draw.below(40), 1 + draw.below(9), dim, form, x_scale, p);
      test_positions<T, int32_t>(type, 1 + draw.below(40), 1 + draw.below(60), dim, form, x_scale, p);
    }
  }
  for (const int64_t dim : {16, 7}) {  // in vectors or not; a scale no float pair holds
    test_positions<T, int64_t>(type, 9, 4, dim, Form::contiguous, 1e70, 0.3);
  }
  test_positions<T, int64_t>(type, 9, 4, 16, Form::contiguous, 1.0, 1.0);  // all is dropped
  for (const int64_t bad : {int64_t{5}, int64_t{-2}, int64_t{1} << 40})
    test_positions<T, int64_t>(type, 9, 5, 16, Form::contiguous, 1.0, 0.0, bad);
  test_positions<T, int32_t>(type, 9, 5, 7, Form::contiguous, 1.0, 0.0, -3);
}

// Strides beyond 2^32 elements: an index cut to 32 bits anywhere would land on another sample or token.
void test_long_strides() {
  constexpr int64_t kStride = (int64_t{1} << 32) + 16;
  SparseMemory memory(2 * kStride * sizeof(BFloat16)), result(2 * kStride * sizeof(BFloat16));
  BFloat16 *x = memory.as<BFloat16>(), *out = result.as<BFloat16>();
  BFloat16 pos[16];
  for (int64_t c = 0; c < 16; ++c) {
    pos[c] = round_to<BFloat16>(static_cast<double>(c));
    for (int64_t b = 0; b < 2; ++b) x[b * kStride + c] = round_to<BFloat16>(static_cast<double>(32 * b + c));
  }
  const auto check = [&](const char* what) {
    for (int64_t i = 0; i < 32; ++i) {
      if (to_float(out[i / 16 * kStride + i % 16]) != static_cast<float>(32 * (i / 16) + 2 * (i % 16))) {
        report("add_position_embedding with long strides of %s", what);
        return;
      }
    }
  };
  cuda::AddPositionEmbedding a{};
  a.dtype = DType::bfloat16;
  a.dim = 16;
  a.x_scale = 1.0;
  a.pos = pos;
  a.pos_channel_stride = 1;
  a.out = out;
  for (const int64_t channel_stride :
       {1, 2}) {  // with vectors; the second reads every other channel twice as far
    if (channel_stride == 2) {
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t c = 15; c > 0; --c) x[b * kStride + 2 * c] = x[b * kStride + c];
      }
    }
    a.batch = 2;
    a.length = 1;
    a.x = {x, kStride, 32, channel_stride};
    a.out_batch_stride = kStride;
    a.out_token_stride = 16;
    on_all_machines("bfloat16", [&] {
      std::memset(out, 0, 32), std::memset(out + kStride, 0, 32);
      cuda::add_position_embedding(a, nullptr);
      check("samples");
    });
    a.batch = 1;
    a.length = 2;
    a.x = {x, 0, kStride, channel_stride};
    a.pos_token_stride = 0;
    a.out_batch_stride = 0;
    a.out_token_stride = kStride;
    on_all_machines("bfloat16", [&] {
      std::memset(out, 0, 32), std::memset(out + kStride, 0, 32);
      cuda::add_position_embedding(a, nullptr);
      check("tokens");
    });
  }
  for (int64_t i = 0; i < 32; ++i) {  // what was added above: not every case runs where races are looked for
    out[i / 16 * kStride + i % 16] = round_to<BFloat16>(static_cast<double>(i / 16 * 32 + i % 16 * 2));
  }
  // Rows of x and of pos so far apart, by vectors; and the sum of such rows.
  const int32_t positions[] = {1, 0};
  const int64_t sorted[] = {0, 0}, order[] = {0, 1};
  const Strided far{1, {2}, {kStride}}, near{1, {2}, {1}};
  on_all_machines("bfloat16", [&] {
    alignas(16) BFloat16 got[32] = {}, sum[16] = {};
    cuda::add_positions({DType::bfloat16,
                         2,
                         2,
                         16,
                         out,
                         far,
                         1,
                         1.0,
                         {positions, PositionType::i32, near, 0},
                         out,
                         kStride,
                         1,
                         {},
                         got},
                        nullptr);
    cuda::sum_positions({{DType::bfloat16, 2, 1, 16, out, far, 1, sum}, sorted, order}, nullptr);
    for (int64_t c = 0; c < 32; ++c) {
      if (to_float(got[c]) != static_cast<float>(32 + 4 * (c % 16)))
        report("add_positions with long strides");
    }
    for (int64_t c = 0; c < 16; ++c) {
      if (to_float(sum[c]) != static_cast<float>(32 + 4 * c)) report("sum_positions with long strides");
    }
  });
  on_all_machines("bfloat16", [&] {
    BFloat16 got[16] = {};
    cuda::sum_batch({DType::bfloat16, 2, 1, 16, out, kStride, 0, 1, got, 0, 1}, nullptr);
    for (int64_t c = 0; c < 16; ++c) {
      if (to_float(got[c]) != static_cast<float>(32 + 4 * c)) report("sum_batch with long strides");
    }
  });
}

// More than 2^32 elements, of tokens that are expanded: an int anywhere would overflow.
void test_large_counts() {
  if (emulation::kFindsRaces) return;
  const auto value = [](double x) { return round_to<BFloat16>(x); };
  // With vectors, without them, and of an image whose channels lie further apart than its tokens.
  enum Kind { vectors, strided, transposed };
  for (const Kind kind : {vectors, strided, transposed}) {
    const int64_t dim = kind == transposed ? 1056 : 16, batch = kind == transposed ? 4097 : 3;
    const int64_t tokens = kind == transposed ? 1025 : (int64_t{1} << 28) + 1;
    const int64_t rows = kind == transposed ? tokens : 1, channel_stride = kind == transposed ? tokens
                                                                           : kind == strided  ? 2
                                                                                              : 1;
    Buffer<BFloat16> x(kind == transposed ? dim * tokens : dim * channel_stride), pos(rows * dim);
    for (int64_t i = 0; i < x.size(); ++i) x[i] = value(static_cast<double>(i % 61));
    for (int64_t i = 0; i < pos.size(); ++i) pos[i] = value(static_cast<double>(i % 53));
    SparseMemory memory(static_cast<size_t>(batch * tokens * dim) * sizeof(BFloat16));
    cuda::AddPositionEmbedding a{};
    a.dtype = DType::bfloat16;
    a.batch = batch;
    a.length = tokens;
    a.dim = dim;
    a.x = {x.data(), 0, kind == transposed ? 1 : 0, channel_stride};
    a.x_scale = 1.0;
    a.pos = pos.data();
    a.pos_token_stride = kind == transposed ? dim : 0;
    a.pos_channel_stride = 1;
    a.out = memory.as<void>();
    a.out_batch_stride = tokens * dim;
    a.out_token_stride = dim;
    on_the_ends_of_a_large_grid("bfloat16", [&] { cuda::add_position_embedding(a, nullptr); });
    for (int64_t c = kind == transposed ? dim - 32 : 0; c < dim; ++c) {
      const int64_t token = tokens - 1;
      const BFloat16 got = memory.as<BFloat16>()[((batch - 1) * tokens + token) * dim + c];
      const double sum = to_double(x[(kind == transposed ? token : 0) + c * channel_stride]) +
                         to_double(pos[kind == transposed ? token * dim + c : c]);
      if (!same(got, value(sum)))
        report("add_position_embedding of many elements, kind %d", static_cast<int>(kind));
    }
  }
  {
    const int64_t count = (int64_t{1} << 28) + 1, dim = 16, zero = 0;
    Buffer<BFloat16> row(dim);
    for (int64_t c = 0; c < dim; ++c) row[c] = value(static_cast<double>(c));
    SparseMemory memory(static_cast<size_t>(count * dim) * sizeof(BFloat16));
    const Strided same{1, {count}, {0}};
    const auto check_last = [&](const char* what, double factor) {
      for (int64_t c = 0; c < dim; ++c) {
        if (!same_bits(memory.as<BFloat16>()[(count - 1) * dim + c], value(factor * to_double(row[c]))))
          report("%s of many elements", what);
      }
    };
    on_the_ends_of_a_large_grid("bfloat16", [&] {
      cuda::add_positions({DType::bfloat16,
                           count,
                           1,
                           dim,
                           row.data(),
                           same,
                           1,
                           1.0,
                           {&zero, PositionType::i64, same, 0},
                           row.data(),
                           dim,
                           1,
                           {},
                           memory.as<void>()},
                          nullptr);
    });
    check_last("add_positions", 2.0);
    const int64_t last = count - 1;
    on_the_ends_of_a_large_grid("bfloat16", [&] {
      cuda::sum_positions(
          {{DType::bfloat16, 1, count, dim, row.data(), same, 1, memory.as<void>()}, &last, &zero}, nullptr);
    });
    check_last("sum_positions", 1.0);
  }
  for (const int64_t column_stride : {1, 2}) {
    const int64_t rows = (int64_t{1} << 22) + 1, columns = 1024;
    Buffer<BFloat16> grad(columns * column_stride);
    for (int64_t i = 0; i < grad.size(); ++i) grad[i] = value(static_cast<double>(i % 61));
    SparseMemory memory(static_cast<size_t>(rows * columns) * sizeof(BFloat16));
    on_the_ends_of_a_large_grid("bfloat16", [&] {
      cuda::sum_batch({DType::bfloat16, 2, rows, columns, grad.data(), 0, 0, column_stride, memory.as<void>(),
                       columns, 1},
                      nullptr);
    });
    for (int64_t c = columns - 32; c < columns; ++c) {
      if (!same(memory.as<BFloat16>()[(rows - 1) * columns + c],
                value(2.0 * to_double(grad[c * column_stride]))))
        report("sum_batch of many elements");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      test_add_of<scalar_t>(type);
      test_sum_of<scalar_t>(type);
      test_positions_of<scalar_t>(type);
    })
  }
  test_long_strides();
  return finish();  // four dtypes of nine kernels
}
