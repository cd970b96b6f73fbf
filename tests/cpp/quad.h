// 113-bit arithmetic: long double where it is that (aarch64), else libquadmath.
#pragma once

#include <cfloat>
#include <cmath>

#if LDBL_MANT_DIG == 113
using Quad = long double;
#define POSENC_QUAD(function) function##l
#else
#include <quadmath.h>
using Quad = __float128;
#define POSENC_QUAD(function) function##q
#endif

inline const Quad kPi = POSENC_QUAD(acos)(Quad{-1});
