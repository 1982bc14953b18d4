// What the kernels of each instruction set include above their pragma, so that no library function is compiled below.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "format.h"
#include "half.h"
#include "kernels.h"
