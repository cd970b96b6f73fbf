// The four floating dtypes, without torch: storage types, and conversions that round once, to nearest even.
#pragma once

#include "core/host_device.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace posenc_ext::core {

enum class DType : int32_t { float64, float32, float16, bfloat16 };

constexpr int64_t element_size(DType type) {
  return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2;
}

// What positions may be stored as: integers, and the floating dtypes.
enum class PositionType : int32_t { u8, i8, i16, i32, i64, u16, u32, u64, f64, f32, f16, bf16 };

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

POSENC_HD float to_float(float x) { return x; }

POSENC_HD float to_float(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

POSENC_HD float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rebias = 112u << 23;  // 127 - 15
  const uint32_t normal = (magnitude << 13) + rebias;
  const uint32_t special = normal + rebias;
  const uint32_t subnormal =
      bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t bits = magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? subnormal : normal;
  return bit_cast<float>(bits | sign);
#endif
}

POSENC_HD double to_double(double x) { return x; }

template <class T>
POSENC_HD double to_double(T x) {
  return static_cast<double>(to_float(x));
}

template <class T>
struct Rounding;

template <>
struct Rounding<double> {
  static POSENC_HD double from(double x) { return x; }
};

template <>
struct Rounding<float> {
  static POSENC_HD float from(double x) { return static_cast<float>(x); }
  static POSENC_HD float from(float x) { return x; }
};

// A double cut to a float whose last bit is set when anything was cut: rounding that once more, to fewer
// bits, is rounding once.
POSENC_HD float round_to_odd(double x) {
  const uint64_t bits = bit_cast<uint64_t>(x);
  const uint64_t cut = (uint64_t{1} << 29) - 1;
  const uint64_t sticky = (bits & cut) != 0 ? uint64_t{1} << 29 : 0;
  return static_cast<float>(bit_cast<double>((bits & ~cut) | sticky));
}

template <>
struct Rounding<BFloat16> {
  static POSENC_HD BFloat16 from(float x) {
#if defined(__CUDA_ARCH__)
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded)};
#endif
  }
  static POSENC_HD BFloat16 from(double x) { return from(round_to_odd(x)); }
};

template <>
struct Rounding<Half> {
  static POSENC_HD Half from(float x) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(x))};
#else
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // 0.5f has the spacing of half's subnormals, 2^-24, so this addition does the rounding.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - (126u << 23);
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return {static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | sign)};
#endif
  }
  static POSENC_HD Half from(double x) { return from(round_to_odd(x)); }
};

template <class T, class F>
POSENC_HD T round_to(F x) {
  return Rounding<T>::from(x);
}

// Sums are carried in float32, or in float64 for float64.
template <class T>
struct Accumulator {
  using type = float;
};

template <>
struct Accumulator<double> {
  using type = double;
};

template <class T>
using accumulator_t = typename Accumulator<T>::type;

POSENC_HD float widen(float x) { return x; }
POSENC_HD float widen(Half x) { return to_float(x); }
POSENC_HD float widen(BFloat16 x) { return to_float(x); }
POSENC_HD double widen(double x) { return x; }

POSENC_HD double load_position(const void* data, PositionType type, int64_t i) {
  switch (type) {
    case PositionType::u8:
      return static_cast<double>(static_cast<const uint8_t*>(data)[i]);
    case PositionType::i8:
      return static_cast<double>(static_cast<const int8_t*>(data)[i]);
    case PositionType::i16:
      return static_cast<double>(static_cast<const int16_t*>(data)[i]);
    case PositionType::i32:
      return static_cast<double>(static_cast<const int32_t*>(data)[i]);
    case PositionType::i64:
      return static_cast<double>(static_cast<const int64_t*>(data)[i]);
    case PositionType::u16:
      return static_cast<double>(static_cast<const uint16_t*>(data)[i]);
    case PositionType::u32:
      return static_cast<double>(static_cast<const uint32_t*>(data)[i]);
    case PositionType::u64:
      return static_cast<double>(static_cast<const uint64_t*>(data)[i]);
    case PositionType::f64:
      return static_cast<const double*>(data)[i];
    case PositionType::f32:
      return static_cast<const float*>(data)[i];
    case PositionType::f16:
      return to_double(static_cast<const Half*>(data)[i]);
    case PositionType::bf16:
      return to_double(static_cast<const BFloat16*>(data)[i]);
  }
  return 0.0;
}

}  // namespace posenc_ext::core

// Runs BODY with `bits_t` set to the unsigned integer as wide as DTYPE: for kernels that copy bits.
#define POSENC_DISPATCH_BITS(DTYPE, ...)             \
  switch (::posenc_ext::core::element_size(DTYPE)) { \
    case 8: {                                        \
      using bits_t = uint64_t;                       \
      __VA_ARGS__;                                   \
    } break;                                         \
    case 4: {                                        \
      using bits_t = uint32_t;                       \
      __VA_ARGS__;                                   \
    } break;                                         \
    default: {                                       \
      using bits_t = uint16_t;                       \
      __VA_ARGS__;                                   \
    }                                                \
  }

// Runs BODY with `scalar_t` set to the storage type of DTYPE.
#define POSENC_DISPATCH_DTYPE(DTYPE, ...)            \
  switch (DTYPE) {                                   \
    case ::posenc_ext::core::DType::float64: {       \
      using scalar_t = double;                       \
      __VA_ARGS__;                                   \
    } break;                                         \
    case ::posenc_ext::core::DType::float32: {       \
      using scalar_t = float;                        \
      __VA_ARGS__;                                   \
    } break;                                         \
    case ::posenc_ext::core::DType::float16: {       \
      using scalar_t = ::posenc_ext::core::Half;     \
      __VA_ARGS__;                                   \
    } break;                                         \
    case ::posenc_ext::core::DType::bfloat16: {      \
      using scalar_t = ::posenc_ext::core::BFloat16; \
      __VA_ARGS__;                                   \
    } break;                                         \
  }
