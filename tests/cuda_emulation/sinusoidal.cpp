// The sinusoid kernels, emulated, against the CPU kernels of the baseline level: bit for bit where both
// compute in float64; else within 0.76 ulp of float32 (0.501 of the halves) of the CPU's float64 values.
#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "cpu/kernels/kernels.h"
#include "cuda/kernels/sinusoidal.cu"

namespace {

using namespace posenc_ext;
using namespace check;

Random draw;

struct HostFrequencies {
  std::vector<double> hi, lo;
  args::Frequencies view;

  explicit HostFrequencies(const Sinusoid& spec) {
    for (int64_t j = 0; j < spec.frequencies(); ++j) {
      const DoubleDouble f = frequency(spec, j);
      hi.push_back(f.hi);
      lo.push_back(f.lo);
    }
    hi.resize((hi.size() + 15) / 16 * 16);  // zeros fill the last sixteen
    lo.resize(hi.size());
    view = {spec, hi.data(), lo.data()};
  }
};

cpu::SinusoidRows host_rows(const HostFrequencies& frequencies, const args::Positions& positions,
                            int32_t order, DType type, void* out, int64_t row_stride, int64_t rows) {
  return {{frequencies.view.spec, positions, order, type, out, row_stride, 1, rows}, frequencies.view};
}

Sinusoid random_spec(int64_t dim, Layout layout) {
  const Odd odd = dim % 2 == 0 ? Odd::error : draw.of({Odd::zero, Odd::sin});
  const double shift = dim >= 4 ? draw.of({0.0, 1.0}) : dim >= 2 ? 0.0 : -1.0;
  return make_sinusoid(dim, draw.of({10000.0, 100.0, 0.5}), shift, draw.of({1.0, 1.0, 1000.0, -0.3, 1e-20}),
                       layout, odd);
}

std::string describe(const Sinusoid& s, DType type) {
  return std::string(name(type)) + " dim " + std::to_string(s.dim) + " layout " +
         std::to_string(static_cast<int>(s.layout)) + " odd " + std::to_string(static_cast<int>(s.odd));
}

// The largest frequency, in turns per position.
double fastest(const Sinusoid& s) {
  const double last = to_double(frequency(s, max_of<int64_t>(0, s.frequencies() - 1)).hi);
  return 0.25 * max_of(std::fabs(s.turn.hi), std::fabs(last));
}

// What of an angle at this position the digits of the frequencies leave open: nothing that shows, but far
// out.
double open_angle(const Sinusoid& s, double position) {
  return std::fabs(position) * fastest(s) * 2.0 * M_PI * 0x1p-92;
}

template <class T>
constexpr double kUlps = sizeof(T) == 4 ? 0.76 : 0.501;

constexpr int kWideDim =
    2 * cuda::kBackwardTilePairs + 66;  // more than one tile of frequencies in the backward kernel
constexpr Layout kLayouts[] = {Layout::interleaved, Layout::concat, Layout::concat_cos_first};

// Positions of every type and of several geometries, for either namespace's struct.
struct PositionData {
  Buffer<double> memory{600};
  PositionType type;
  Strided at{};

  PositionData(PositionType t, int64_t count) : type(t) {
    const bool floating = type >= PositionType::f64;
    for (int64_t i = 0; i < 600; ++i)
      put(i, floating ? (draw.uniform() - 0.5) * std::ldexp(1.0, draw.below(30)) : 0.0);
    const double special[] = {0.0,    -0.0,    1.0,    16777216.0, 1e15, 1e300,
                              0x1p60, -0x1p53, 5e-324, HUGE_VAL,   NAN,  0.5};
    if (type == PositionType::f64) {
      for (int64_t i = 0; i < 12; ++i) put(draw.below(600), special[i]);
    }
    if (!floating) {
      for (int64_t i = 0; i < 600; ++i)
        memory[i] = bit_cast<double>((uint64_t{0x9E3779B97F4A7C15} * (i + 1)) >> 40);
      // 24 random bits: small numbers of 64 bits, all kinds of numbers of 8, 16 and 32.
    }
    switch (draw.below(3)) {
      case 0:
        at = {1, {count}, {1}};
        break;
      case 1:
        at = {1, {count}, {draw.of<int64_t>({0, 2})}};
        break;
      default:
        at = {2, {(count + 2) / 3, 3}, {1, 150}};
    }
  }

