// Every op of the library. Names with an underscore are the parts that the public ops and their gradients
// are made of.
#include <torch/csrc/jit/frontend/function_schema_parser.h>
#include <torch/library.h>
#include <torch/version.h>

#include <sstream>
#include <string>

#include "cpu/kernels/levels.h"
#include "posenc_ext.h"

namespace {

// A relative-position bias, the same into a given tensor, and its adjoint: the same arguments, after the
// table or after the gradient and the table's rows.
void def_bias(torch::Library& m, const std::string& name, const std::string& arguments) {
  const char* and_out = arguments.find('*') == std::string::npos ? ", *, " : ", ";
  m.def((name + "(Tensor table, " + arguments + ") -> Tensor").c_str());
  m.def((name + ".out(Tensor table, " + arguments + and_out + "Tensor(a!) out) -> Tensor(a!)").c_str());
  m.def(("_" + name + "_backward(Tensor grad, SymInt num_rows, " + arguments + ") -> Tensor").c_str());
}

// softmax(scores * scale + bias + mask): a result, the same over the scores, with attention dropout, and the
// gradients of scores and table. `source`: the arguments that the bias is made from.
void def_bias_softmax(torch::Library& m, const std::string& name, const std::string& table,
                      const std::string& source, bool with_kernels = true) {
  const char* star = source.find('*') == std::string::npos ? ", *" : "";
  const std::string arguments = source + star +
                                ", float scale=1.0, Tensor? mask=None, Tensor? regions=None, bool "
                                "causal=False, SymInt q_offset=0";
  m.def((name + "(Tensor scores, Tensor " + table + arguments + ") -> Tensor").c_str());
  m.def((name + "_(Tensor(a!) scores, Tensor " + table + arguments + ") -> Tensor(a!)").c_str());
  m.def((name + ".dropout(Tensor scores, Tensor " + table + arguments +
         ", float dropout_p, bool training) -> Tensor")
            .c_str());
  if (!with_kernels) return;
  m.def(("_" + name + "_(Tensor(a!) scores, Tensor " + table + arguments + ") -> Tensor(a!)").c_str());
  m.def(("_" + name + "_backward(Tensor grad, Tensor result, SymInt[] table_sizes" + source + star +
         ", float scale) -> (Tensor, Tensor)")
            .c_str());
}

// Attention with such a softmax between its products; and the same where no gradient is needed.
void def_attention(torch::Library& m, const std::string& name, const std::string& table,
                   const std::string& source, const char* scale = "float? scale=None",
                   bool with_inference = true) {
  const std::string arguments = "(Tensor q, Tensor k, Tensor v, Tensor " + table + source +
                                (source.find('*') == std::string::npos ? ", *, " : ", ");
  const std::string options =
      ", Tensor? mask=None, Tensor? regions=None, bool causal=False, SymInt q_offset=0";
  m.def(
      (name + arguments + scale + options + ", float dropout_p=0.0, bool training=False) -> Tensor").c_str());
  if (!with_inference) return;
  m.def(("_" + name + arguments + "float scale" + options + ") -> Tensor").c_str());
}

// Gives lists of tensors the default [], which the language of schemas has no word for.
c10::FunctionSchema with_no_tensors_by_default(const char* text) {
  const c10::FunctionSchema schema = torch::jit::parseSchema(text);
  std::vector<c10::Argument> arguments;
  for (const c10::Argument& argument : schema.arguments()) {
    const bool list = argument.type()->isSubtypeOf(*c10::ListType::ofTensors());
    const c10::AliasInfo* alias = argument.alias_info();
    arguments.emplace_back(
        argument.name(), argument.type(), argument.real_type(), argument.N(),
        list ? std::optional<c10::IValue>(c10::List<at::Tensor>()) : argument.default_value(),
        argument.kwarg_only(), alias != nullptr ? std::optional<c10::AliasInfo>(*alias) : std::nullopt);
  }
  c10::FunctionSchema result = schema.cloneWithArguments(std::move(arguments));
  result.setAliasAnalysis(c10::AliasAnalysisKind::FROM_SCHEMA);  // as def() of a text does
  return result;
}

}  // namespace

