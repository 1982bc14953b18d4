// The weight formats that tests go through.
#pragma once

#include <cstdint>
#include <vector>

#include "format.h"

namespace memfloor::test {

constexpr Format kFormats[] = {Format::bf16, Format::int8, Format::int4_g128, Format::int4_g32};

inline const char* name_of(Format format) {
  constexpr const char* names[] = {"bf16", "int8", "int4_g128", "int4_g32"};
  return names[static_cast<int>(format)];
}

// Lengths of a row that a format allows, few of them whole vectors or blocks.
inline std::vector<std::int64_t> columns_of(Format format) {
  if (is_int4(format)) return {128, 384};
  return {4, 76, 128, 384, 1000};
}

}  // namespace memfloor::test
