// The vector type of AVX-512, with what its variants share; to be included below the pragma.

struct Base512 {
  static constexpr std::int64_t L = 16;
  using F = __m512;
  using I = __m512i;
  static F set(float x) { return _mm512_set1_ps(x); }
  static F loadf(const float* p) { return _mm512_loadu_ps(p); }
  static void storef(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale_by_power(F x, F power) { return _mm512_scalef_ps(x, power); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static I zero() { return _mm512_setzero_si512(); }
  static I load(const void* p) { return _mm512_loadu_si512(p); }
  static I addi(I a, I b) { return _mm512_add_epi32(a, b); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static I seti(std::int32_t x) { return _mm512_set1_epi32(x); }
  static void storei(std::int32_t* p, I x) { _mm512_storeu_si512(p, x); }
  static I to_int(F x) { return _mm512_cvtps_epi32(x); }
  static F magnitude(F x) { return _mm512_abs_ps(x); }
  static I low_nibbles(I words) { return _mm512_and_si512(words, _mm512_set1_epi8(15)); }
  static I high_nibbles(I words) { return _mm512_and_si512(_mm512_srli_epi16(words, 4), _mm512_set1_epi8(15)); }
  // The numbers of int8 weights as they are multiplied, and their zero.
  static I bytes(I words) { return words; }
  static constexpr std::int32_t kByteZero = 128;
  static I four_bytes(const std::uint8_t* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  }
  static F even_bf16(I words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
  static F odd_bf16(I words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static F load_half(const std::uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_int8(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
};
