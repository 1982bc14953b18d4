#include "kernels_headers.h"

namespace memfloor {
namespace {

#include "kernels.inl"

// Four lanes in plain C++, for any little-endian processor; the compiler makes of them what it can.
struct Portable {
  static constexpr std::int64_t L = 4;
  struct F {
    float lane[4];
  };
  struct I {
    std::int32_t lane[4];
  };

  template <class Op>
  static F each(Op op) {
    F out;
    for (int i = 0; i < 4; ++i) out.lane[i] = op(i);
    return out;
  }
  template <class Op>
  static I each_int(Op op) {
    I out;
    for (int i = 0; i < 4; ++i) out.lane[i] = op(i);
    return out;
  }
  static F set(float x) {
    return each([=](int) { return x; });
  }
  static F loadf(const float* p) {
    F out;
    std::memcpy(out.lane, p, 16);
    return out;
  }
  static void storef(float* p, F x) { std::memcpy(p, x.lane, 16); }
  static F add(F a, F b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F max(F a, F b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F fma(F a, F b, F c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F round(F x) {
    return each([&](int i) { return std::nearbyint(x.lane[i]); });
  }
  static F scale_by_power(F x, F power) {
    return each([&](int i) { return std::ldexp(x.lane[i], static_cast<int>(power.lane[i])); });
  }
  static float sum(F x) { return (x.lane[0] + x.lane[1]) + (x.lane[2] + x.lane[3]); }
  static I zero() {
    return each_int([](int) { return 0; });
  }
  static I load(const void* p) {
    I out;
    std::memcpy(out.lane, p, 16);
    return out;
  }
  static I addi(I a, I b) {
    return each_int([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F to_float(I x) {
    return each([&](int i) { return static_cast<float>(x.lane[i]); });
  }
  static I seti(std::int32_t x) {
    return each_int([=](int) { return x; });
  }
  static void storei(std::int32_t* p, I x) { std::memcpy(p, x.lane, 16); }
  static I to_int(F x) {
    return each_int([&](int i) { return static_cast<std::int32_t>(std::lrintf(x.lane[i])); });
  }
  static F magnitude(F x) {
    return each([&](int i) { return std::fabs(x.lane[i]); });
  }
  static I low_nibbles(I words) {
    return each_int([&](int i) { return words.lane[i] & 0x0f0f0f0f; });
  }
  static I high_nibbles(I words) {
    return each_int([&](int i) { return words.lane[i] >> 4 & 0x0f0f0f0f; });
  }
  using Sums = I;
  static Sums no_sums() { return zero(); }
  static I total(Sums sums) { return sums; }
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    std::int16_t x[4];
    std::memcpy(x, codes, 8);
    for (int i = 0; i < 4; ++i) {
      const std::int32_t word = bytes.lane[i];
      sums.lane[i] += (word & 255) * x[0] + (word >> 8 & 255) * x[1] + (word >> 16 & 255) * x[2] + (word >> 24 & 255) * x[3];
    }
  }
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) {
    std::int16_t words[kBlock];
    for (std::int64_t k = 0; k < kBlock; ++k) words[k] = static_cast<std::int16_t>(codes[k]);
    std::memcpy(out, words, sizeof(words));
  }
  static F even_bf16(I words) {
    return each([&](int i) { return float_of_bits(static_cast<std::uint32_t>(words.lane[i]) << 16); });
  }
  static F odd_bf16(I words) {
    return each([&](int i) { return float_of_bits(static_cast<std::uint32_t>(words.lane[i]) & 0xffff0000u); });
  }
  static F load_half(const std::uint8_t* p) {
    std::uint16_t bits[4];
    std::memcpy(bits, p, 8);
    return each([&](int i) { return half_to_float(bits[i]); });
  }
  static F load_int8(const std::int8_t* p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
  }
  static constexpr std::int64_t kPairBytes = 8;
  static void pack_pairs(const float* x, std::int64_t count, std::uint8_t* out) {
    std::memcpy(out, x, static_cast<std::size_t>(count) * 4);
  }
  static F add_pair(F sum, I words, const std::uint8_t* packed) { return memfloor::add_pair<Portable>(sum, words, packed); }
  static void prepare_bf16(std::int64_t, Activation&) {}
  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    memfloor::product_bf16<Portable>(m, a, tile, y);
  }
};

}  // namespace

extern const Kernels kPortable = table<Portable>("portable");

}  // namespace memfloor
