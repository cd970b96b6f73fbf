// How the sum of a head's rows in the rows of its table is split.
#pragma once

#include "args/relative_bias.h"

namespace posenc_ext::cpu {

// Blocks of the parts that `elements` are grouped into: of at least kMinElements, and of many times a table's
// rows, whose sums each block makes anew; and no more of them than occupy many cores.
inline args::Chunks split_into_blocks(int64_t parts, int64_t elements, int64_t rows, int64_t heads) {
  constexpr int64_t kMinElements = 65536, kMinRows = 32, kEnoughBlocks = 64;
  const int64_t most = elements / core::max_of(kMinElements, kMinRows * rows);
  const int64_t blocks = core::max_of<int64_t>(1, core::min_of(most, (kEnoughBlocks + heads - 1) / heads));
  const int64_t size = (parts + blocks - 1) / blocks;
  return {size, (parts + size - 1) / size};
}

}  // namespace posenc_ext::cpu