  void put(int64_t i, double value) {
    switch (type) {
      case PositionType::f64:
        memory[i] = value;
        break;
      case PositionType::f32:
        reinterpret_cast<float*>(memory.data())[i] = static_cast<float>(value);
        break;
      case PositionType::f16:
        reinterpret_cast<Half*>(memory.data())[i] = round_to<Half>(value);
        break;
      case PositionType::bf16:
        reinterpret_cast<BFloat16*>(memory.data())[i] = round_to<BFloat16>(value);
        break;
      default:
        break;
    }
  }
};

constexpr PositionType kPositionTypes[] = {PositionType::u8,  PositionType::i8,  PositionType::i16,
                                           PositionType::i32, PositionType::i64, PositionType::u16,
                                           PositionType::u32, PositionType::u64, PositionType::f64,
                                           PositionType::f32, PositionType::f16, PositionType::bf16};

// The rows of the CPU, whose channels stand side by side, at these strides.
template <class T>
void cpu_rows(cpu::SinusoidRows a, DType type, int64_t rows, int64_t row_stride, int64_t channel_stride,
              T* out) {
  const int64_t dim = a.spec.dim;
  std::vector<T> contiguous(static_cast<size_t>(rows * dim));
  a.dtype = type;
  a.out = contiguous.data();
  a.row_stride = dim;
  cpu::baseline::kKernels.sinusoid_rows(a, 0, rows);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < dim; ++c) out[i * row_stride + c * channel_stride] = contiguous[i * dim + c];
  }
}

template <class T>
void test_rows(DType type, const Sinusoid& spec, int64_t rows, int64_t gap, int64_t channel_stride,
               int64_t skip, int32_t order, PositionData* positions, int64_t start) {
  const HostFrequencies frequencies(spec);
  const int64_t row_stride = spec.dim * channel_stride + gap;
  const int64_t elements = (rows - 1) * row_stride + (spec.dim - 1) * channel_stride + 1;
  Buffer<T> wanted(elements, skip);
  cpu::SinusoidRows host =
      host_rows(frequencies, {nullptr, PositionType::i64, {}, start}, order, type, nullptr, 0, rows);
  cuda::SinusoidRows device{
      spec, {nullptr, PositionType::i64, {}, start}, order, type, nullptr, row_stride, channel_stride, rows};
  if (positions != nullptr) {
    host.positions = {positions->memory.data(), positions->type, positions->at, 0};
    device.positions = {positions->memory.data(), positions->type, positions->at, 0};
  }
  cpu_rows(host, type, rows, row_stride, channel_stride, wanted.data());
  Buffer<double> exact(elements, skip);
  cpu_rows(host, DType::float64, rows, row_stride, channel_stride, exact.data());
  const bool floats = cuda::in_floats(spec, type, order);
  const auto slack = [&](int64_t i) {
    const int64_t row = min_of(i / row_stride, rows - 1);
    return open_angle(spec, positions == nullptr ? position_after(start, row)
                                                 : load_position(positions->memory.data(), positions->type,
                                                                 positions->at.offset(row)));
  };
  on_all_machines(name(type), [&] {
    Buffer<T> got(elements, skip);
    device.out = got.data();
    cuda::sinusoid_rows(device, nullptr);
    const std::string what = "sinusoid_rows " + describe(spec, type);
    if (floats) return all_near(got, wanted, exact, kUlps<T>, slack, what);
    all_same(got, wanted, what);
  });
}

template <class T>
void test_rows_of(DType type) {
  for (const Layout layout : kLayouts) {
    // Contiguous tables: even and odd, whole vectors and not, one tile and several.
    for (const int64_t dim : {1, 2, 3, 6, 8, 16, 33, 48, 130, 512}) {
      test_rows<T>(type, random_spec(dim, layout), 1 + draw.below(dim > 64 ? 40 : 200), 0, 1, 0, 0, nullptr,
                   draw.of<int64_t>({0, -5, 5000, 16777000}));
    }
    // Rows with gaps, off the boundary, with strided channels; positions of every type; derivatives.
    for (int i = static_cast<int>(layout); i < 12; i += 2) {
      const int64_t rows = 1 + draw.below(70);
      PositionData positions(kPositionTypes[(i + 3 * static_cast<int>(layout)) % 12], rows);
      test_rows<T>(type, random_spec(1 + draw.below(80), layout), rows, draw.of<int64_t>({0, 1, 8}),
                   draw.of<int64_t>({1, 1, 2}), draw.of<int64_t>({0, 0, 1}),
                   static_cast<int32_t>(draw.below(5)), &positions, 0);
      PositionData whole(kPositionTypes[i], 9);
      test_rows<T>(type, random_spec(16 * (1 + draw.below(5)), layout), 9, draw.of<int64_t>({0, 16}), 1, 0,
                   static_cast<int32_t>(draw.below(3)), &whole, 0);
    }
  }
}

