// Kernels for any machine.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define POSENC_VECTOR_BYTES 16

#include "cpu/kernels/add_sinusoidal.h"
#include "cpu/kernels/alibi_bias.h"
#include "cpu/kernels/gather_bias.h"
#include "cpu/kernels/position_embedding.h"
#include "cpu/kernels/relative_bias.h"
#include "cpu/kernels/sinusoidal.h"

namespace posenc_ext::cpu::baseline {
// These before the bodies that use them, in this order.
#include "cpu/kernels/stores.h"
//
#include "cpu/kernels/octet.h"
//
#include "cpu/kernels/dropout_body.h"
#include "cpu/kernels/lane_sum.h"

#include "cpu/kernels/alibi_bias_body.h"
#include "cpu/kernels/gather_bias_body.h"
#include "cpu/kernels/position_embedding_body.h"
#include "cpu/kernels/reversed_table_body.h"
#include "cpu/kernels/row_sums_body.h"
//
#include "cpu/kernels/window_bias_body.h"  // before the body that calls it
//
#include "cpu/kernels/relative_bias_body.h"
#include "cpu/kernels/sinusoidal_body.h"  // before those that encode rows with it

#include "cpu/kernels/add_sinusoidal_body.h"
#include "cpu/kernels/sinusoidal_table_body.h"
}  // namespace posenc_ext::cpu::baseline
