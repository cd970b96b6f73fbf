// The bodies of all kernels, each after those that it uses; included by level_*.cpp, inside the level's
// namespace.

// clang-format off
#include "cpu/kernels/stores.h"
#include "cpu/kernels/octet.h"
#include "cpu/kernels/line.h"
#include "cpu/kernels/sixteen.h"
#include "cpu/kernels/lane_sum.h"

#include "cpu/kernels/dropout_body.h"
#include "cpu/kernels/sums_body.h"
#include "cpu/kernels/position_embedding_body.h"

#include "cpu/kernels/sinusoidal_body.h"
#include "cpu/kernels/positions_body.h"
#include "cpu/kernels/sinusoidal_writer.h"
#include "cpu/kernels/sinusoidal_rows_body.h"
#include "cpu/kernels/add_sinusoidal_body.h"

#include "cpu/kernels/reversed_table_body.h"
#include "cpu/kernels/row_sums_body.h"
#include "cpu/kernels/window_bias_body.h"
#include "cpu/kernels/small_window_body.h"
#include "cpu/kernels/window_lines_body.h"
#include "cpu/kernels/strip_bias_body.h"
#include "cpu/kernels/relative_bias_body.h"
#include "cpu/kernels/gather_bias_body.h"
#include "cpu/kernels/alibi_bias_body.h"
