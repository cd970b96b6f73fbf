// The ALiBi kernels, emulated, against straightforward loops in float64.
#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "cuda/kernels/alibi_bias.cu"

namespace {

using namespace posenc_ext;
using namespace check;

Random draw;

struct Shape {
  int64_t heads, queries, keys, offset;
  bool causal;

  AlibiScheme scheme() const { return {queries, keys, offset, causal}; }
  double distance(int64_t q, int64_t k) const {
    const int64_t rel = k - q - offset;
    return static_cast<double>(rel > 0 && causal ? 0 : std::abs(rel));
  }
  std::string text(DType type) const {
    return std::string(name(type)) + ", heads " + std::to_string(heads) + ", " + std::to_string(queries) +
           "x" + std::to_string(keys) + " offset " + std::to_string(offset) + (causal ? " causal" : "");
  }
};

template <class T>
void test_forward(DType type, const Shape& s, int64_t slope_stride, int64_t skip) {
  Buffer<T> slopes((s.heads - 1) * slope_stride + 1);
  for (int64_t h = 0; h < s.heads; ++h) slopes[h * slope_stride] = round_to<T>(draw.normal_like());
  Buffer<T> wanted(s.heads * s.queries * s.keys);
  for (int64_t i = 0; i < wanted.size(); ++i) {
    const int64_t line = i / s.keys;
    const double slope = to_double(slopes[line / s.queries * slope_stride]);
    wanted[i] = round_to<T>(0.0 - slope * s.distance(line % s.queries, i % s.keys));
  }
  on_all_machines(name(type), [&] {
    Buffer<T> got(wanted.size(), skip);
    cuda::alibi_forward(s.scheme(), {type, slopes.data(), 0, slope_stride, s.heads, got.data()}, nullptr);
    all_same(got, wanted, "alibi_forward " + s.text(type));
  });
}

// The first distance beyond T's share of float32's 24 bits where float32 would give other bits than float64.
template <class T>
void test_where_float32_is_not_enough(DType type, int significand_bits) {
  for (int64_t distance = int64_t{1} << (24 - significand_bits); distance < int64_t{1} << 25; ++distance) {
    for (double n = 0.5; n < 1.0; n += 0x1p-11) {
      Buffer<T> slope(1), wanted(1);
      slope[0] = round_to<T>(n);
      const double value = to_double(slope[0]), far = static_cast<double>(distance);
      wanted[0] = round_to<T>(0.0 - value * far);
      if (same_bits(wanted[0], round_to<T>(0.0f - static_cast<float>(value) * static_cast<float>(far))))
        continue;
      return on_all_machines(name(type), [&] {
        Buffer<T> got(1);
        cuda::alibi_forward({1, 1, distance, false}, {type, slope.data(), 0, 1, 1, got.data()}, nullptr);
        all_same(got, wanted, "alibi_forward where float32 is not enough");
      });
    }
  }
  report("%s: float32 is always enough", name(type));
}

// Whole numbers, so that every sum in float64 is exact and the result has one right value.
template <class T>
void test_backward(DType type, const Shape& s, bool key_major, int64_t gap) {
  const int64_t query_stride = key_major ? 1 : s.keys + gap, key_stride = key_major ? s.queries + gap : 1;
  const int64_t head_stride = key_major ? s.keys * key_stride : s.queries * query_stride;
  const int64_t batch = 1 + draw.below(2);
  Buffer<T> grad((batch * s.heads - 1) * head_stride + (s.queries - 1) * query_stride +
                 (s.keys - 1) * key_stride + 1);
  for (int64_t i = 0; i < grad.size(); ++i) grad[i] = round_to<T>(static_cast<double>(draw.below(9) - 4));
  Buffer<T> wanted(s.heads);
  for (int64_t h = 0; h < s.heads; ++h) {
    double sum = 0.0;
    for (int64_t b = h; b < batch * s.heads; b += s.heads) {
      for (int64_t q = 0; q < s.queries; ++q) {
        for (int64_t k = 0; k < s.keys; ++k) {
          sum -= s.distance(q, k) * to_double(grad[b * head_stride + q * query_stride + k * key_stride]);
        }
      }
    }
    wanted[h] = round_to<T>(0.0 + sum);
  }
  const int64_t chunks = cuda::split(s.queries * s.keys).count;
  on_all_machines(name(type), [&] {
    Buffer<T> got(s.heads, 1);
    Buffer<double> partial(chunks == 1 ? 0 : s.heads * chunks);
    cuda::alibi_backward(s.scheme(),
                         {type, grad.data(), batch, s.heads * head_stride, head_stride, query_stride,
                          key_stride, s.heads, partial.data(), got.data()},
                         nullptr);
    for (int64_t h = 0; h < s.heads; ++h) {
      if (to_double(got[h]) == to_double(wanted[h])) continue;  // the sign of zero is free
      report("alibi_backward %s: head %lld is %.17g, not %.17g", s.text(type).c_str(),
             static_cast<long long>(h), to_double(got[h]), to_double(wanted[h]));
    }
    if (!got.guard_is_intact()) report("alibi_backward wrote in front of its result");
  });
}

// The terms span 2^40: the sum of a row of such, in float32, would be off.
void test_backward_sums_in_float64() {
  const Shape s{1, 1, 5000, 0, false};
  Buffer<float> grad(s.keys);
  double sum = 0.0, size = 0.0;
  for (int64_t k = 0; k < s.keys; ++k) {
    grad[k] = static_cast<float>(std::ldexp(draw.uniform() - 0.5, static_cast<int>(draw.below(40))));
    sum -= s.distance(0, k) * to_double(grad[k]);
    size += s.distance(0, k) * std::fabs(to_double(grad[k]));
  }
  on_all_machines("float32", [&] {
    Buffer<float> got(1);
    Buffer<double> partial(cuda::split(s.keys).count);
    cuda::alibi_backward(
        s.scheme(), {DType::float32, grad.data(), 1, 0, 0, 0, 1, 1, partial.data(), got.data()}, nullptr);
    const double slack = size * 0x1p-52 * static_cast<double>(s.keys);
    if (got[0] < static_cast<float>(sum - slack) || got[0] > static_cast<float>(sum + slack))
      report("alibi_backward of many magnitudes: %.17g, not %.17g", to_double(got[0]), sum);
  });
}

template <class T>
void test_slopes(DType type, int64_t heads, int64_t stride) {
  on_all_machines(name(type), [&] {
    Buffer<T> got((heads - 1) * stride + 1, 1);
    cuda::alibi_slopes({type, got.data(), stride, heads}, nullptr);
    for (int64_t h = 0; h < heads; ++h) {
      const T wanted = round_to<T>(alibi_slope(h, heads));
      if (!same_bits(got[h * stride], wanted))
        report("alibi_slopes %s: %lld of %lld", name(type), static_cast<long long>(h),
               static_cast<long long>(heads));
    }
    if (!got.guard_is_intact()) report("alibi_slopes wrote in front of its result");
  });
}

// More than 2^31 heads, or 2^32 elements: an int anywhere would overflow.
void test_large_counts() {
  if (emulation::kFindsRaces) return;
  const BFloat16 slopes[] = {round_to<BFloat16>(0.5), round_to<BFloat16>(0.25)};
  for (const int64_t offset : {int64_t{0}, int64_t{1} << 40}) {  // in float32, and in float64
    const int64_t queries = (int64_t{1} << 14) + 1, keys = int64_t{1} << 17;
    SparseMemory memory(static_cast<size_t>(2 * queries * keys) * sizeof(float));
    const float wide[] = {0.5f, 0.25f};
    on_the_ends_of_a_large_grid("float32", [&] {
      cuda::alibi_forward({queries, keys, offset, false}, {DType::float32, wide, 0, 1, 2, memory.as<float>()},
                          nullptr);
    });
    for (int64_t k = keys - 64; k < keys; ++k) {
      const double distance = std::fabs(static_cast<double>(k - (queries - 1) - offset));
      if (memory.as<float>()[(2 * queries - 1) * keys + k] != static_cast<float>(0.0 - 0.25 * distance))
        report("alibi_forward of many elements");
    }
  }
  const int64_t heads = (int64_t{1} << 31) + 3;
  SparseMemory memory(static_cast<size_t>(heads) * sizeof(BFloat16));
  BFloat16* out = memory.as<BFloat16>();
  on_the_ends_of_a_large_grid("bfloat16", [&] {
    cuda::alibi_backward({1, 2, 0, false}, {DType::bfloat16, slopes, 1, 0, 0, 0, 1, heads, nullptr, out},
                         nullptr);
  });
  for (const int64_t h : {int64_t{0}, heads - 1}) {
    if (to_double(out[h]) != -0.25) report("alibi_backward of many heads: %g", to_double(out[h]));
  }
  on_the_ends_of_a_large_grid("bfloat16",
                              [&] { cuda::alibi_slopes({DType::bfloat16, out, 1, heads}, nullptr); });
  for (const int64_t h : {int64_t{0}, heads - 1}) {
    if (!same(out[h], round_to<BFloat16>(alibi_slope(h, heads)))) report("alibi_slopes of many heads");
  }
  // A sum of two chunks a head, and the pairs of a plane that is walked in one chunk.
  const int64_t many = (int64_t{1} << 30) + 3;
  SparseMemory partial(static_cast<size_t>(2 * many) * sizeof(double));
  Buffer<float> grad(2000);
  for (int64_t i = 0; i < grad.size(); ++i) grad[i] = 1.0f;
  on_the_ends_of_a_large_grid("float32", [&] {
    cuda::alibi_backward({1, 2000, 0, false},
                         {DType::float32, grad.data(), 1, 0, 0, 0, 1, many, partial.as<double>(), out},
                         nullptr);
  });
  if (reinterpret_cast<float*>(out)[many - 1] != -1999000.0f) report("alibi_reduce of many heads");
  const PlaneWalk walk = make_plane_walk(3, int64_t{1} << 34);
  const Pair pair = walk.after({5, 2}, (int64_t{1} << 33) + 1);
  if (pair.query != 5 + ((int64_t{1} << 33) + 3) / 3 || pair.key != ((int64_t{1} << 33) + 3) % 3)
    report("a long walk");
}

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  // Lines shorter and longer than a vector; several heads in a vector; offsets beyond the keys on both sides;
  // gradients of one chunk and of several, the last one short.
  const Shape shapes[] = {
      {1, 1, 1, 0, false},    {7, 1, 1, -3, true},   {5, 3, 3, 0, true},     {3, 2, 70, 69, false},
      {2, 33, 20, -40, true}, {9, 17, 16, 5, false}, {2, 40, 60, 100, true}, {3, 64, 65, 0, false},
  };
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, {
      for (const Shape& s : shapes) {
        test_forward<scalar_t>(type, s, 1 + draw.below(3), draw.below(8));
        test_backward<scalar_t>(type, s, draw.below(2) == 0, draw.below(3));
      }
      // On both sides of where float32 stops giving the bits of float64, and far beyond.
      const int64_t limit = cuda::kFloatDistance<scalar_t>;
      for (const int64_t offset : {limit - 12001, limit - 12000, 4 * limit, -4 * limit, int64_t{1} << 52}) {
        test_forward<scalar_t>(type, {2, 1, 12000, offset, offset < 0}, 1, draw.below(8));
      }
      for (const int64_t heads : {1, 2, 3, 8, 12, 40, 300}) test_slopes<scalar_t>(type, heads, 1 + heads % 2);
    })
  }
  test_where_float32_is_not_enough<float>(DType::float32, 0);
  test_where_float32_is_not_enough<Half>(DType::float16, 11);
  test_where_float32_is_not_enough<BFloat16>(DType::bfloat16, 8);
  test_backward_sums_in_float64();
  return finish();
}
