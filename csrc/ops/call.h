// Finding an op in the dispatcher, once per call site.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

namespace posenc_ext::ops {

inline std::string qualified(const char* name) { return std::string("posenc_ext::") + name; }

template <class Signature>
auto find_op(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace posenc_ext::ops