// The sum may be added in any order; then it is rounded once.
template <class G, class T>
void test_backward(DType grad_type, DType type, PositionType position_type, int64_t dim, Layout layout,
                   int64_t rows) {
  const Sinusoid spec = random_spec(dim, layout);
  PositionData positions(position_type, rows);
  const int32_t order = static_cast<int32_t>(draw.below(4));
  const int64_t channel_stride = draw.of<int64_t>({1, 1, 3});
  const int64_t row_stride = dim * channel_stride + draw.of<int64_t>({0, 5});
  Buffer<G> grad((rows - 1) * row_stride + (dim - 1) * channel_stride + 1);
  for (int64_t i = 0; i < grad.size(); ++i) grad[i] = round_to<G>(draw.normal_like());
  const HostFrequencies frequencies(spec);
  std::vector<double> slopes(static_cast<size_t>(rows * dim));
  cpu::baseline::kKernels.sinusoid_rows(
      host_rows(frequencies, {positions.memory.data(), position_type, positions.at, 0}, order, DType::float64,
                slopes.data(), dim, rows),
      0, rows);
  cuda::SinusoidBackward a{spec,           {positions.memory.data(), position_type, positions.at, 0},
                           order,          grad_type,
                           grad.data(),    {1, {rows}, {row_stride}},
                           channel_stride, type,
                           nullptr,        rows};
  const bool floats = cuda::sums_in_floats(a);
  std::vector<T> first;
  on_all_machines(name(grad_type), [&] {
    Buffer<T> got(rows, 1);
    a.out = got.data();
    cuda::sinusoid_backward(a, nullptr);
    if (!got.guard_is_intact()) report("sinusoid_backward wrote in front of its result");
    for (int64_t i = 0; i < rows; ++i) {
      long double sum = 0, size = 0, grads = 0;
      for (int64_t c = 0; c < dim; ++c) {
        const double term = to_double(grad[i * row_stride + c * channel_stride]) * slopes[i * dim + c];
        sum += term;
        size += std::fabs(term);
        grads += std::fabs(to_double(grad[i * row_stride + c * channel_stride]));
      }
      const double p = load_position(positions.memory.data(), position_type, positions.at.offset(i));
      const double steepest = std::pow(2.0 * M_PI * fastest(spec), order);
      size += grads * steepest * open_angle(spec, p) * 0x1p53;
      const double unit = floats ? 1.5 * 0x1p-26 + 0x1p-44 : (static_cast<double>(dim) + 2.0) * 0x1p-53;
      const double slack = static_cast<double>(size) * unit;
      const double low = to_double(round_to<T>(static_cast<double>(sum) - slack));
      const double high = to_double(round_to<T>(static_cast<double>(sum) + slack));
      const double value = to_double(got[i]);
      if (!(low <= value && value <= high) && !(std::isnan(value) && std::isnan(low))) {
        report("sinusoid_backward %s row %lld is %.17g, not in [%.17g, %.17g]",
               describe(spec, grad_type).c_str(), static_cast<long long>(i), value, low, high);
      }
    }
    // However threads and blocks run: the same bits.
    if (first.empty()) first.assign(got.data(), got.data() + rows);
    for (int64_t i = 0; i < rows; ++i) {
      if (!same(first[i], got[i]))
        report("sinusoid_backward: row %lld differs between runs", static_cast<long long>(i));
    }
  });
}

