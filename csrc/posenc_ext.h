// posenc_ext: positional encodings for PyTorch. The C++ interface: the ops of torch.ops.posenc_ext with their
// names, arguments and defaults. What each computes, its shapes and its errors are documented with the Python
// functions of the same names.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>
#include <string>
#include <string_view>

#if defined(_WIN32)
#define POSENC_API
#else
#define POSENC_API __attribute__((visibility("default")))
#endif

namespace posenc_ext {

// The library's version. Naming any function of this header keeps the library linked, and so its ops
// registered: a program that only loads TorchScript modules can call this one.
POSENC_API const char* version();
// What was built, as JSON: version, torch, cuda, cuda_archs, compiler.
POSENC_API std::string build_info();
// The CPU level in use: "baseline", "avx2" or "avx512" (POSENC_CPU_ISA chooses a lower one than the
// machine's).
POSENC_API std::string cpu_level();

POSENC_API at::Tensor sinusoidal_table(int64_t length, int64_t dim, int64_t start = 0, double base = 10000.0,
                                       double freq_shift = 0.0, double scale = 1.0,
                                       std::string_view layout = "interleaved",
                                       std::string_view odd = "error", at::TensorOptions options = {});

POSENC_API at::Tensor sinusoidal(const at::Tensor& positions, int64_t dim, double base = 10000.0,
                                 double freq_shift = 0.0, double scale = 1.0,
                                 std::string_view layout = "interleaved", std::string_view odd = "error",
                                 std::optional<at::ScalarType> dtype = std::nullopt);

POSENC_API at::Tensor add_sinusoidal(const at::Tensor& x, int64_t start = 0, double x_scale = 1.0,
                                     double base = 10000.0, double freq_shift = 0.0,
                                     std::string_view layout = "interleaved", std::string_view odd = "error",
                                     bool batch_first = true, double dropout_p = 0.0, bool training = false);

// Per-sample offsets: start is an integer tensor [], [1], [B] or [B, 1].
POSENC_API at::Tensor add_sinusoidal(const at::Tensor& x, const at::Tensor& start, double x_scale = 1.0,
                                     double base = 10000.0, double freq_shift = 0.0,
                                     std::string_view layout = "interleaved", std::string_view odd = "error",
                                     bool batch_first = true, double dropout_p = 0.0, bool training = false);

// The overload with a position for each row of x [..., D].
POSENC_API at::Tensor add_sinusoidal_at(const at::Tensor& x, const at::Tensor& positions,
                                        double x_scale = 1.0, double base = 10000.0, double freq_shift = 0.0,
                                        std::string_view layout = "interleaved",
                                        std::string_view odd = "error", double dropout_p = 0.0,
                                        bool training = false);

POSENC_API at::Tensor add_position_embedding(const at::Tensor& x, const at::Tensor& pos_embed,
                                             at::TensorList prefix_tokens = {}, bool embed_prefix = true,
                                             double x_scale = 1.0, bool batch_first = true,
                                             double dropout_p = 0.0, bool training = false);

// The overload with a row of pos_embed [rows, D] for each row of x [..., D].
POSENC_API at::Tensor add_position_embedding_at(const at::Tensor& x, const at::Tensor& pos_embed,
                                                const at::Tensor& positions, double x_scale = 1.0,
                                                double dropout_p = 0.0, bool training = false);

POSENC_API at::Tensor window_bias(const at::Tensor& table, at::IntArrayRef window,
                                  at::OptionalIntArrayRef query_size = std::nullopt,
                                  int64_t prefix_tokens = 0);

POSENC_API at::Tensor t5_bias(const at::Tensor& table, int64_t q_len, int64_t k_len, int64_t q_offset = 0,
                              bool bidirectional = true, int64_t max_distance = 128);

POSENC_API at::Tensor gather_bias(const at::Tensor& table, const at::Tensor& index);

POSENC_API at::Tensor alibi_slopes(int64_t num_heads, at::TensorOptions options = {});

POSENC_API at::Tensor alibi_bias(const at::Tensor& slopes, int64_t q_len, int64_t k_len, int64_t q_offset = 0,
                                 bool causal = false);

// The arguments that softmax and attention with a bias end with: {.mask = mask, .causal = true}.
struct AttentionOptions {
  std::optional<double> scale = std::nullopt;  // default: that of the op
  std::optional<at::Tensor> mask = std::nullopt;
  std::optional<at::Tensor> regions = std::nullopt;
  bool causal = false;
  int64_t q_offset = 0;
  double dropout_p = 0.0;
  bool training = false;
  bool inplace = false;  // of softmax only
};

POSENC_API at::Tensor window_bias_softmax(const at::Tensor& scores, const at::Tensor& table,
                                          at::IntArrayRef window,
                                          at::OptionalIntArrayRef query_size = std::nullopt,
                                          int64_t prefix_tokens = 0, const AttentionOptions& options = {});

POSENC_API at::Tensor diagonal_bias_softmax(const at::Tensor& scores, const at::Tensor& diagonals,
                                            const AttentionOptions& options = {});

POSENC_API at::Tensor gather_bias_softmax(const at::Tensor& scores, const at::Tensor& table,
                                          const at::Tensor& index, const AttentionOptions& options = {});

POSENC_API at::Tensor bias_softmax(const at::Tensor& scores, const at::Tensor& bias,
                                   const AttentionOptions& options = {});

POSENC_API at::Tensor t5_bias_softmax(const at::Tensor& scores, const at::Tensor& table,
                                      bool bidirectional = true, int64_t max_distance = 128,
                                      const AttentionOptions& options = {});

POSENC_API at::Tensor alibi_bias_softmax(const at::Tensor& scores, const at::Tensor& slopes,
                                         const AttentionOptions& options = {});

POSENC_API at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const at::Tensor& table, at::IntArrayRef window,
                                       at::OptionalIntArrayRef query_size = std::nullopt,
                                       int64_t prefix_tokens = 0, const AttentionOptions& options = {});

POSENC_API at::Tensor diagonal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const at::Tensor& diagonals, const AttentionOptions& options = {});

POSENC_API at::Tensor t5_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& table, bool bidirectional = true,
                                   int64_t max_distance = 128, const AttentionOptions& options = {});

POSENC_API at::Tensor alibi_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& slopes, const AttentionOptions& options = {});

}  // namespace posenc_ext
