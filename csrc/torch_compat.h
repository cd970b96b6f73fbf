// All that differs between the versions of torch in cmake/build_config.cmake.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <memory>

// Compiled autograd's interface for nodes is internal to torch: used with the versions it was tried with.
#if !defined(POSENC_COMPILED_AUTOGRAD)
#define POSENC_COMPILED_AUTOGRAD (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR <= 14)
#endif

namespace posenc_ext::autograd {

// Nodes of the autograd graph count their own references from torch 2.13 on.
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
template <class T>
using NodePtr = c10::intrusive_ptr<T>;

template <class T>
NodePtr<T> make_node() {
  return c10::make_intrusive<T>();
}
#else
template <class T>
using NodePtr = std::shared_ptr<T>;

template <class T>
NodePtr<T> make_node() {
  return NodePtr<T>(new T, torch::autograd::deleteNode);  // deep graphs are freed without recursion
}
#endif

}  // namespace posenc_ext::autograd