template <class G>
void test_backward_of(DType grad_type) {
  for (const Layout layout : kLayouts) {
    for (const int64_t dim : {1, 2, 7, 64, 65, 322}) {
      test_backward<G, float>(grad_type, DType::float32, PositionType::f32, dim, layout, 1 + draw.below(90));
    }
  }
  test_backward<G, double>(grad_type, DType::float64, PositionType::f64, 128, Layout::concat, 19);
  test_backward<G, Half>(grad_type, DType::float16, PositionType::f16, 96, Layout::interleaved, 19);
  test_backward<G, BFloat16>(grad_type, DType::bfloat16, PositionType::bf16, 40, Layout::concat_cos_first,
                             19);
  test_backward<G, float>(grad_type, DType::float32, PositionType::f32, kWideDim, Layout::concat, 35);
}

enum class Form { contiguous, transposed, expanded, strided_channels, off_boundary, gaps, odd_batch };

template <class T>
void test_add(DType type, const Sinusoid& spec, int64_t batch, int64_t length, bool batch_first, Form form,
              int offsets, double p) {
  const int64_t dim = spec.dim;
  const int64_t channel_stride = form == Form::strided_channels ? 2 : 1;
  const int64_t row = dim * channel_stride + (form == Form::gaps ? 16 : 0);
  const bool x_batch_first = form == Form::transposed ? !batch_first : batch_first;
  int64_t batch_stride = x_batch_first ? length * row : row,
          length_stride = x_batch_first ? row : batch * row;
  if (form == Form::expanded) batch_stride = 0;
  if (form == Form::odd_batch) batch_stride += x_batch_first ? 1 : length * length_stride + 1;
  const int64_t extent =
      (batch - 1) * batch_stride + (length - 1) * length_stride + (dim - 1) * channel_stride + 1;
  Buffer<T> x(extent, form == Form::off_boundary ? 1 : 0);
  for (int64_t i = 0; i < extent; ++i) x[i] = round_to<T>(draw.normal_like());
  if (draw.below(4) == 0) x[draw.below(extent)] = round_to<T>(HUGE_VAL);
  Buffer<int64_t> starts(2 * batch);
  for (int64_t i = 0; i < 2 * batch; ++i) starts[i] = draw.below(100000) - 50000;
  const int64_t seed =
      static_cast<int64_t>(0x9E3779B97F4A7C15u * static_cast<uint64_t>(1 + draw.below(1000)));

  Buffer<T> wanted(batch * length * dim);
  const HostFrequencies frequencies(spec);
  cpu::AddSinusoidal host{};
  host.spec = spec;
  host.frequencies = frequencies.view;
  host.batch = batch;
  host.length = length;
  host.start = draw.of<int64_t>({0, 7, 16700000});
  host.offsets = offsets != 0 ? starts.data() : nullptr;
  host.offset_type = PositionType::i64;
  host.offset_stride = offsets;
  host.x_scale = draw.of({1.0, 22.627416997969522, -0.1});
  host.dropout = {make_dropout(p), p > 0.0 ? &seed : nullptr};
  host.dtype = type;
  host.x = x.data();
  host.x_batch_stride = batch_stride;
  host.x_length_stride = length_stride;
  host.x_channel_stride = channel_stride;
  host.out = wanted.data();
  host.out_batch_stride = batch_first ? length * dim : dim;
  host.out_length_stride = batch_first ? dim : batch * dim;
  cpu::baseline::kKernels.add_sinusoidal(host, 0, host.items());
  Buffer<double> wide(extent), exact(batch * length * dim);
  for (int64_t i = 0; i < extent; ++i) wide[i] = to_double(x[i]);
  host.dtype = DType::float64;
  host.x = wide.data();
  host.out = exact.data();
  cpu::baseline::kKernels.add_sinusoidal(host, 0, host.items());
  // The encoding's own error; and for the halves the roundings to float32, of numbers up to 64, on the way.
  const double slack =
      (std::is_same_v<T, float> ? 0.26 * 0x1p-24 + 0.5 * 0x1p-24 : 0x1p-16) / (1.0 - (p > 0.0 ? p : 0.0));

  cuda::AddSinusoidal device{spec,
                             batch,
                             length,
                             host.start,
                             host.offsets,
                             host.offset_type,
                             host.offset_stride,
                             host.x_scale,
                             {host.dropout.dropout, host.dropout.seed},
                             type,
                             x.data(),
                             batch_stride,
                             length_stride,
                             channel_stride,
                             nullptr,
                             host.out_batch_stride,
                             host.out_length_stride};
  on_all_machines(name(type), [&] {
    Buffer<T> got(batch * length * dim);
    device.out = got.data();
    cuda::add_sinusoidal(device, nullptr);
    const std::string what =
        "add_sinusoidal " + describe(spec, type) + " form " + std::to_string(static_cast<int>(form));
    // With frequencies beyond the fixed-point ones CUDA sums the half types in float64, too.
    if (!cuda::in_floats(spec, type, 0) && !kIsHalf<T>) {
      all_same(got, wanted, what);
    } else {
      all_near(got, wanted, exact, 0.5, [&](int64_t) { return slack; }, what);
    }
  });
}

