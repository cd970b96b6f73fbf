// The kernels for the bias of any index, emulated, against straightforward loops.
#include "check.h"

// Kernels come after check.h, which says what CUDA's words mean here.
#include "cuda/kernels/gather_bias.cu"

namespace {

using namespace posenc_ext;
using namespace check;

Random draw;

struct Shape {
  int64_t samples, queries, keys, rows, heads;

  int64_t plane() const { return queries * keys; }
  std::string text() const {
    return std::to_string(samples) + "x" + std::to_string(queries) + "x" + std::to_string(keys) + ", " +
           std::to_string(rows) + " rows, heads " + std::to_string(heads);
  }
};

// An index [samples, queries, keys] in memory with gaps, keys before queries or not, and sometimes a row that
// takes most places.
template <class Index>
struct StridedIndex {
  Shape shape;
  Strided at;
  Buffer<Index> memory;

  StridedIndex(const Shape& s, bool key_major, int64_t gap)
      : shape(s),
        at{3,
           {s.samples, s.queries, s.keys},
           {(key_major ? s.keys * (s.queries + gap) : s.queries * (s.keys + gap)),
            key_major ? 1 : s.keys + gap, key_major ? s.queries + gap : 1}},
        memory(at.offset(s.samples * s.plane() - 1) + 1) {
    const bool skewed = draw.below(2) == 0;
    const int64_t favourite = draw.below(s.rows);
    for (int64_t i = 0; i < s.samples * s.plane(); ++i) {
      (*this)[i] = static_cast<Index>(skewed && draw.below(4) != 0 ? favourite : draw.below(s.rows));
    }
  }
  Index& operator[](int64_t i) { return memory[at.offset(i)]; }
  cuda::Index argument() {
    return {memory.data(), sizeof(Index) == 8, at, at.stride[2], shape.samples, shape.queries, shape.keys};
  }
};

// A gather copies bits, so integers that count up stand for all types of their size.
template <class T, class Index>
void test_forward(const Shape& s, bool head_major, int64_t skip, int64_t bad_value = -1) {
  const int64_t gap = draw.below(3);
  StridedIndex<Index> index(s, draw.below(2) == 0, gap);
  const bool plant = bad_value != -1;
  const int64_t planted = s.samples * s.plane() / 2;
  if (plant) index[planted] = static_cast<Index>(bad_value);
  const int64_t row_stride = head_major ? 1 : s.heads + gap, head_stride = head_major ? s.rows + gap : 1;
  Buffer<T> table((s.rows - 1) * row_stride + (s.heads - 1) * head_stride + 1);
  for (int64_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<T>(0x9E3779B97F4A7C15u * static_cast<uint64_t>(i + 1));
  on_all_machines(dtype_of_size(sizeof(T)), [&] {
    Buffer<T> got(s.samples * s.heads * s.plane(), skip);
    cuda::gather_forward({index.argument(), type_of_size(sizeof(T)), table.data(), row_stride, head_stride,
                          s.rows, s.heads, got.data()},
                         nullptr);
    if (!got.guard_is_intact()) report("gather_forward wrote in front of its result: %s", s.text().c_str());
    if ((take_failed_assertions() > 0) != plant)
      report("gather_forward %s: an index outside the table and an assertion go together", s.text().c_str());
    for (int64_t i = 0; i < got.size(); ++i) {
      const int64_t sample = i / (s.heads * s.plane()), head = i / s.plane() % s.heads;
      const int64_t pair = sample * s.plane() + i % s.plane();
      if (plant && pair == planted) continue;
      if (got[i] == table[index[pair] * row_stride + head * head_stride]) continue;
      report("gather_forward %s, %zu bytes: element %lld", s.text().c_str(), sizeof(T),
             static_cast<long long>(i));
      break;
    }
  });
}

// With small whole numbers every partial sum is exact and the result has one right value; with others it has
// a narrow interval.
template <class T, class Index>
void test_backward(DType type, const Shape& s, bool whole, int64_t bad_value = -1) {
  const int64_t gap = draw.below(3), count = s.samples * s.plane();
  const Strided at{
      3, {s.samples, s.queries, s.keys}, {s.heads * s.queries * (s.keys + gap), s.keys + gap, 1}};
  const int64_t head_stride = s.queries * (s.keys + gap);
  Buffer<T> grad(at.offset(count - 1) + (s.heads - 1) * head_stride + 1);
  for (int64_t i = 0; i < grad.size(); ++i) {
    grad[i] = round_to<T>(whole ? static_cast<double>(draw.below(9) - 4) : draw.uniform());
  }
  StridedIndex<Index> index(s, draw.below(2) == 0, draw.below(3));
  const bool plant = bad_value != -1;
  if (plant) index[count / 2] = static_cast<Index>(bad_value);
  std::vector<double> sum(static_cast<size_t>(s.rows * s.heads)), size(sum.size()), terms(sum.size());
  for (int64_t i = 0; i < count; ++i) {
    if (plant && i == count / 2) continue;
    for (int64_t h = 0; h < s.heads; ++h) {
      const size_t to = static_cast<size_t>(index[i] * s.heads + h);
      const double term = to_double(grad[at.offset(i) + h * head_stride]);
      sum[to] += term;
      size[to] += std::fabs(term);
      terms[to] += 1.0;
    }
  }
  const double epsilon = whole ? 0.0 : std::is_same_v<T, double> ? 0x1p-52 : 0x1p-24;
  std::vector<T> first;
  on_all_machines(name(type), [&] {
    Buffer<T> got(s.rows * s.heads, 1);
    Buffer<accumulator_t<T>> partial(s.rows * s.heads * cuda::split_index(count, s.rows).count);
    cuda::gather_backward({index.argument(), s.rows, s.heads, type, grad.data(), at, 1, head_stride,
                           partial.data(), got.data()},
                          nullptr);
    if (!got.guard_is_intact()) report("gather_backward wrote in front of its result: %s", s.text().c_str());
    if ((take_failed_assertions() > 0) != plant)
      report("gather_backward %s: an index outside the table and an assertion go together", s.text().c_str());
    for (int64_t i = 0; i < got.size(); ++i) {
      const size_t to = static_cast<size_t>(i);
      const double slack = epsilon * size[to] * terms[to];
      const double value = to_double(got[i]);
      if (value < to_double(round_to<T>(sum[to] - slack)) ||
          value > to_double(round_to<T>(sum[to] + slack))) {
        report("gather_backward %s %s: element %lld is %.9g, not %.9g", s.text().c_str(), name(type),
               static_cast<long long>(i), value, sum[to]);
        break;
      }
    }
    // However threads and blocks run: the same bits.
    if (first.empty()) first.assign(got.data(), got.data() + got.size());
    for (int64_t i = 0; i < got.size(); ++i) {
      if (!same_bits(first[static_cast<size_t>(i)], got[i])) report("gather_backward differs between runs");
    }
  });
}

template <class Index>
void test_shape(const Shape& s) {
  test_forward<uint16_t, Index>(s, draw.below(2) == 0, draw.below(8));
  test_forward<uint32_t, Index>(s, draw.below(2) == 0, draw.below(4));
  test_forward<uint64_t, Index>(s, draw.below(2) == 0, draw.below(2));
  const DType chosen = kDTypes[draw.below(4)];
  for (const DType type : kDTypes) {
    POSENC_DISPATCH_DTYPE(type, test_backward<scalar_t, Index>(type, s, /*whole=*/type != chosen))
  }
}

// Values below and above the rows, near and far: seen, and nothing outside the table is touched.
template <class Index>
void test_index_outside_the_table(const std::vector<int64_t>& bad_values) {
  const Shape s{2, 9, 20, 7, 3};
  for (const int64_t value : bad_values) {
    test_forward<uint32_t, Index>(s, draw.below(2) == 0, 0, value);
    test_backward<float, Index>(DType::float32, s, /*whole=*/true, value);
  }
}

// More than 2^32 elements, or 2^31 sums: an int anywhere would overflow.
void test_large_counts() {
  if (emulation::kFindsRaces) return;
  const int64_t keys = 1 << 15, queries = (1 << 15) + 1, heads = 2;
  Buffer<int32_t> index(keys);
  for (int64_t k = 0; k < keys; ++k) index[k] = static_cast<int32_t>(k % 7);
  Buffer<uint16_t> table(7 * heads);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint16_t>(i + 1);
  SparseMemory memory(static_cast<size_t>(3 * heads * queries * keys) * sizeof(uint16_t));
  on_the_ends_of_a_large_grid(dtype_of_size(2), [&] {
    const cuda::Index argument{index.data(), false, {3, {3, queries, keys}, {0, 0, 1}}, 1, 3, queries, keys};
    cuda::gather_forward({argument, DType::float16, table.data(), heads, 1, 7, heads, memory.as<void>()},
                         nullptr);
  });
  for (int64_t k = keys - 64; k < keys; ++k) {
    if (memory.as<uint16_t>()[3 * heads * queries * keys - keys + k] != table[index[k] * heads + heads - 1])
      return report("gather_forward of many elements");
  }
  // One gradient for so many heads.
  const int64_t many = (int64_t{1} << 27) + 1, rows = 20;
  Buffer<int64_t> few(rows);
  Buffer<BFloat16> grad(rows);
  for (int64_t i = 0; i < rows; ++i) {
    few[i] = rows - 1 - i;
    grad[i] = round_to<BFloat16>(static_cast<double>(i));
  }
  SparseMemory partial(static_cast<size_t>(rows * many) * sizeof(float));
  on_the_ends_of_a_large_grid("bfloat16", [&] {
    const Strided all{1, {rows}, {1}};
    cuda::gather_backward({{few.data(), true, all, 1, 1, 1, rows},
                           rows,
                           many,
                           DType::bfloat16,
                           grad.data(),
                           all,
                           1,
                           0,
                           partial.as<void>(),
                           memory.as<void>()},
                          nullptr);
  });
  if (to_double(memory.as<BFloat16>()[rows * many - 1]) != 0.0 || to_double(memory.as<BFloat16>()[0]) != 19.0)
    report("gather_backward of many sums");
  // The largest index, in chunks of a tile each: all of its values are the row 0 but the last three.
  const int64_t count = (int64_t{1} << 31) - 1;
  const cuda::Chunks chunks{cuda::kPlaceTile, cuda::divide_up(count, cuda::kPlaceTile)};
  SparseMemory places(static_cast<size_t>(count) * sizeof(int32_t)),
      terms(static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = count - 3; i < count; ++i) {
    places.as<int32_t>()[i] = 1;
    terms.as<float>()[i] = static_cast<float>(i - count + 4);
  }
  SparseMemory sums(static_cast<size_t>(2 * chunks.count) * sizeof(float));
  const Strided all{1, {count}, {1}};
  const FastStrided fast = make_fast_strided(all);
  const cuda::GatherBackward a{{places.as<void>(), false, all, 1, 1, 1, count},
                               2,
                               1,
                               DType::float32,
                               terms.as<void>(),
                               all,
                               1,
                               0,
                               sums.as<void>(),
                               nullptr};
  on_the_ends_of_a_large_grid("float32", [&] {
    using Terms = cuda::GradPlaces<float>;
    cuda::launch(cuda::gather_backward_kernel<Terms>, chunks.count, dim3(32, 8), nullptr, a, fast,
                 Terms{terms.as<float>(), 0, fast}, chunks, int64_t{1}, chunks.count);
  });
  const float* last = sums.as<float>() + 2 * (chunks.count - 1);
  if (last[0] != 0.0f || last[1] != 6.0f)
    report("gather_backward of many places: %g", static_cast<double>(last[1]));
}

}  // namespace

int main(int argc, char** argv) {
  read_arguments(argc, argv);
  test_large_counts();  // first: nothing else notices indices that are cut
  // One value to several tiles and chunks; more rows than values; more than a pass, and than a tile, of rows.
  for (const Shape& s : {Shape{1, 1, 1, 1, 1}, Shape{3, 2, 3, 5, 2}, Shape{1, 7, 7, 169, 9},
                         Shape{5, 4, 31, 3, 8}, Shape{1, 32, 64, 1, 3}, Shape{2, 40, 33, 300, 10},
                         Shape{1, 70, 61, 1030, 3}, Shape{1, 50, 130, 2500, 2}}) {
    test_shape<int32_t>(s);
    test_shape<int64_t>(s);
  }
  constexpr int64_t kFar = int64_t{1} << 33;
  test_index_outside_the_table<int32_t>({-2, 7, 1 << 30});
  test_index_outside_the_table<int64_t>({-2, 7, kFar, -kFar, kFar + 3});
  return finish();
}
