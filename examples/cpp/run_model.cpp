// Runs a model that Python saved, a package of AOTInductor (.pt2) or TorchScript (.pt), without Python, and
// compares its outputs with those of Python.
//   run_model ops.pt2 ops.pt2.tensors
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tensors.h"

namespace {

using Tensors = std::vector<at::Tensor>;
using Model = std::function<Tensors(const Tensors&)>;

Model load_model(const std::string& path) {
  if (path.ends_with(".pt2")) {
    auto package = std::make_shared<torch::inductor::AOTIModelPackageLoader>(path);
    return [package](const Tensors& inputs) { return package->run(inputs); };
  }
  return [module = torch::jit::load(path)](const Tensors& inputs) mutable {
    return Tensors{module.forward({inputs.begin(), inputs.end()}).toTensor()};
  };
}

double milliseconds(const Model& model, const Tensors& inputs) {
  constexpr int runs = 100;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < runs; ++i) model(inputs);
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  return time.count() / runs;
}

void run(const std::string& model_path, const std::string& tensors_path) {
  const auto saved = load_dict(tensors_path);
  const Tensors inputs = tensors(saved.at("inputs")), expected = tensors(saved.at("outputs"));
  const auto names = saved.at("names").toListRef();
  const c10::InferenceMode inference_mode;
  const Model model = load_model(model_path);
  const Tensors outputs = model(inputs);
  TORCH_CHECK(outputs.size() == expected.size(), "expected ", expected.size(), " outputs, got ",
              outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::printf("%-40s %s\n", names[i].toStringRef().c_str(), compare(outputs[i], expected[i]).c_str());
  }
  std::printf("%.3f ms per run on one thread\n", milliseconds(model, inputs));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: run_model MODEL TENSORS\n");
    return 2;
  }
  at::set_num_threads(1);  // as make_models.py: the bits of torch's matrix products depend on it
  try {
    run(argv[1], argv[2]);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
