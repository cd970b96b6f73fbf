// Bodies of the relative-position bias kernels; compiled once per CPU level by level_*.cpp, inside the
// level's namespace.

namespace {

using namespace posenc_ext::core;

// Calls f(head, strip, first slice, last slice) for the stretches of slices [begin, end), counted through
// heads and their strips.
template <class Scheme, class F>
inline void for_each_stretch(const Scheme& scheme, int64_t begin, int64_t end, F f) {
  const int64_t strips = scheme.strips(), slices = scheme.slices();
  int64_t strip = begin / slices, first = begin - strip * slices, head = strip / strips;
  strip -= head * strips;
  while (begin < end) {
    const int64_t last = min_of(first + min_of(end - begin, kStretchSlices), slices);
    f(head, strip, first, last);
    begin += last - first;
    first = last;
    if (first < slices) continue;
    first = 0;
    if (++strip < strips) continue;
    strip = 0;
    ++head;
  }
}

// Writes the places of a strip that its slices [first, last) cover; rows descend to `last_row`.
template <class T, class Scheme>
POSENC_ALONE void write_strip(const Scheme& scheme, int64_t strip, int64_t first, int64_t last,
                              const T* last_row, T* values) {
  constexpr int64_t kShort = 32 / sizeof(T);  // one move, also of what the next run writes over
  const int64_t room = (last - first - 1) * scheme.shift() + scheme.keys() - scheme.prefix() - kShort;
  scheme.for_each_run(strip, first, last, [=](int64_t place, int64_t count, int64_t row, int64_t step) {
    const T* from = last_row - row;
    T* to = values + place;
    if (step == -1) {
      if (count <= kShort && place <= room) {
        move_bytes<32>(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from));
      } else {
        copy_row(to, from, count);
      }
    } else if (step == 0) {
      for (int64_t i = 0; i < count; ++i) to[i] = *from;
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = from[-i];
    }
  });
}

// Schemes of one strip, a slice for each query: what has no kernel of its own.
template <class T, class Scheme>
void bias_forward_typed(const Scheme& scheme, const BiasForward& a, void* scratch, int64_t begin,
                        int64_t end) {
  const int64_t rows = scheme.rows(), queries = scheme.queries(), keys = scheme.keys();
  const int64_t shift = scheme.shift();
  const bool stream = a.past_caches && keys * static_cast<int64_t>(sizeof(T)) >= kMinStreamBytes;
  T* reversed = static_cast<T*>(scratch);
  const T* last_row = reversed + rows - 1;
  T* values = reversed + rows;
  int64_t reversed_head = -1;
  for_each_stretch(scheme, begin, end, [&](int64_t head, int64_t strip, int64_t first, int64_t last) {
    T* to = static_cast<T*>(a.out) + (head * queries + first) * keys;
    if (head != reversed_head) {
      reverse_heads(static_cast<const T*>(a.table) + head * a.head_stride, a.row_stride, a.head_stride, rows,
                    int64_t{1}, reversed);
      reversed_head = head;
    }
    if (last - first == 1) return write_strip(scheme, strip, first, last, last_row, to);  // where it belongs
    write_strip(scheme, strip, first, last, last_row, values);
    const T* from = values + (last - first - 1) * shift;
    for (int64_t slice = first; slice < last; ++slice, to += keys, from -= shift) {
      if (stream) {
        stream_row(to, from, keys);
      } else {
        copy_row(to, from, keys);
      }
    }
  });
  if (stream) finish_streams();
}

// Adds a run of a strip's sums to those of its rows; inside a run with step -1 or 1 all rows differ.
template <class Sum>
inline void add_run(const Sum* __restrict values, int64_t count, int64_t step, Sum* __restrict sum) {
  if (step == 0) {
    *sum += lane_sum<Sum>(count, [=](int64_t i) { return values[i]; });
  } else if (step == -1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += values[i];
  } else {
    for (int64_t i = 0; i < count; ++i) sum[-i] += values[i];
  }
}

constexpr int kRowsPerPass = 4;

