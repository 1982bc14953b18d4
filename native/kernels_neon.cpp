#include "kernels_headers.h"

namespace memfloor {
namespace {

#include "kernels.inl"
#include "kernels_neon.inl"

struct Neon : BaseNeon {
  // Of rows 0 and 1, and of rows 2 and 3, a sum of even and one of odd products each.
  struct Sums {
    I low, high;
  };
  static Sums no_sums() { return {zero(), zero()}; }
  static I total(Sums sums) { return vpaddq_s32(sums.low, sums.high); }
  // The numbers of int8 weights as they are multiplied, and their zero.
  static I bytes(I words) { return words; }
  static constexpr std::int32_t kByteZero = 128;
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    const int16x8_t even = vreinterpretq_s16_s32(vandq_s32(bytes, vdupq_n_s32(0x00ff00ff)));
    const int16x8_t odd = vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_s32(bytes), 8));
    add_pairs(sums, even, codes);
    add_pairs(sums, odd, codes + 4);
  }
  static void add_pairs(Sums& sums, int16x8_t numbers, const std::uint8_t* two) {
    std::int32_t word;
    std::memcpy(&word, two, 4);
    const int16x8_t codes = vreinterpretq_s16_s32(vdupq_n_s32(word));
    sums.low = vmlal_s16(sums.low, vget_low_s16(numbers), vget_low_s16(codes));
    sums.high = vmlal_high_s16(sums.high, numbers, codes);
  }
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) { pack_even_odd(codes, out); }
  static F add_pair(F sum, I words, const std::uint8_t* packed) { return memfloor::add_pair<Neon>(sum, words, packed); }
  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    memfloor::product_bf16<Neon>(m, a, tile, y);
  }
};

}  // namespace

extern const Kernels kNeon = table<Neon>("neon");

}  // namespace memfloor
