#include "kernels_headers.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")

namespace memfloor {
namespace {

#include "kernels.inl"
#include "kernels_avx512.inl"

struct Avx512 : Base512 {
  using Sums = I;
  static Sums no_sums() { return _mm512_setzero_si512(); }
  static I total(Sums sums) { return sums; }
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    const I even = _mm512_and_si512(bytes, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(bytes, 8);
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(even, four_bytes(codes)));
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(odd, four_bytes(codes + 4)));
  }
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) { pack_even_odd(codes, out); }
  static constexpr std::int64_t kPairBytes = 8;
  static void pack_pairs(const float* x, std::int64_t count, std::uint8_t* out) {
    std::memcpy(out, x, static_cast<std::size_t>(count) * 4);
  }
  static F add_pair(F sum, I words, const std::uint8_t* packed) { return memfloor::add_pair<Avx512>(sum, words, packed); }
  static void prepare_bf16(std::int64_t, Activation&) {}
  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    memfloor::product_bf16<Avx512>(m, a, tile, y);
  }
};

}  // namespace

extern const Kernels kAvx512 = table<Avx512>("avx512");

}  // namespace memfloor
