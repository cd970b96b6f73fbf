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

template <class T, class Sum>
inline void add_row(const T* __restrict grad, int64_t stride, int64_t count, Sum* __restrict sum) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) sum[i] += widen(grad[i * stride]);
  }
}

// Rows of a gradient and the places of a strip where they begin. As many as this are added in one pass, so
// that a strip is read and written once for all of them.
constexpr int kRowsPerPass = 4;

template <class T>
struct Rows {
  const T* grad[kRowsPerPass];
  int64_t place[kRowsPerPass];
};

template <int kFirst, int kCount, class T>
inline accumulator_t<T> sum_of_rows(const T* const (&row)[kRowsPerPass], int64_t i) {
  if constexpr (kCount == 1) {
    return widen(row[kFirst][i]);
  } else {
    return sum_of_rows<kFirst, kCount / 2>(row, i) + sum_of_rows<kFirst + kCount / 2, kCount / 2>(row, i);
  }
}

// Adds kCount rows from the `first` on.
template <int kCount, class T, class Sum>
inline void add_rows(const Rows<T>& rows, int first, int64_t stride, int64_t count, Sum* __restrict strip) {
  int64_t low = rows.place[first], high = low;  // the places that all rows reach are [low, high)
  for (int n = first + 1; n < first + kCount; ++n) {
    low = max_of(low, rows.place[n]);
    high = min_of(high, rows.place[n]);
  }
  high += count;
  if (stride != 1 || kCount == 1 || high < low + kCount) {
    for (int n = first; n < first + kCount; ++n) {
      add_row(rows.grad[n], stride, count, strip + rows.place[n]);
    }
    return;
  }
  const T* row[kRowsPerPass];
  for (int n = 0; n < kCount; ++n) {
    const T* grad = rows.grad[first + n];
    const int64_t place = rows.place[first + n];
    for (int64_t p = place; p < low; ++p) strip[p] += widen(grad[p - place]);
    for (int64_t p = high; p < place + count; ++p) strip[p] += widen(grad[p - place]);
    row[n] = grad + (low - place);
  }
  Sum* sum = strip + low;
  for (int64_t i = 0; i < high - low; ++i) sum[i] += sum_of_rows<0, kCount>(row, i);
}

// Adds rows [first, last).
template <int kCount, class T, class Sum>
POSENC_ALONE void add_batch(const Rows<T>& rows, int first, int last, int64_t stride, int64_t count,
                            Sum* strip) {
  for (; first + kCount <= last; first += kCount) add_rows<kCount>(rows, first, stride, count, strip);
  if constexpr (kCount > 1) {
    if (first < last) add_batch<kCount / 2>(rows, first, last, stride, count, strip);
  }
}

template <class T, class Scheme>
void strips_backward(const Scheme& scheme, const BiasBackward& a, void* scratch, int64_t begin, int64_t end) {
  using Sum = accumulator_t<T>;
  const int64_t rows = scheme.rows(), keys = scheme.keys();
  const int64_t prefix = scheme.prefix(), count = keys - prefix, stride = a.key_stride;
  const int64_t slices = scheme.slices(), shift = scheme.shift(), head_slices = scheme.strips() * slices;
  Sum* strip_sums = static_cast<Sum*>(scratch) + rows;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item / a.blocks, block = item % a.blocks;
    Sum* sums = a.blocks == 1 ? static_cast<Sum*>(scratch) : static_cast<Sum*>(a.partial) + item * rows;
    for (int64_t row = 0; row < rows; ++row) sums[row] = Sum(0);
    const T* grad = static_cast<const T*>(a.grad) + head * a.head_stride;
    if (prefix != 0 && block == 0) {
      sums[0] += widen(grad[0]);
      sums[2] += lane_sum<Sum>(count, [=](int64_t i) { return widen(grad[(1 + i) * stride]); });
    }
    const int64_t first_slice = block * a.slices_per_block;
    const int64_t last_slice = min_of(head_slices, first_slice + a.slices_per_block);
    for_each_stretch(
        scheme, first_slice, last_slice, [&](int64_t, int64_t strip, int64_t first, int64_t last) {
          const int64_t places = (last - first - 1) * shift + count;
          for (int64_t i = 0; i < places; ++i) strip_sums[i] = Sum(0);
          Rows<T> batch;
          int batched = 0;
          scheme.for_each_query(strip, first, last, [&](int64_t query, int64_t slice) {
            const T* row = grad + query * a.query_stride;
            batch.grad[batched] = row + prefix * stride;
            batch.place[batched] = (last - 1 - slice) * shift;
            if (++batched < kRowsPerPass) return;
            batched = 0;
            add_batch<kRowsPerPass>(batch, 0, kRowsPerPass, stride, count, strip_sums);
            if (prefix != 0) {
              Sum lead = Sum(0);
              for (const T* values : batch.grad) lead += widen(values[-stride]);
              sums[1] += lead;
            }
          });
          add_batch<kRowsPerPass>(batch, 0, batched, stride, count, strip_sums);
          for (int i = 0; prefix != 0 && i < batched; ++i) sums[1] += widen(batch.grad[i][-stride]);
          scheme.for_each_run(strip, first, last, [=](int64_t place, int64_t run, int64_t row, int64_t step) {
            add_run(strip_sums + place, run, step, sums + (rows - 1 - row));
          });
        });
    if (a.blocks != 1) continue;
    T* out = static_cast<T*>(a.out) + head;
    for (int64_t row = 0; row < rows; ++row) out[row * a.heads] = round_to<T>(sums[rows - 1 - row]);
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
