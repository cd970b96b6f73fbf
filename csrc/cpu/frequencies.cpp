#include "cpu/frequencies.h"

#include <map>
#include <mutex>
#include <tuple>

namespace posenc_ext::cpu {
namespace {

using Key = std::tuple<int64_t, double, double, double>;
using Table = std::shared_ptr<const FrequencyTable>;

// More encodings than a program holds at a time; a sweep over thousands of them starts afresh instead of
// growing.
constexpr size_t kMaxTables = 64;

Table make_table(const Key& key) {
  const auto [dim, base, freq_shift, scale] = key;
  FrequencyTable table{
      core::make_sinusoid(dim, base, freq_shift, scale, core::Layout::interleaved, core::Odd::sin), {}, {}};
  const int64_t count = table.spec.frequencies();
  table.hi.reserve(count);
  table.lo.reserve(count);
  for (int64_t j = 0; j < count; ++j) {
    const core::DoubleDouble f = core::frequency(table.spec, j);
    table.hi.push_back(f.hi);
    table.lo.push_back(f.lo);
  }
  return std::make_shared<const FrequencyTable>(std::move(table));
}

}  // namespace

Table frequency_table(int64_t dim, double base, double freq_shift, double scale) {
  // Most programs have one encoding: each thread remembers the last it asked for, without a lock.
  thread_local Key last_key{0, 0.0, 0.0, 0.0};  // dim is never 0
  thread_local Table last;
  const Key key{dim, base, freq_shift, scale};
  if (key == last_key) return last;

  static std::mutex mutex;
  static std::map<Key, Table> tables;
  Table found;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto it = tables.find(key);
    if (it != tables.end()) found = it->second;
  }
  if (!found) {
    found = make_table(key);
    const std::lock_guard<std::mutex> lock(mutex);
    if (tables.size() >= kMaxTables) tables.clear();
    tables.emplace(key, found);
  }
  last_key = key;
  last = found;
  return found;
}

}  // namespace posenc_ext::cpu
