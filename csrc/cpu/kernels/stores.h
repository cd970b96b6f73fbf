// Rows written past the caches (non-temporal stores); compiled once per CPU level by level_*.cpp, inside the
// level's namespace. Who calls these calls finish_streams() before it returns.

namespace {

using namespace posenc_ext::core;

constexpr int64_t kLine = 64;  // bytes; whole lines alone go past the caches

// One line; `to` stands at a multiple of kLine.
inline void stream_line(void* to, const void* from) {
#if !defined(__x86_64__)
  memcpy(to, from, kLine);
#elif POSENC_VECTOR_BYTES == 64
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif POSENC_VECTOR_BYTES == 32
  const __m256i* source = static_cast<const __m256i*>(from);
  __m256i* target = static_cast<__m256i*>(to);
  const __m256i first = _mm256_loadu_si256(source), second = _mm256_loadu_si256(source + 1);
  _mm256_stream_si256(target, first);
  _mm256_stream_si256(target + 1, second);
#else
  const __m128i* source = static_cast<const __m128i*>(from);
  __m128i* target = static_cast<__m128i*>(to);
  for (int i = 0; i < 4; ++i) _mm_stream_si128(target + i, _mm_loadu_si128(source + i));
#endif
}

inline void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>
inline void stream_row(T* to, const T* from, int64_t count) {
  char* target = reinterpret_cast<char*>(to);
  const char* source = reinterpret_cast<const char*>(from);
  int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const int64_t head = min_of(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(target) % kLine));
  if (head != 0) memcpy(target, source, static_cast<size_t>(head));
  target += head, source += head, bytes -= head;
  for (; bytes >= kLine; target += kLine, source += kLine, bytes -= kLine) stream_line(target, source);
  if (bytes != 0) memcpy(target, source, static_cast<size_t>(bytes));
}

}  // namespace