template <class T>
void test_add_of(DType type) {
  for (const Layout layout : kLayouts) {
    for (const int64_t dim : {2, 5, 16, 30, 64, 160}) {
      for (const Form form : {draw.of({Form::contiguous, Form::transposed, Form::expanded, Form::gaps}),
                              draw.of({Form::strided_channels, Form::off_boundary, Form::odd_batch})}) {
        test_add<T>(type, random_spec(dim, layout), 1 + draw.below(6), 1 + draw.below(24), draw.below(2) == 0,
                    form, draw.of({0, 0, 1, 2}), draw.of({0.0, 0.1, 0.5}));
      }
    }
  }
  // More tiles than a small device holds blocks: blocks go on to a second unit.
  for (const int64_t dim : {330, 656}) {
    test_add<T>(type, random_spec(dim, draw.of({Layout::interleaved, Layout::concat})), 2, 5, true,
                Form::contiguous, 0, 0.2);
  }
  test_add<T>(type, random_spec(32, Layout::interleaved), 70, 1, true, Form::contiguous, 0,
              0.3);  // decoding: one position
}

template <class T>
void test_scale_dropout(DType type, Strided at, int64_t skip, double p, double scale) {
  int64_t total = 1, extent = 1;
  for (int32_t d = 0; d < at.dims; ++d) {
    total *= at.size[d];
    extent += (at.size[d] - 1) * at.stride[d];
  }
  Buffer<T> x(extent, skip);
  for (int64_t i = 0; i < extent; ++i) x[i] = round_to<T>(draw.normal_like());
  if (draw.below(3) == 0) x[draw.below(extent)] = round_to<T>(NAN);
  const int64_t seed = draw.below(int64_t{1} << 60);
  const Dropout dropout = make_dropout(p);
  Buffer<T> wanted(total);
  Buffer<double> exact(total);
  for (int64_t i = 0; i < total; ++i) {
    const double value = to_double(x[at.offset(i)]) * scale;
    exact[i] = p == 0.0                                           ? value
               : retains(dropout, static_cast<uint64_t>(seed), i) ? value * dropout.scale
                                                                  : 0.0;
    wanted[i] = round_to<T>(exact[i]);
    const double factor = p == 0.0 ? scale : scale * dropout.scale;
    if constexpr (kIsHalf<T>) {  // core/sums.h
      const bool retained = p == 0.0 || retains(dropout, static_cast<uint64_t>(seed), i);
      if (retained && fits_float_pair(factor)) {
        wanted[i] = round_to<T>(to_float(x[at.offset(i)]) * static_cast<float>(factor));
      }
    }
  }
  cuda::ScaleDropout a{scale, {dropout, p > 0.0 ? &seed : nullptr}, type, x.data(), at, total, nullptr};
  on_all_machines(name(type), [&] {
    Buffer<T> got(total);
    a.out = got.data();
    cuda::scale_dropout(a, nullptr);
    const std::string what = "scale_dropout " + std::string(name(type));
    if (type != DType::float32) return void(all_same(got, wanted, what));
    all_near(got, wanted, exact, 0.5 + 0x1p-20, [](int64_t) { return 0.0; }, what);  // once rounded
  });
}

