// Values that cost more to make than to cache: made once per key, shared by all threads.
#pragma once

#include <map>
#include <memory>
#include <mutex>

namespace posenc_ext::ops {

// make(key), or what it returned before. `Tag` tells apart caches of the same types.
template <class Tag, class Key, class Make>
auto cached(const Key& key, Make make) {
  using Value = decltype(make(key));
  // More than a program uses at a time; a sweep over thousands of keys starts afresh instead of growing.
  constexpr size_t kMaxValues = 64;
  static std::mutex mutex;
  static std::map<Key, std::shared_ptr<const Value>> values;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = values.find(key); found != values.end()) return found->second;
  }
  const auto value = std::make_shared<const Value>(make(key));  // unlocked: it may look up other values
  const std::lock_guard<std::mutex> lock(mutex);
  if (values.size() >= kMaxValues) values.clear();
  return values.emplace(key, value).first->second;
}

}  // namespace posenc_ext::ops
