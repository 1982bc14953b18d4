#include "kernels_headers.h"

#pragma GCC target("avx2,fma,f16c")

namespace memfloor {
namespace {

#include "kernels.inl"

struct Avx2 {
  static constexpr std::int64_t L = 8;
  using F = __m256;
  using I = __m256i;
  static F set(float x) { return _mm256_set1_ps(x); }
  static F loadf(const float* p) { return _mm256_loadu_ps(p); }
  static void storef(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale_by_power(F x, F power) {
    const I bits = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), bits));
  }
  static float sum(F x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static I zero() { return _mm256_setzero_si256(); }
  static I load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static I addi(I a, I b) { return _mm256_add_epi32(a, b); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static I seti(std::int32_t x) { return _mm256_set1_epi32(x); }
  static void storei(std::int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
  static I to_int(F x) { return _mm256_cvtps_epi32(x); }
  static F magnitude(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static I low_nibbles(I words) { return _mm256_and_si256(words, _mm256_set1_epi8(15)); }
  static I high_nibbles(I words) { return _mm256_and_si256(_mm256_srli_epi16(words, 4), _mm256_set1_epi8(15)); }
  // The numbers of int8 weights as they are multiplied, and their zero.
  static I bytes(I words) { return words; }
  static constexpr std::int32_t kByteZero = 128;
  static I four_bytes(const std::uint8_t* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
  }
  using Sums = I;
  static Sums no_sums() { return _mm256_setzero_si256(); }
  static I total(Sums sums) { return sums; }
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    const I even = _mm256_and_si256(bytes, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(bytes, 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, four_bytes(codes)));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(odd, four_bytes(codes + 4)));
  }
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) { pack_even_odd(codes, out); }
  static F even_bf16(I words) { return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)); }
  static F odd_bf16(I words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static F load_half(const std::uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_int8(const std::int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static constexpr std::int64_t kPairBytes = 8;
  static void pack_pairs(const float* x, std::int64_t count, std::uint8_t* out) {
    std::memcpy(out, x, static_cast<std::size_t>(count) * 4);
  }
  static F add_pair(F sum, I words, const std::uint8_t* packed) { return memfloor::add_pair<Avx2>(sum, words, packed); }
  static void prepare_bf16(std::int64_t, Activation&) {}
  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    memfloor::product_bf16<Avx2>(m, a, tile, y);
  }
};

}  // namespace

extern const Kernels kAvx2 = table<Avx2>("avx2");

}  // namespace memfloor