template <class T>
void test_scale_dropout_of(DType type) {
  for (const double p : {0.0, 0.3}) {
    test_scale_dropout<T>(type, {0, {}, {}}, 0, p, draw.of({1.0, 3.7}));
    for (const int64_t total : {1, 7, 8, 15, 64, 1000, 20011}) {
      test_scale_dropout<T>(type, {1, {total}, {1}}, draw.of<int64_t>({0, 0, 1}), p, draw.of({1.0, 3.7}));
    }
    test_scale_dropout<T>(type, {1, {333}, {3}}, 0, p, draw.of({1.0, 3.7}));
    test_scale_dropout<T>(type, {1, {333}, {0}}, 0, p, draw.of({1.0, 3.7}));
    test_scale_dropout<T>(type, {2, {20, 32}, {64, 1}}, 0, p,
                          draw.of({1.0, 3.7}));  // vectors in rows with gaps
    test_scale_dropout<T>(type, {2, {20, 33}, {64, 1}}, 0, p,
                          draw.of({1.0, 3.7}));  // rows that are not whole vectors
    test_scale_dropout<T>(type, {2, {20, 32}, {33, 1}}, 0, p, draw.of({1.0, 3.7}));  // rows off the boundary
    test_scale_dropout<T>(type, {3, {5, 6, 16}, {16, 96, 1}}, 0, p, draw.of({1.0, 3.7}));  // transposed
    test_scale_dropout<T>(type, {3, {4, 5, 9}, {0, 1, 5}}, 0, p, draw.of({1.0, 3.7}));
    for (const double scale : {1e300, 1e-60, 0x1p59, 0.0}) {  // beyond what float pairs hold, and at its edge
      test_scale_dropout<T>(type, {1, {100}, {1}}, 0, p, scale);
      test_scale_dropout<T>(type, {1, {100}, {2}}, 0, p, scale);
    }
  }
}

// Strides beyond 2^32 elements: an index cut to 32 bits anywhere would land on another row.
void test_long_strides() {
  constexpr int64_t kStride = (int64_t{1} << 32) + 16;
  const Sinusoid spec = make_sinusoid(16, 10000.0, 0.0, 1.0, Layout::concat, Odd::error);
  const HostFrequencies frequencies(spec);
  SparseMemory device_memory(3 * kStride * sizeof(BFloat16)), host_memory(3 * kStride * sizeof(BFloat16));
  BFloat16 *got = device_memory.as<BFloat16>(), *wanted = host_memory.as<BFloat16>();
  const auto compare = [&](const char* what) {
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t c = 0; c < 16; ++c) {
        if (!same(got[row * kStride + c], wanted[row * kStride + c])) report("%s with long strides", what);
      }
    }
  };
  cpu::baseline::kKernels.sinusoid_rows(
      host_rows(frequencies, {nullptr, PositionType::i64, {}, 3}, 0, DType::bfloat16, wanted, kStride, 3), 0,
      3);
  on_all_machines("bfloat16", [&] {
    cuda::sinusoid_rows({spec, {nullptr, PositionType::i64, {}, 3}, 0, DType::bfloat16, got, kStride, 1, 3},
                        nullptr);
    compare("sinusoid_rows");
  });
  // The samples lie far apart in x and in the result; what was written above is x. Dropout's counters need
  // their high word.
  const int64_t seed = 42;
  SparseMemory sum_memory(3 * kStride * sizeof(BFloat16));
  cpu::AddSinusoidal host{};
  host.spec = spec;
  host.frequencies = frequencies.view;
  host.batch = 3;
  host.length = 1;
  host.x_scale = 2.0;
  host.dropout = {make_dropout(0.4), &seed};
  host.dtype = DType::bfloat16;
  host.x = wanted;
  host.x_batch_stride = kStride;
  host.x_channel_stride = 1;
  host.out = sum_memory.as<BFloat16>();
  host.out_batch_stride = kStride;
  cpu::baseline::kKernels.add_sinusoidal(host, 0, host.items());
  on_all_machines("bfloat16", [&] {
    cuda::add_sinusoidal({spec,
                          3,
                          1,
                          0,
                          nullptr,
                          PositionType::i64,
                          0,
                          2.0,
                          {host.dropout.dropout, &seed},
                          DType::bfloat16,
                          wanted,
                          kStride,
                          0,
                          1,
                          got,
                          kStride,
                          0},
                         nullptr);
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t c = 0; c < 16; ++c) {
        if (!same(got[row * kStride + c], sum_memory.as<BFloat16>()[row * kStride + c])) {
          report("add_sinusoidal with long strides");
        }
      }
    }
  });
}

