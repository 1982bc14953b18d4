// Random numbers that are the same on every machine, which the distributions of <random> are not.
#pragma once

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "half.h"

namespace memfloor::test {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class Numbers {
 public:
  explicit Numbers(std::uint32_t seed) : engine_(seed) {}

  // Around zero, within [-3, 3], bell-shaped.
  float next() {
    double sum = 0;
    for (int i = 0; i < 3; ++i) sum += engine_() * 0x1p-31 - 1.0;
    return static_cast<float>(sum);
  }
  std::vector<float> floats(std::int64_t count, float scale = 1.0f) {
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& x : out) x = next() * scale;
    return out;
  }
  std::vector<std::uint16_t> bf16s(std::int64_t count, float scale = 1.0f, float middle = 0.0f) {
    std::vector<std::uint16_t> out(static_cast<std::size_t>(count));
    for (std::uint16_t& x : out) x = float_to_bf16(middle + next() * scale);
    return out;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace memfloor::test