TORCH_LIBRARY(posenc_ext, m) {
  // Sinusoids
  m.def(
      "sinusoidal_table(SymInt length, SymInt dim, *, SymInt start=0, float base=10000.0, float "
      "freq_shift=0.0, "
      "float scale=1.0, str layout=\"interleaved\", str odd=\"error\", ScalarType? dtype=None, Device? "
      "device=None) "
      "-> Tensor");
  m.def(
      "sinusoidal_table.out(SymInt length, SymInt dim, *, SymInt start=0, float base=10000.0, float "
      "freq_shift=0.0, "
      "float scale=1.0, str layout=\"interleaved\", str odd=\"error\", Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "sinusoidal(Tensor positions, SymInt dim, *, float base=10000.0, float freq_shift=0.0, float "
      "scale=1.0, "
      "str layout=\"interleaved\", str odd=\"error\", ScalarType? dtype=None) -> Tensor");
  m.def(
      "sinusoidal.out(Tensor positions, SymInt dim, *, float base=10000.0, float freq_shift=0.0, float "
      "scale=1.0, "
      "str layout=\"interleaved\", str odd=\"error\", Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "_sinusoidal(Tensor positions, SymInt dim, float base, float freq_shift, float scale, str layout, str "
      "odd, "
      "int order, ScalarType? dtype=None) -> Tensor");
  m.def(
      "_sinusoidal_backward(Tensor grad, Tensor positions, float base, float freq_shift, float scale, str "
      "layout, "
      "str odd, int order) -> Tensor");
  // Before the overload with an int start: overloads are tried in this order, and a tensor of one element
  // would pass for an int.
  m.def(
      "add_sinusoidal.offsets(Tensor x, *, Tensor start, float x_scale=1.0, float base=10000.0, float "
      "freq_shift=0.0, "
      "str layout=\"interleaved\", str odd=\"error\", bool batch_first=True, float dropout_p=0.0, "
      "bool training=False) -> Tensor");
  m.def(
      "add_sinusoidal(Tensor x, *, SymInt start=0, float x_scale=1.0, float base=10000.0, float "
      "freq_shift=0.0, "
      "str layout=\"interleaved\", str odd=\"error\", bool batch_first=True, float dropout_p=0.0, "
      "bool training=False) -> Tensor");
  m.def(
      "add_sinusoidal.offsets_out(Tensor x, *, Tensor start, float x_scale=1.0, float base=10000.0, float "
      "freq_shift=0.0, "
      "str layout=\"interleaved\", str odd=\"error\", bool batch_first=True, float dropout_p=0.0, "
      "bool training=False, Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "add_sinusoidal.out(Tensor x, *, SymInt start=0, float x_scale=1.0, float base=10000.0, float "
      "freq_shift=0.0, "
      "str layout=\"interleaved\", str odd=\"error\", bool batch_first=True, float dropout_p=0.0, "
      "bool training=False, Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "add_sinusoidal.positions(Tensor x, *, Tensor positions, float x_scale=1.0, float base=10000.0, float "
      "freq_shift=0.0, str layout=\"interleaved\", str odd=\"error\", float dropout_p=0.0, bool "
      "training=False) -> Tensor");
  m.def(
      "add_sinusoidal.positions_out(Tensor x, *, Tensor positions, float x_scale=1.0, float base=10000.0, "
      "float freq_shift=0.0, str layout=\"interleaved\", str odd=\"error\", float dropout_p=0.0, bool "
      "training=False, Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "_add_sinusoidal(Tensor x, Tensor? offsets, SymInt start, float x_scale, float base, float freq_shift, "
      "str layout, str odd, bool batch_first, float dropout_p, Tensor? seed) -> Tensor");
  m.def("_scale_dropout(Tensor x, float scale, float dropout_p, Tensor? seed) -> Tensor");

  // Absolute position embeddings
  m.def(with_no_tensors_by_default(
      "posenc_ext::add_position_embedding(Tensor x, Tensor pos_embed, Tensor[] prefix_tokens, *, bool "
      "embed_prefix=True, float x_scale=1.0, bool batch_first=True, float dropout_p=0.0, bool "
      "training=False) -> Tensor"));
  m.def(with_no_tensors_by_default(
      "posenc_ext::add_position_embedding.out(Tensor x, Tensor pos_embed, Tensor[] prefix_tokens, *, bool "
      "embed_prefix=True, float x_scale=1.0, bool batch_first=True, float dropout_p=0.0, bool "
      "training=False, Tensor(a!) out) -> Tensor(a!)"));
  m.def(
      "_add_position_embedding(Tensor x, Tensor pos_embed, Tensor[] prefix_tokens, bool embed_prefix, float "
      "x_scale, bool batch_first, float dropout_p, Tensor? seed) -> Tensor");
  m.def("_sum_batch(Tensor grad, bool batch_first) -> Tensor");
  m.def(
      "add_position_embedding.positions(Tensor x, Tensor pos_embed, *, Tensor positions, float x_scale=1.0, "
      "float dropout_p=0.0, bool training=False) -> Tensor");
  m.def(
      "add_position_embedding.positions_out(Tensor x, Tensor pos_embed, *, Tensor positions, float "
      "x_scale=1.0, float dropout_p=0.0, bool training=False, Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "_add_positions(Tensor x, Tensor pos_embed, Tensor positions, float x_scale, float dropout_p, Tensor? "
      "seed) -> Tensor");
  m.def("_sum_positions(Tensor grad, Tensor positions, SymInt num_rows) -> Tensor");

  // Relative-position biases
  def_bias(m, "window_bias", "SymInt[] window, *, SymInt[]? query_size=None, int prefix_tokens=0");
  def_bias(m, "t5_bias",
           "SymInt q_len, SymInt k_len, *, SymInt q_offset=0, bool bidirectional=True, int max_distance=128");
  m.def("gather_bias(Tensor table, Tensor index) -> Tensor");
  m.def("gather_bias.out(Tensor table, Tensor index, *, Tensor(a!) out) -> Tensor(a!)");
  m.def("_gather_bias_backward(Tensor grad, Tensor index, SymInt num_rows) -> Tensor");
  m.def("alibi_slopes(int num_heads, *, ScalarType? dtype=None, Device? device=None) -> Tensor");
  m.def("alibi_slopes.out(int num_heads, *, Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "alibi_bias(Tensor slopes, SymInt q_len, SymInt k_len, *, SymInt q_offset=0, bool causal=False) -> "
      "Tensor");
  m.def(
      "alibi_bias.out(Tensor slopes, SymInt q_len, SymInt k_len, *, SymInt q_offset=0, bool causal=False, "
      "Tensor(a!) out) -> Tensor(a!)");
  m.def("_alibi_bias_backward(Tensor grad, *, SymInt q_offset=0, bool causal=False) -> Tensor");

  // Attention scores with a bias, softmax included
  def_bias_softmax(m, "window_bias_softmax", "table",
                   ", SymInt[] window, *, SymInt[]? query_size=None, int prefix_tokens=0");
  def_bias_softmax(m, "diagonal_bias_softmax", "diagonals", "");
  def_bias_softmax(m, "gather_bias_softmax", "table", ", Tensor index");
  def_bias_softmax(m, "bias_softmax", "bias", "");
  def_bias_softmax(m, "t5_bias_softmax", "table", ", *, bool bidirectional=True, int max_distance=128",
                   /*with_kernels=*/false);
  def_bias_softmax(m, "alibi_bias_softmax", "slopes", "", /*with_kernels=*/false);
  def_attention(m, "window_attention", "table",
                ", SymInt[] window, *, SymInt[]? query_size=None, int prefix_tokens=0");
  def_attention(m, "diagonal_attention", "diagonals", "");
  def_attention(m, "t5_attention", "table", ", *, bool bidirectional=True, int max_distance=128",
                "float? scale=1.0", /*with_inference=*/false);
  def_attention(m, "alibi_attention", "slopes", "", "float? scale=None", /*with_inference=*/false);
}

namespace posenc_ext {

#if !defined(POSENC_CUDA_ARCHS)
#define POSENC_CUDA_ARCHS ""
#endif

const char* version() { return POSENC_VERSION; }

std::string cpu_level() { return cpu::level_name(); }

std::string build_info() {
#if defined(POSENC_WITH_CUDA)
  const char* cuda = "true";
#else
  const char* cuda = "false";
#endif
  std::ostringstream text;
  text << "{\"version\": \"" << POSENC_VERSION << "\", \"torch\": \"" << TORCH_VERSION
       << "\", \"cuda\": " << cuda << ", \"cuda_archs\": \"" << POSENC_CUDA_ARCHS << "\", \"compiler\": \""
       << __VERSION__ << "\"}";
  return text.str();
}

}  // namespace posenc_ext
