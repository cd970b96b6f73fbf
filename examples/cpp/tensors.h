// What the programs share: reading what torch.save wrote, and comparing tensors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// A dictionary by name of tensors, numbers, and lists.
inline c10::Dict<c10::IValue, c10::IValue> load_dict(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return torch::jit::pickle_load(bytes).toGenericDict();
}

inline std::vector<at::Tensor> tensors(const c10::IValue& list) {
  std::vector<at::Tensor> result;
  for (const c10::IValue& value : list.toListRef()) result.push_back(value.toTensor());
  return result;
}

// "the same bits", or by how much they differ.
inline std::string compare(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes(), "expected ", b.toString(),
              b.sizes(), ", got ", a.toString(), a.sizes());
  const auto bytes = [](const at::Tensor& t) { return t.contiguous().flatten().view(at::kByte); };
  if (bytes(a).equal(bytes(b))) return "the same bits";
  const double difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  return c10::str("largest difference ", difference);
}
