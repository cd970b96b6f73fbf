// Trains a TorchScript module that Python saved, without Python, and compares losses and gradients with those
// of Python.
//   train_scripted encoder.pt encoder.pt.tensors
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <posenc_ext.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "tensors.h"

namespace {

void train(const std::string& module_path, const std::string& tensors_path) {
  const auto saved = load_dict(tensors_path);
  const std::vector<at::Tensor> losses = tensors(saved.at("losses"));
  const std::vector<at::Tensor> gradients = tensors(saved.at("gradients"));
  const at::Tensor x = tensors(saved.at("inputs"))[0], targets = saved.at("targets").toTensor();
  torch::jit::Module module = torch::jit::load(module_path);
  for (size_t step = 0; step < losses.size(); ++step) {
    const at::Tensor loss = (module.forward({x}).toTensor() - targets).square().mean();
    loss.backward();
    std::printf("step %2zu: loss %.6f, %s\n", step, loss.item<double>(), compare(loss, losses[step]).c_str());
    size_t i = 0;
    at::NoGradGuard no_grad;
    for (const auto& [name, parameter] : module.named_parameters()) {
      at::Tensor gradient = parameter.grad();
      if (step == 0)
        std::printf("  gradient of %-40s %s\n", name.c_str(), compare(gradient, gradients[i++]).c_str());
      parameter.sub_(gradient * saved.at("rate").toDouble());
      at::Tensor(parameter).mutable_grad().reset();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: train_scripted MODULE TENSORS\n");
    return 2;
  }
  std::printf("posenc_ext %s\n", posenc_ext::version());
  at::set_num_threads(1);  // as make_models.py: the bits of torch's matrix products depend on it
  try {
    train(argv[1], argv[2]);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
