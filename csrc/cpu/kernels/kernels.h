// All kernels, for level_*.cpp, which compile their bodies.
#pragma once

#include "cpu/kernels/add_sinusoidal.h"
#include "cpu/kernels/alibi_bias.h"
#include "cpu/kernels/dropout.h"
#include "cpu/kernels/gather_bias.h"
#include "cpu/kernels/position_embedding.h"
#include "cpu/kernels/positions.h"
#include "cpu/kernels/relative_bias.h"
#include "cpu/kernels/sinusoidal.h"
