#include "kernels_headers.h"

#pragma GCC target("arch=armv8.2-a+dotprod")

namespace memfloor {
namespace {

#include "kernels.inl"
#include "kernels_neon.inl"

// Four products of signed bytes in one instruction; a code is its upper and its lower byte.
struct NeonDotprod : BaseNeon {
  struct Sums {
    I upper, lower;
  };
  static Sums no_sums() { return {zero(), zero()}; }
  static I total(Sums sums) { return vaddq_s32(vshlq_n_s32(sums.upper, 8), sums.lower); }
  // Numbers of int8 weights without their zero of 128, which makes them signed bytes.
  static I bytes(I words) { return vreinterpretq_s32_u8(veorq_u8(vreinterpretq_u8_s32(words), vdupq_n_u8(128))); }
  static constexpr std::int32_t kByteZero = 0;
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    const int8x16_t numbers = vreinterpretq_s8_s32(bytes);
    const int8x8_t both = vreinterpret_s8_u8(vld1_u8(codes));
    sums.upper = vdotq_lane_s32(sums.upper, numbers, both, 0);
    sums.lower = vdotq_lane_s32(sums.lower, numbers, both, 1);
  }
  // Four upper bytes, then four lower ones.
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) {
    for (std::int64_t k = 0; k < kBlock; ++k) {
      const std::int8_t lower = static_cast<std::int8_t>(codes[k]);
      std::uint8_t* four = out + k / 4 * 8 + k % 4;
      four[0] = static_cast<std::uint8_t>((codes[k] - lower) >> 8);
      four[4] = static_cast<std::uint8_t>(lower);
    }
  }
  static F add_pair(F sum, I words, const std::uint8_t* packed) {
    return memfloor::add_pair<NeonDotprod>(sum, words, packed);
  }
  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    memfloor::product_bf16<NeonDotprod>(m, a, tile, y);
  }
};

}  // namespace

extern const Kernels kNeonDotprod = table<NeonDotprod>("neon-dotprod");

}  // namespace memfloor
