#include "kernels_headers.h"

namespace memfloor {
namespace {

#include "kernels.inl"

// Four lanes in the vector types of GCC and Clang, for any little-endian processor: what it has no instruction for, the
// compiler does lane by lane.
struct Portable {
  static constexpr std::int64_t L = 4;
  using F = float __attribute__((vector_size(16)));
  using I = std::int32_t __attribute__((vector_size(16)));

  template <class T>
  static T loaded(const void* p) {
    T out;
    std::memcpy(&out, p, sizeof(out));
    return out;
  }
  static F set(float x) { return F{x, x, x, x}; }
  static F loadf(const float* p) { return loaded<F>(p); }
  static void storef(float* p, F x) { std::memcpy(p, &x, 16); }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  // So large a float has no room for a fraction: adding it rounds to the nearest integer, the lowest bits of the sum.
  static constexpr float kNoFraction = 12582912.0f;
  static F round(F x) { return (x + kNoFraction) - kNoFraction; }
  static I to_int(F x) { return (I)(x + kNoFraction) - (I)set(kNoFraction); }
  static F scale_by_power(F x, F power) { return (F)((I)x + (to_int(power) << 23)); }
  static float sum(F x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static I zero() { return seti(0); }
  static I load(const void* p) { return loaded<I>(p); }
  static I addi(I a, I b) { return a + b; }
  static F to_float(I x) { return __builtin_convertvector(x, F); }
  static I seti(std::int32_t x) { return I{x, x, x, x}; }
  static void storei(std::int32_t* p, I x) { std::memcpy(p, &x, 16); }
  static F magnitude(F x) { return (F)((I)x & 0x7fffffff); }
  static I low_nibbles(I words) { return words & 0x0f0f0f0f; }
  static I high_nibbles(I words) { return words >> 4 & 0x0f0f0f0f; }
  // The numbers of int8 weights as they are multiplied, and their zero.
  static I bytes(I words) { return words; }
  static constexpr std::int32_t kByteZero = 128;
  using Sums = I;
  static Sums no_sums() { return zero(); }
  static I total(Sums sums) { return sums; }
#if defined(__SSE2__)
  // Every x86-64 multiplies int16 in pairs; its first vectors have no product of int32.
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    const auto pairs = [&](I words, const std::uint8_t* two) {
      return (I)_mm_madd_epi16((__m128i)(words & 0x00ff00ff), (__m128i)seti(loaded<std::int32_t>(two)));
    };
    sums += pairs(bytes, codes) + pairs(bytes >> 8, codes + 4);
  }
#else
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    std::int16_t x[4];
    std::memcpy(x, codes, 8);
    sums += (bytes & 255) * x[0] + (bytes >> 16 & 255) * x[1] + (bytes >> 8 & 255) * x[2] + (bytes >> 24 & 255) * x[3];
  }
#endif
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) { pack_even_odd(codes, out); }
  static F even_bf16(I words) { return (F)(words << 16); }
  static F odd_bf16(I words) { return (F)(words & static_cast<std::int32_t>(0xffff0000u)); }
  // As half_to_float does it.
  static F load_half(const std::uint8_t* p) {
    using Halves = std::uint16_t __attribute__((vector_size(8)));
    const I bits = __builtin_convertvector(loaded<Halves>(p), I), magnitude = bits & 0x7fff;
    const I normal = (magnitude << 13) + (112 << 23), special = magnitude << 13 | 0x7f800000;
    const I subnormal = (I)(to_float(magnitude) * 0x1p-24f);
    const I value = magnitude < 0x0400 ? subnormal : magnitude < 0x7c00 ? normal : special;
    return (F)(value | (bits & 0x8000) << 16);
  }
  static F load_int8(const std::int8_t* p) {
    using Bytes = std::int8_t __attribute__((vector_size(4)));
    return __builtin_convertvector(loaded<Bytes>(p), F);
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
