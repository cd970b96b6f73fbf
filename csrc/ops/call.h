// Typed calls of the ops through the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <string>
#include <string_view>

namespace posenc_ext::ops {

template <class Signature>
auto find_op(std::string_view name, std::string_view overload = "") {
  const std::string qualified = "posenc_ext::" + std::string(name);
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(qualified.c_str(), std::string(overload).c_str())
      .typed<Signature>();
}

// A string as a template argument.
template <size_t size>
struct Text {
  char value[size];

  consteval Text(const char (&text)[size]) { std::copy_n(text, size, value); }
};

// The op `name` or `name.overload`, of this signature: a call goes through the dispatcher.
template <class Signature, Text text>
struct Op;

template <class Result, class... Args, Text text>
struct Op<Result(Args...), text> {
  static constexpr std::string_view full{text.value};
  static constexpr std::string_view name = full.substr(0, full.find('.'));
  static constexpr std::string_view overload =
      name == full ? std::string_view() : full.substr(name.size() + 1);

  Result operator()(Args... args) const {
    static const auto op = find_op<Result(Args...)>(name, overload);
    return op.call(std::forward<Args>(args)...);
  }
};

}  // namespace posenc_ext::ops
