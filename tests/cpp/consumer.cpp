// Trains a TorchScript module that Python saved, in a program that has no Python.
//   consumer module.pt inputs.pt steps learning_rate
// Prints name and value pairs, values as hexadecimal floating-point numbers: they are compared bit for bit.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <posenc_ext.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

void print(const std::string& name, const at::Tensor& value) {
  std::printf("%s %a\n", name.c_str(), value.to(at::kDouble).sum().item<double>());
}

at::Tensor load_tensor(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return torch::jit::pickle_load(bytes).toTensor();
}

void train(const char* module_path, const char* inputs_path, int steps, double learning_rate) {
  torch::jit::Module module = torch::jit::load(module_path);
  const at::Tensor inputs = load_tensor(inputs_path);
  for (int step = 0; step < steps; ++step) {
    const at::Tensor loss = module.forward({inputs}).toTensor();
    loss.backward();
    print("loss", loss);
    at::NoGradGuard no_grad;
    for (at::Tensor parameter : module.parameters()) {
      parameter.sub_(parameter.grad().mul(learning_rate));
      parameter.mutable_grad().reset();
    }
  }
  for (const auto& parameter : module.named_parameters()) print(parameter.name, parameter.value);

  // The C++ functions of posenc_ext.h, next to the same ops called by the module.
  print("sinusoidal_table", posenc_ext::sinusoidal_table(inputs.size(1), inputs.size(2)));
  print("add_sinusoidal", posenc_ext::add_sinusoidal(inputs, 3));
  print("add_position_embedding",
        posenc_ext::add_position_embedding(inputs, inputs[0], {inputs.slice(1, 0, 1)}, false));
  const at::Tensor table = module.attr("table").toTensor();
  print("window_bias", posenc_ext::window_bias(table, {2, 3}));

  at::NoGradGuard no_grad;
  using Options = posenc_ext::AttentionOptions;
  const at::Tensor scores =
      inputs.unsqueeze(1).slice(3, 0, 6).expand({-1, 2, -1, -1}).clone(at::MemoryFormat::Contiguous);
  const at::Tensor mask = inputs.unsqueeze(1).slice(2, 0, 1).slice(3, 0, 6).gt(0);
  const at::Tensor slopes = table[0], buckets = table.slice(0, 0, 8);
  const Options options{.scale = 0.5, .causal = true, .q_offset = 1};
  print("window_bias_softmax", posenc_ext::window_bias_softmax(scores, table, {2, 3}, {}, 0, {.mask = mask}));
  print("bias_softmax", posenc_ext::bias_softmax(scores, scores[0], options));
  const at::Tensor index = inputs[0].slice(1, 0, 6).gt(0).to(at::kLong);
  print("gather_bias_softmax", posenc_ext::gather_bias_softmax(scores, table, index, options));
  print("t5_bias_softmax", posenc_ext::t5_bias_softmax(scores, buckets, false, 16, options));
  print("alibi_bias_softmax",
        posenc_ext::alibi_bias_softmax(scores, slopes, {.dropout_p = 1.0, .training = true}));
  print("window_attention", posenc_ext::window_attention(scores, scores, scores, table, {2, 3}));
  const at::Tensor diagonals = posenc_ext::alibi_bias(slopes, 1, 11).squeeze(1);
  print("diagonal_attention", posenc_ext::diagonal_attention(scores, scores, scores, diagonals, options));
  print("t5_attention", posenc_ext::t5_attention(scores, scores, scores, buckets, true, 16));
  print("alibi_attention", posenc_ext::alibi_attention(scores, scores, scores, slopes, {.causal = true}));
  print("diagonal_bias_softmax", posenc_ext::diagonal_bias_softmax(scores, diagonals, {.inplace = true}));
  print("scores", scores);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: consumer module.pt inputs.pt steps learning_rate\n");
    return 2;
  }
  std::printf("version %s\n", posenc_ext::version());
  at::set_num_threads(1);
  try {
    train(argv[1], argv[2], std::atoi(argv[3]), std::atof(argv[4]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
