// Dropout as the CPU kernels take it.
#pragma once

#include "core/philox.h"

namespace posenc_ext::args {

// A mask that was drawn before: bit i % 8 of byte i / 8 is set where element i is kept.
struct Mask {
  const uint8_t* data;
  int64_t bytes;
};

// The seed, or the mask that it drew, is read where it lies; no dropout where both are null.
struct SeededDropout {
  core::Dropout dropout;
  const int64_t* seed;
  Mask mask;

  bool drops() const { return seed != nullptr || mask.data != nullptr; }
};

// The mask of `count` elements; an item is kItem of them.
struct DropoutMask {
  static constexpr int64_t kItem = 4096;
  SeededDropout dropout;
  int64_t count;
  uint8_t* out;

  int64_t items() const { return (count + kItem - 1) / kItem; }
};

}  // namespace posenc_ext::args