// More than 2^31 rows, or elements: an int anywhere would overflow. Of large results the ends are looked at.
// Positions of 64 bits from 2^53 on: seen, in the loop of exact steps and in that of others.
void test_inexact_positions() {
  const Sinusoid spec = make_sinusoid(16, 10000.0, 0.0, 1.0, Layout::concat, Odd::error);
  for (const DType type : {DType::float64, DType::float32, DType::bfloat16}) {
    for (const uint64_t position :
         {uint64_t{5}, (uint64_t{1} << 53) - 1, uint64_t{1} << 53, uint64_t{1} << 62, uint64_t{1} << 63}) {
      for (const PositionType kind : {PositionType::i64, PositionType::u64}) {
        const bool inexact = position >= uint64_t{1} << 53;
        const uint64_t positions[] = {0, position, 1};
        on_all_machines(name(type), [&] {
          Buffer<double> got(3 * 16);
          cuda::sinusoid_rows({spec, {positions, kind, {1, {3}, {1}}, 0}, 0, type, got.data(), 16, 1, 3},
                              nullptr);
          if ((take_failed_assertions() > 0) != inexact)
            report("sinusoid_rows at %g", static_cast<double>(position));
          cuda::AddSinusoidal a{};
          a.spec = spec;
          a.batch = 3;
          a.length = 1;
          a.offsets = positions;
          a.offset_type = kind;
          a.offset_stride = 1;
          a.x_scale = 1.0;
          a.dtype = type;
          a.x = got.data();
          a.x_batch_stride = a.out_batch_stride = a.x_length_stride = a.out_length_stride = 16;
          a.x_channel_stride = 1;
          Buffer<double> sum(3 * 16);
          a.out = sum.data();
          cuda::add_sinusoidal(a, nullptr);
          if ((take_failed_assertions() > 0) != inexact)
            report("add_sinusoidal at %g", static_cast<double>(position));
        });
      }
    }
  }
}

