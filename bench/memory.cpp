// What the memory can do: fill, copy and read, with non-temporal stores. Compiled by memory.py for the
// machine that it runs on, and called through ctypes; the OpenMP threads are those of torch, so
// torch.set_num_threads applies.
#include <immintrin.h>
#include <omp.h>

#include <cstdint>

namespace {

#ifdef __AVX512F__
using Vector = __m512i;
void stream(Vector* to, Vector v) { _mm512_stream_si512(to, v); }
Vector load(const Vector* from) { return _mm512_loadu_si512(from); }
Vector ones() { return _mm512_set1_epi32(0x3f800000); }
#else
using Vector = __m128i;
void stream(Vector* to, Vector v) { _mm_stream_si128(to, v); }
Vector load(const Vector* from) { return _mm_loadu_si128(from); }
Vector ones() { return _mm_set1_epi32(0x3f800000); }
#endif

// f(begin, end) over whole cache lines; a parallel region costs more than it gains below 256 KiB.
template <class F>
void over_vectors(int64_t bytes, F f) {
  constexpr int64_t kPerLine = 64 / sizeof(Vector);
  const int64_t lines = bytes / 64;
#pragma omp parallel if (bytes >= 256 << 10)
  {
    const int64_t threads = omp_get_num_threads(), rank = omp_get_thread_num();
    f(lines * rank / threads * kPerLine, lines * (rank + 1) / threads * kPerLine);
    _mm_sfence();
  }
}

}  // namespace

extern "C" {

// Not with zeros, of which a Zen 5 writes 2.6 times as many a second.
void nt_fill(Vector* to, int64_t bytes) {
  over_vectors(bytes, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i != end; ++i) stream(to + i, ones());
  });
}

void nt_copy(Vector* to, const Vector* from, int64_t bytes) {
  over_vectors(bytes, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i != end; ++i) stream(to + i, load(from + i));
  });
}

int64_t read_all(const Vector* from, int64_t bytes) {
  int64_t sum = 0;
  over_vectors(bytes, [=, &sum](int64_t begin, int64_t end) {
    Vector sums[4] = {};
    for (int64_t i = begin; i + 4 <= end; i += 4) {
      for (int64_t j = 0; j < 4; ++j) sums[j] ^= load(from + i + j);
    }
    const Vector all = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
#pragma omp atomic
    sum += all[0];
  });
  return sum;
}
}
