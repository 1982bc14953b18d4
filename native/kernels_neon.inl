// The vector type of NEON, with what its variants share; to be included below the pragma.

struct BaseNeon {
  static constexpr std::int64_t L = 4;
  using F = float32x4_t;
  using I = int32x4_t;
  static F set(float x) { return vdupq_n_f32(x); }
  static F loadf(const float* p) { return vld1q_f32(p); }
  static void storef(float* p, F x) { vst1q_f32(p, x); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F max(F a, F b) { return vmaxq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F round(F x) { return vrndnq_f32(x); }
  static F scale_by_power(F x, F power) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtq_s32_f32(power), 23)));
  }
  static float sum(F x) { return vaddvq_f32(x); }
  static I zero() { return vdupq_n_s32(0); }
  static I load(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p))); }
  static I addi(I a, I b) { return vaddq_s32(a, b); }
  static F to_float(I x) { return vcvtq_f32_s32(x); }
  static I seti(std::int32_t x) { return vdupq_n_s32(x); }
  static void storei(std::int32_t* p, I x) { vst1q_s32(p, x); }
  static I to_int(F x) { return vcvtnq_s32_f32(x); }
  static F magnitude(F x) { return vabsq_f32(x); }
  static I low_nibbles(I words) {
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(words), vdupq_n_u8(15)));
  }
  static I high_nibbles(I words) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(words), 4)); }
  static F even_bf16(I words) { return vreinterpretq_f32_s32(vshlq_n_s32(words, 16)); }
  static F odd_bf16(I words) {
    return vreinterpretq_f32_s32(vandq_s32(words, vdupq_n_s32(static_cast<std::int32_t>(0xffff0000u))));
  }
  static F load_half(const std::uint8_t* p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
  static F load_int8(const std::int8_t* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
  }
  static constexpr std::int64_t kPairBytes = 8;
  static void pack_pairs(const float* x, std::int64_t count, std::uint8_t* out) {
    std::memcpy(out, x, static_cast<std::size_t>(count) * 4);
  }
  static void prepare_bf16(std::int64_t, Activation&) {}
};
