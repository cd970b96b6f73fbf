// Values that cost more to make than to keep: made once per key, shared by all threads.
#pragma once

#include <map>
#include <memory>
#include <mutex>

namespace posenc_ext::ops {

// make(key), or what it returned before. `Tag` tells apart caches of the same types.
template <class Tag, class Key, class Make>
auto cached(const Key& key, Make make) {
  using Value = decltype(make(key));
  using Kept = std::shared_ptr<const Value>;
  // More than a program holds at a time; a sweep over thousands of keys starts afresh instead of growing.
  constexpr size_t kMaxKept = 64;
  struct Last {
    Key key;
    Kept value;
  };
  thread_local Last last{};  // most programs ask for one key again and again: that needs no lock
  if (last.value && last.key == key) return last.value;

  static std::mutex mutex;
  static std::map<Key, Kept> kept;
  Kept found;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto it = kept.find(key);
    if (it != kept.end()) found = it->second;
  }
  if (!found) {
    found = std::make_shared<const Value>(make(key));
    const std::lock_guard<std::mutex> lock(mutex);
    if (kept.size() >= kMaxKept) kept.clear();
    kept.emplace(key, found);
  }
  last = {key, found};
  return found;
}

}  // namespace posenc_ext::ops
