#include "kernels_headers.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma,f16c")

namespace memfloor {
namespace {

#include "kernels.inl"
#include "kernels_avx512.inl"

// Products of bf16 pairs and of four bytes in one instruction each. An activation is two terms, the second what the
// first leaves: bf16 and bf16, or the upper and lower byte of a code. The second product costs nothing where memory
// is the limit, and the activation keeps 16 bits.
struct Avx512Bf16 : Base512 {
  struct Sums {
    I upper, lower;
  };
  static Sums no_sums() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  static I total(Sums sums) { return _mm512_add_epi32(_mm512_slli_epi32(sums.upper, 8), sums.lower); }
  static void add_products(Sums& sums, I bytes, const std::uint8_t* codes) {
    sums.upper = _mm512_dpbusd_epi32(sums.upper, bytes, four_bytes(codes));
    sums.lower = _mm512_dpbusd_epi32(sums.lower, bytes, four_bytes(codes + 4));
  }
  // Four upper bytes, then four lower ones.
  static void pack_codes(const std::int32_t* codes, std::uint8_t* out) {
    for (std::int64_t k = 0; k < kBlock; k += 16) {
      const I code = load(codes + k);
      const I lower = _mm512_srai_epi32(_mm512_slli_epi32(code, 24), 24);
      const I upper = _mm512_srai_epi32(_mm512_sub_epi32(code, lower), 8);
      const __m128i bytes[2] = {_mm512_cvtepi32_epi8(upper), _mm512_cvtepi32_epi8(lower)};
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * k), _mm_unpacklo_epi32(bytes[0], bytes[1]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * k + 16), _mm_unpackhi_epi32(bytes[0], bytes[1]));
    }
  }

  // Each pair of columns: two leading terms, then what they leave.
  static void prepare_bf16(std::int64_t columns, Activation& a) {
    for (std::int64_t k = columns; k % 16 != 0; ++k) a.plain[k] = 0.0f;
    for (std::int64_t k = 0; k < columns; k += 16) {
      const F x = loadf(a.plain + k);
      const __m256i first = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
      const F rounded = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(first), 16));
      const __m256i rest = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sub(x, rounded)));
      const I order = _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
      const I pairs = _mm512_inserti64x4(_mm512_castsi256_si512(first), rest, 1);
      _mm512_storeu_si512(a.packed + k * 4, _mm512_permutexvar_epi32(order, pairs));
    }
  }

  static F add_pair(F sum, I words, const std::uint8_t* x) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(words), reinterpret_cast<__m512bh>(four_bytes(x)));
  }
  // Queries and attention weights are rounded to bf16, as the keys and values beside them are.
  static constexpr std::int64_t kPairBytes = 4;
  static void pack_pairs(const float* x, std::int64_t count, std::uint8_t* out) {
    for (std::int64_t i = 0; i < count; i += 16) {
      const __m256i pairs = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(loadf(x + i)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), pairs);
    }
  }

  static void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
    const std::uint8_t* word = m.tile(tile);
    const std::uint8_t* x = a.packed;
    const std::int64_t stride = m.height(tile) * 4;
    F sum[4] = {set(0), set(0), set(0), set(0)};
    // Columns are a multiple of 4, two words.
    for (std::int64_t k = 0; k < m.columns; k += 4, word += 2 * stride, x += 16) {
      const I first = load(word), second = load(word + stride);
      sum[0] = add_pair(sum[0], first, x);
      sum[1] = add_pair(sum[1], first, x + 4);
      sum[2] = add_pair(sum[2], second, x + 8);
      sum[3] = add_pair(sum[3], second, x + 12);
    }
    storef(y, add(add(sum[0], sum[1]), add(sum[2], sum[3])));
  }
};

}  // namespace

extern const Kernels kAvx512Bf16 = table<Avx512Bf16>("avx512-bf16");

}  // namespace memfloor
