// Conversions of 16-bit floats, all of them.
#include <cmath>
#include <cstdint>
#include <limits>

#include "check.h"
#include "half.h"

using namespace memfloor;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a half by its definition.
double half_value(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

bool is_special(std::uint32_t bits) { return (bits >> 10 & 31) == 31; }

// What is between two neighbours goes to the nearer, and the middle to the even one.
template <class Round, class Value>
void check_between(std::uint32_t bits, const Round& round, const Value& value) {
  const double low = value(bits), high = value(bits + 1), middle = (low + high) / 2;
  const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
  CHECK_EQUAL(round(static_cast<float>(middle)), even);
  CHECK_EQUAL(round(std::nextafter(static_cast<float>(middle), static_cast<float>(low))), bits);
  CHECK_EQUAL(round(std::nextafter(static_cast<float>(middle), static_cast<float>(high))), bits + 1);
}

}  // namespace

TEST(every_half_has_its_value_and_comes_back) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (is_special(bits)) continue;
    const memfloor::test::Trying at("half", bits);
    CHECK_EQUAL(static_cast<double>(half_to_float(static_cast<std::uint16_t>(bits))), half_value(bits));
    CHECK_EQUAL(float_to_half(half_to_float(static_cast<std::uint16_t>(bits))), bits);
  }
}

TEST(halves_round_to_nearest_and_ties_to_even) {
  for (std::uint32_t bits = 0; bits < 0xffff; ++bits) {
    if (is_special(bits + 1) || is_special(bits) || bits == 0x7fff) continue;
    const memfloor::test::Trying at("half", bits);
    check_between(bits, [](float x) { return std::uint32_t{float_to_half(x)}; }, half_value);
  }
}

TEST(halves_keep_infinity_nan_and_overflow) {
  CHECK_EQUAL(half_to_float(0x7c00), kInfinity);
  CHECK_EQUAL(half_to_float(0xfc00), -kInfinity);
  for (std::uint32_t fraction = 1; fraction < 1024; ++fraction) {
    CHECK(std::isnan(half_to_float(static_cast<std::uint16_t>(0x7c00 | fraction))));
    CHECK(std::isnan(half_to_float(float_to_half(half_to_float(static_cast<std::uint16_t>(0xfc00 | fraction))))));
  }
  CHECK_EQUAL(float_to_half(65504.0f), 0x7bff);
  CHECK_EQUAL(float_to_half(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  CHECK_EQUAL(float_to_half(65520.0f), 0x7c00);
  CHECK_EQUAL(float_to_half(-1e30f), 0xfc00);
  CHECK_EQUAL(float_to_half(kInfinity), 0x7c00);
  CHECK_EQUAL(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
  CHECK_EQUAL(float_to_half(-0.0f), 0x8000);
}

TEST(every_bf16_comes_back) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_to_float(static_cast<std::uint16_t>(bits));
    const memfloor::test::Trying at("bf16", bits);
    CHECK_EQUAL(bits_of_float(value), bits << 16);
    if (std::isnan(value)) {
      CHECK(std::isnan(bf16_to_float(float_to_bf16(value))));
    } else {
      CHECK_EQUAL(float_to_bf16(value), bits);
    }
  }
}

TEST(bf16s_round_to_nearest_and_ties_to_even) {
  const auto value = [](std::uint32_t bits) { return double{bf16_to_float(static_cast<std::uint16_t>(bits))}; };
  const auto round = [](float x) { return std::uint32_t{float_to_bf16(x)}; };
  for (std::uint32_t bits = 0; bits < 0xff7f; ++bits) {
    if (bits >= 0x7f7f && bits < 0x8000) continue;
    const memfloor::test::Trying at("bf16", bits);
    check_between(bits, round, value);
  }
  CHECK_EQUAL(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  // A NaN whose payload is in the lower bits alone must not become infinity.
  CHECK(std::isnan(bf16_to_float(float_to_bf16(float_of_bits(0x7f800001u)))));
  CHECK(std::isnan(bf16_to_float(float_to_bf16(float_of_bits(0xffffffffu)))));
}