void test_large_counts() {
  if (emulation::kFindsRaces) return;
  constexpr int kMultiprocessors = 1 << 16;  // so that each of them has a stretch of rows
  constexpr int64_t kLooked = 64;
  for (const int64_t dim : {2, 16}) {  // without vectors, and with them
    const Sinusoid spec = make_sinusoid(dim, 10000.0, 0.0, 1.0, Layout::concat, Odd::error);
    const HostFrequencies frequencies(spec);
    const int64_t rows = (int64_t{1} << 32) / dim + 5;
    SparseMemory memory(static_cast<size_t>(rows * dim) * sizeof(BFloat16));
    BFloat16* out = memory.as<BFloat16>();
    for (const int64_t first : {int64_t{0}, rows - kLooked}) {
      Buffer<BFloat16> wanted(kLooked * dim), got(kLooked * dim);
      Buffer<double> exact(kLooked * dim);
      const int64_t start = first - rows / 2;  // positions within 2^31
      for (const DType type : {DType::bfloat16, DType::float64}) {
        void* to = type == DType::float64 ? static_cast<void*>(exact.data()) : wanted.data();
        cpu::baseline::kKernels.sinusoid_rows(
            host_rows(frequencies, {nullptr, PositionType::i64, {}, start}, 0, type, to, dim, kLooked), 0,
            kLooked);
      }
      on_the_ends_of_a_large_grid(
          "bfloat16",
          [&] {
            cuda::sinusoid_rows(
                {spec, {nullptr, PositionType::i64, {}, -(rows / 2)}, 0, DType::bfloat16, out, dim, 1, rows},
                nullptr);
          },
          kMultiprocessors);
      std::copy(out + first * dim, out + (first + kLooked) * dim, got.data());
      all_near(got, wanted, exact, 0.501, [](int64_t) { return 0.0; }, "sinusoid_rows of many rows");
    }
    // y[b, l] = dropout(2 * 1 + encoding(l)), of an x that is expanded.
    const int64_t length = rows / 2;
    SparseMemory sums(static_cast<size_t>(3 * length * dim) * sizeof(BFloat16));
    Buffer<BFloat16> x(dim);
    for (int64_t c = 0; c < dim; ++c) x[c] = round_to<BFloat16>(1.0);
    const int64_t seed = 77;
    const Dropout dropout = make_dropout(0.4);
    cuda::AddSinusoidal a{spec,
                          3,
                          length,
                          0,
                          nullptr,
                          PositionType::i64,
                          0,
                          2.0,
                          {dropout, &seed},
                          DType::bfloat16,
                          x.data(),
                          0,
                          0,
                          1,
                          sums.as<BFloat16>(),
                          length * dim,
                          dim};
    on_the_ends_of_a_large_grid("bfloat16", [&] { cuda::add_sinusoidal(a, nullptr); }, kMultiprocessors);
    std::vector<double> row(static_cast<size_t>(dim));
    cpu::baseline::kKernels.sinusoid_rows(host_rows(frequencies, {nullptr, PositionType::i64, {}, length - 1},
                                                    0, DType::float64, row.data(), dim, 1),
                                          0, 1);
    for (int64_t b = 0; b < 3; ++b) {
      for (int64_t c = 0; c < dim; ++c) {
        const int64_t i = (b * length + length - 1) * dim + c;
        const double value = to_double(sums.as<BFloat16>()[i]),
                     exact = (2.0 + row[static_cast<size_t>(c)]) / 0.6;
        const bool retained = retains(dropout, static_cast<uint64_t>(seed), i);
        if (std::fabs(value - (retained ? exact : 0.0)) > 0.501 * ulp<BFloat16>(exact))
          report("add_sinusoidal of many elements: %g, not %g", value, retained ? exact : 0.0);
      }
    }
  }
  // Gradients of one row of grad at one position, again and again.
  for (const DType grad_type : {DType::float32, DType::float64}) {
    const Sinusoid spec = make_sinusoid(2, 10000.0, 0.0, 1.0, Layout::concat, Odd::error);
    const int64_t rows = (int64_t{1} << 31) + 5;
    SparseMemory memory(static_cast<size_t>(rows) * sizeof(BFloat16));
    const float position = 0.75f, grad[] = {2.0f, -3.0f};
    const double wide[] = {2.0, -3.0}, wanted = 2.0 * std::cos(0.75) + 3.0 * std::sin(0.75);
    on_the_ends_of_a_large_grid(name(grad_type), [&] {
      const void* data = grad_type == DType::float32 ? static_cast<const void*>(grad) : wide;
      cuda::sinusoid_backward({spec,
                               {&position, PositionType::f32, {1, {rows}, {0}}, 0},
                               1,
                               grad_type,
                               data,
                               {1, {rows}, {0}},
                               1,
                               DType::bfloat16,
                               memory.as<BFloat16>(),
                               rows},
                              nullptr);
    });
    for (const int64_t i : {int64_t{0}, rows - 2, rows - 1}) {
      if (!same(memory.as<BFloat16>()[i], round_to<BFloat16>(wanted)))
        report("sinusoid_backward of many rows");
    }
  }
  const int64_t total = (int64_t{1} << 32) + 8 * 64 + 3, seed = 5;
  const Dropout dropout = make_dropout(0.3);
  SparseMemory from(static_cast<size_t>(total) * sizeof(BFloat16)),
      to(static_cast<size_t>(total) * sizeof(BFloat16));
  for (const int64_t stride : {1, 0}) {  // with vectors; one value again and again
    const int64_t last = (total - 1) * stride;
    for (int64_t i = max_of<int64_t>(0, last - kLooked); i <= last; ++i)
      from.as<BFloat16>()[i] = round_to<BFloat16>(2.0);
    on_the_ends_of_a_large_grid("bfloat16", [&] {
      cuda::scale_dropout({1.5,
                           {dropout, &seed},
                           DType::bfloat16,
                           from.as<void>(),
                           {1, {total}, {stride}},
                           total,
                           to.as<void>()},
                          nullptr);
    });
    for (int64_t i = total - kLooked; i < total; ++i) {
      const double wanted = retains(dropout, static_cast<uint64_t>(seed), i) ? 3.0 * dropout.scale : 0.0;
      if (!same(to.as<BFloat16>()[i], round_to<BFloat16>(wanted))) report("scale_dropout of many elements");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      test_rows_of<scalar_t>(type);
      test_backward_of<scalar_t>(type);
      test_add_of<scalar_t>(type);
      test_scale_dropout_of<scalar_t>(type);
    })
  }
  test_inexact_positions();
  test_long_strides();
  return finish();  // four dtypes of two kinds of vectors, and one for all other rows
}