// Slices [first, last) of `strips` strips side by side. Passes take turns among the strips, whose rows follow
// one another in memory; what the next pass reads is fetched meanwhile.
template <class T, class Scheme>
inline void sum_strips(const Scheme& scheme, const BiasBackward& a, const T* grad, int64_t strip,
                       int64_t strips, int64_t first, int64_t last, accumulator_t<T>* strip_sums,
                       accumulator_t<T>* sums) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), prefix = scheme.prefix(), count = scheme.keys() - prefix;
  const int64_t shift = scheme.shift(), stride = a.key_stride;
  const int64_t step = scheme.query_step() * a.query_stride;  // from slice to slice
  const int64_t places = (last - first - 1) * shift + count;
  for (int64_t i = 0; i < strips * places; ++i) strip_sums[i] = Sum(0);
  const auto row_of = [&](int64_t n, int64_t slice) {
    return grad + scheme.query_of(strip + n, slice) * a.query_stride + prefix * stride;
  };
  int64_t slice = first;
  for (; slice + kRowsPerPass <= last; slice += kRowsPerPass) {
    const T* row = row_of(0, slice);
    for (int64_t n = 0; n < strips; ++n) {
      const bool more = slice + 2 * kRowsPerPass <= last;
      const T* next = n + 1 < strips ? row_of(n + 1, slice) : more ? row_of(0, slice + kRowsPerPass) : row;
      add_rows<kRowsPerPass>(row, step, count, stride, shift, next - row,
                             strip_sums + n * places + (last - 1 - slice) * shift);
      row = next;
    }
  }
  for (; slice < last; ++slice) {
    for (int64_t n = 0; n < strips; ++n) {
      add_row(row_of(n, slice), stride, count, strip_sums + n * places + (last - 1 - slice) * shift);
    }
  }
  for (int64_t n = 0; n < strips; ++n, strip_sums += places) {
    if (prefix != 0) {
      const T* column = row_of(n, first) - stride;
      sums[1] += lane_sum<Sum>(last - first, [=](int64_t i) { return widen(column[i * step]); });
    }
    scheme.for_each_run(strip + n, first, last, [=](int64_t place, int64_t run, int64_t row, int64_t step) {
      add_run(strip_sums + place, run, step, sums + (rows - 1 - row));
    });
  }
}

template <class T, class Scheme>
void strips_backward(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), count = scheme.keys() - scheme.prefix(), stride = a.key_stride;
  const int64_t slices = scheme.slices();
  Sum* strip_sums = static_cast<Sum*>(scratch) + rows;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / a.blocks, block = item % a.blocks;
    Sum* sums = a.blocks == 1 ? static_cast<Sum*>(scratch) : static_cast<Sum*>(a.partial) + item * rows;
    for (int64_t row = 0; row < rows; ++row) sums[row] = Sum(0);
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    if (scheme.prefix() != 0 && block == 0) {
      sums[0] += widen(grad[0]);
      sums[2] += lane_sum<Sum>(count, [=](int64_t i) { return widen(grad[(1 + i) * stride]); });
    }
    int64_t part = block * a.parts_per_block;
    const int64_t end_part = min_of(a.parts(scheme), part + a.parts_per_block);
    while (part < end_part) {
      const int64_t strip = part / slices, first = part - strip * slices;
      const int64_t last = min_of(first + min_of(end_part - part, kStretchSlices), slices);
      const bool whole = last - first == slices;
      const int64_t strips = whole ? min_of(kStripsAtOnce, (end_part - part) / slices) : 1;
      sum_strips(scheme, a, grad, strip, strips, first, last, strip_sums, sums);
      part += strips * (last - first);
    }
    if (a.blocks == 1) write_sums(sums, rows, a.heads, static_cast<T*>(a.out) + head);
  }
}

template <class T, class Scheme>
void bias_backward_typed(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin,
                         int64_t end) {
  strips_backward<T>(scheme, a, scratch, begin, end);
}

template <class T>
void bias_backward_typed(const WindowScheme& scheme, const BiasBackward& a, void* scratch, int64_t begin,
                         int64_t end) {
  if (scheme.is_expanded()) return expanded_backward<T>(scheme, a, scratch, begin, end);
  if (is_small(scheme)) return small_window_backward<T>(scheme, a, scratch, begin, end);
  strips_backward<T>(scheme, a, scratch, begin, end);
}

template <class T>
void bias_reduce_typed(const BiasReduce& a, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  for (int64_t head = begin; head < end; ++head) {
    const Sum* partial = static_cast<const Sum*>(a.partial) + head * a.blocks * a.rows;
    T* out = static_cast<T*>(a.out) + head;
    for (int64_t row = 0; row < a.rows; ++row) {
      Sum sum = partial[a.rows - 1 - row];
      for (int64_t block = 1; block < a.blocks; ++block) sum += partial[block * a.rows + a.rows - 1 - row];
      out[row * a.heads] = round_to<T>(sum);
    }
  }
}

}  // namespace

void bias_reduce(const BiasReduce& a, int64_t begin,
                 int64_t end){POSENC_DISPATCH_DTYPE(a.dtype, bias_reduce_typed<scalar_t>(a, begin, end))}

#define POSENC_DEFINE(Scheme)                                                                                \
  void bias_forward(const Scheme& scheme, const BiasForward& a, void* scratch, int64_t begin, int64_t end) { \
    if (a.element_size == 8) return bias_forward_typed<uint64_t>(scheme, a, scratch, begin, end);            \
    if (a.element_size == 4) return bias_forward_typed<uint32_t>(scheme, a, scratch, begin, end);            \
    bias_forward_typed<uint16_t>(scheme, a, scratch, begin, end);                                            \
  }                                                                                                          \
  void bias_backward(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin,              \
                     int64_t end) {                                                                          \
    POSENC_DISPATCH_DTYPE(a.dtype, bias_backward_typed<scalar_t>(scheme, a, scratch, begin, end))            \
  }
POSENC_SCHEMES(POSENC_DEFINE)
#undef POSENC_DEFINE
