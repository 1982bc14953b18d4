// The kernels over a vector type V, to be included in an unnamed namespace below the pragma that names the
// instruction set. V has L lanes of 32 bits: V::F of float, V::I of int32, or of twice as many int16.

// Asks for a cache line that is read a block of slots later, in the second level: the first has room for few requests,
// and what is read now needs them. Products ask for nothing ahead: they read one stream, which the processor follows
// best by itself. Both were measured, see docs/log.md.
inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// 2^x for x <= 0, to about a float's precision; the polynomial is that of Cephes' exp2f on [-0.5, 0.5].
template <class V>
inline typename V::F exp2_of(typename V::F x) {
  x = V::max(x, V::set(-126.0f));
  const typename V::F whole = V::round(x), part = V::sub(x, whole);
  typename V::F p = V::set(1.535336188319500e-4f);
  for (const float c : {1.339887440266574e-3f, 9.618437357674640e-3f, 5.550332471162809e-2f, 2.402264791363012e-1f,
                        6.931472028550421e-1f, 1.0f}) {
    p = V::fma(p, part, V::set(c));
  }
  return V::scale_by_power(p, whole);
}

// ---- products: the lanes are the rows of a tile --------------------------------------------------------------------

// Vectors that the 16 rows of a tile take.
template <class V>
constexpr int kVectors = kTileRows / V::L;

template <class V>
void product_bf16(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
  const std::uint8_t* word = m.tile(tile);
  const std::int64_t stride = m.height(tile) * 4;
  typename V::F even[kVectors<V>], odd[kVectors<V>];
  for (int v = 0; v < kVectors<V>; ++v) even[v] = odd[v] = V::set(0);
  for (std::int64_t k = 0; k < m.columns; k += 2, word += stride) {
    const typename V::F x0 = V::set(a.plain[k]), x1 = V::set(a.plain[k + 1]);
    for (int v = 0; v < kVectors<V>; ++v) {
      const typename V::I words = V::load(word + v * V::L * 4);
      even[v] = V::fma(V::even_bf16(words), x0, even[v]);
      odd[v] = V::fma(V::odd_bf16(words), x1, odd[v]);
    }
  }
  for (int v = 0; v < kVectors<V>; ++v) V::storef(y + v * V::L, V::add(even[v], odd[v]));
}

// Codes of the largest magnitude leave room for a rounded lower byte.
constexpr float kLargestCode = 32512.0f;
// A block of none but smaller numbers is taken for zeros, as the inverse of its scale would not be a float.
constexpr float kSmallest = 1e-30f;

// Packs each four codes of a block as int16: the even columns, then the odd ones, as bytes are taken from a word.
inline void pack_even_odd(const std::int32_t* codes, std::uint8_t* out) {
  std::int16_t words[kBlock];
  for (std::int64_t k = 0; k < kBlock; k += 4) {
    words[k] = static_cast<std::int16_t>(codes[k]);
    words[k + 1] = static_cast<std::int16_t>(codes[k + 2]);
    words[k + 2] = static_cast<std::int16_t>(codes[k + 1]);
    words[k + 3] = static_cast<std::int16_t>(codes[k + 3]);
  }
  std::memcpy(out, words, sizeof(words));
}

// Turns the activation into codes, block by block, and packs each four of them as the instruction set wants.
template <class V>
void prepare_codes(std::int64_t columns, Activation& a) {
  for (std::int64_t k = columns; k % kBlock != 0; ++k) a.plain[k] = 0.0f;
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const float* x = a.plain + begin;
    typename V::F most = V::set(0);
    for (std::int64_t i = 0; i < kBlock; i += V::L) most = V::max(most, V::magnitude(V::loadf(x + i)));
    float lanes[V::L], largest = 0.0f;
    V::storef(lanes, most);
    for (const float lane : lanes) largest = lane > largest ? lane : largest;
    const typename V::F inverse = V::set(largest > kSmallest ? kLargestCode / largest : 0.0f);
    std::int32_t codes[kBlock];
    for (std::int64_t i = 0; i < kBlock; i += V::L) V::storei(codes + i, V::to_int(V::mul(V::loadf(x + i), inverse)));
    std::int32_t block_sum = 0;
    for (std::int64_t g = 0; g < 4; ++g) {
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < 32; ++i) sum += codes[g * 32 + i];
      a.sums32[begin / 32 + g] = sum;
      block_sum += sum;
    }
    a.sums128[begin / kBlock] = block_sum;
    a.scales[begin / kBlock] = largest / kLargestCode;
    V::pack_codes(codes, a.packed + begin * 2);
  }
}

// Sums of integer products in two chains: one alone would wait for each product's latency. Integers, so the order of
// adding does not matter.
template <class V>
struct Chains {
  typename V::Sums first, second;

  void clear() { first = second = V::no_sums(); }
  typename V::I total() const { return V::addi(V::total(first), V::total(second)); }
};

template <class V>
void product_int8(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
  const std::uint8_t* word = m.tile(tile);
  const std::int64_t stride = m.height(tile) * 4;
  typename V::F total[kVectors<V>];
  for (int v = 0; v < kVectors<V>; ++v) total[v] = V::set(0);
  for (std::int64_t begin = 0; begin < m.columns; begin += kBlock) {
    const std::int64_t end = std::min(m.columns, begin + kBlock);
    Chains<V> sums[kVectors<V>];
    for (int v = 0; v < kVectors<V>; ++v) sums[v].clear();
    std::int64_t k = begin;
    for (; k + 8 <= end; k += 8, word += 2 * stride) {
      for (int v = 0; v < kVectors<V>; ++v) {
        V::add_products(sums[v].first, V::bytes(V::load(word + v * V::L * 4)), a.packed + k * 2);
        V::add_products(sums[v].second, V::bytes(V::load(word + stride + v * V::L * 4)), a.packed + k * 2 + 8);
      }
    }
    for (; k < end; k += 4, word += stride) {
      for (int v = 0; v < kVectors<V>; ++v) {
        V::add_products(sums[v].first, V::bytes(V::load(word + v * V::L * 4)), a.packed + k * 2);
      }
    }
    const typename V::I taken = V::seti(-V::kByteZero * a.sums128[begin / kBlock]);
    const typename V::F scale = V::set(a.scales[begin / kBlock]);
    for (int v = 0; v < kVectors<V>; ++v) {
      total[v] = V::fma(V::to_float(V::addi(sums[v].total(), taken)), scale, total[v]);
    }
  }
  // `word` is now at the rows' scales.
  for (int v = 0; v < kVectors<V>; ++v) {
    V::storef(y + v * V::L, V::mul(total[v], V::loadf(reinterpret_cast<const float*>(word) + v * V::L)));
  }
}

// The integer products of a group of columns, a multiple of 8, at `word`.
template <class V>
inline void add_nibbles(Chains<V> (&sums)[kVectors<V>], const std::uint8_t* word, std::int64_t stride,
                        const std::uint8_t* codes, std::int64_t columns) {
  for (std::int64_t k = 0; k < columns; k += 8, word += stride) {
    for (int v = 0; v < kVectors<V>; ++v) {
      const typename V::I words = V::load(word + v * V::L * 4);
      V::add_products(sums[v].first, V::low_nibbles(words), codes + k * 2);
      V::add_products(sums[v].second, V::high_nibbles(words), codes + k * 2 + 8);
    }
  }
}

template <class V>
void product_int4_g128(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
  const std::uint8_t* at = m.tile(tile);
  const std::int64_t height = m.height(tile);
  typename V::F total[kVectors<V>];
  for (int v = 0; v < kVectors<V>; ++v) total[v] = V::set(0);
  for (std::int64_t begin = 0; begin < m.columns; begin += kBlock, at += height * (4 + kBlock / 2)) {
    Chains<V> sums[kVectors<V>];
    for (int v = 0; v < kVectors<V>; ++v) sums[v].clear();
    add_nibbles<V>(sums, at + height * 4, height * 4, a.packed + begin * 2, kBlock);
    const typename V::F scale = V::set(a.scales[begin / kBlock]);
    const typename V::F taken = V::set(-static_cast<float>(a.sums128[begin / kBlock]));
    for (int v = 0; v < kVectors<V>; ++v) {
      const typename V::F zero = V::load_half(at + height * 2 + v * V::L * 2);
      const typename V::F product = V::fma(zero, taken, V::to_float(sums[v].total()));
      total[v] = V::fma(product, V::mul(V::load_half(at + v * V::L * 2), scale), total[v]);
    }
  }
  for (int v = 0; v < kVectors<V>; ++v) V::storef(y + v * V::L, total[v]);
}

template <class V>
void product_int4_g32(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
  const std::uint8_t* at = m.tile(tile);
  const std::int64_t height = m.height(tile);
  typename V::F total[kVectors<V>];
  for (int v = 0; v < kVectors<V>; ++v) total[v] = V::set(0);
  for (std::int64_t begin = 0; begin < m.columns; begin += kBlock, at += height * (8 + kBlock / 2)) {
    const typename V::F scale = V::set(a.scales[begin / kBlock]);
    for (std::int64_t g = 0; g < 4; ++g) {
      Chains<V> sums[kVectors<V>];
      for (int v = 0; v < kVectors<V>; ++v) sums[v].clear();
      add_nibbles<V>(sums, at + height * (8 + g * 16), height * 4, a.packed + (begin + g * 32) * 2, 32);
      const typename V::I taken = V::seti(-8 * a.sums32[begin / 32 + g]);
      for (int v = 0; v < kVectors<V>; ++v) {
        const typename V::F weight_scale = V::load_half(at + g * height * 2 + v * V::L * 2);
        total[v] = V::fma(V::to_float(V::addi(sums[v].total(), taken)), V::mul(weight_scale, scale), total[v]);
      }
    }
  }
  for (int v = 0; v < kVectors<V>; ++v) V::storef(y + v * V::L, total[v]);
}

template <class V>
void prepare(Format format, std::int64_t columns, Activation& a) {
  if (format == Format::bf16) {
    V::prepare_bf16(columns, a);
  } else {
    prepare_codes<V>(columns, a);
  }
}

template <class V>
void multiply(const MatrixView& m, const Activation& a, std::int64_t tile, float* y) {
  switch (m.format) {
    case Format::bf16: V::product_bf16(m, a, tile, y); break;
    case Format::int8: product_int8<V>(m, a, tile, y); break;
    case Format::int4_g128: product_int4_g128<V>(m, a, tile, y); break;
    case Format::int4_g32: product_int4_g32<V>(m, a, tile, y); break;
  }
}

// ---- attention: the lanes are slots for the scores, numbers of a value for the sums --------------------------------

// Two neighbouring numbers of a bf16 word times two packed floats, for every lane.
template <class V>
inline typename V::F add_pair(typename V::F sum, typename V::I words, const std::uint8_t* packed) {
  float x[2];
  std::memcpy(x, packed, 8);
  return V::fma(V::odd_bf16(words), V::set(x[1]), V::fma(V::even_bf16(words), V::set(x[0]), sum));
}

// Scores of G heads from `head` against 16 slots of bf16 keys [D / 2][16][2].
template <class V, int G>
void score_bf16(const HeadTask& t, std::int64_t head, const std::uint8_t* keys, float* out) {
  const std::int64_t pairs = t.head_dim / 2;
  const std::uint8_t* query = t.packed_query + head * pairs * V::kPairBytes;
  for (std::int64_t lane = 0; lane < kSlots; lane += V::L) {
    typename V::F sum[G];
    for (int g = 0; g < G; ++g) sum[g] = V::set(0);
    for (std::int64_t p = 0; p < pairs; ++p) {
      const std::uint8_t* at = keys + (p * kSlots + lane) * 4;
      prefetch(at + kSlotBlock * t.head_dim * 2);
      const typename V::I words = V::load(at);
      for (int g = 0; g < G; ++g) sum[g] = V::add_pair(sum[g], words, query + (g * pairs + p) * V::kPairBytes);
    }
    for (int g = 0; g < G; ++g) V::storef(out + g * kSlotBlock + lane, sum[g]);
  }
}

// Adds for G heads the values of slots [begin, end), both even, bf16 [S / 2][D][2], weighted.
template <class V, int G, int N>
void add_values_bf16(const HeadTask& t, std::int64_t head, const std::uint8_t* values, std::int64_t begin,
                     std::int64_t end) {
  const std::uint8_t* weights = t.packed_weights + head * (kSlotBlock / 2) * V::kPairBytes;
  float* sums = t.sums + head * t.head_dim;
  for (std::int64_t d = 0; d < t.head_dim; d += N * V::L) {
    typename V::F sum[G][N];
    for (int g = 0; g < G; ++g) {
      for (int n = 0; n < N; ++n) sum[g][n] = V::loadf(sums + g * t.head_dim + d + n * V::L);
    }
    for (std::int64_t p = begin / 2; p < end / 2; ++p) {
      if (d == 0) {
        const std::uint8_t* later = values + (kSlotBlock / 2 + p) * t.head_dim * 4;
        for (std::int64_t line = 0; line < t.head_dim * 4; line += 64) prefetch(later + line);
      }
      typename V::I words[N];
      for (int n = 0; n < N; ++n) words[n] = V::load(values + (p * t.head_dim + d + n * V::L) * 4);
      for (int g = 0; g < G; ++g) {
        const std::uint8_t* weight = weights + (g * (kSlotBlock / 2) + p) * V::kPairBytes;
        for (int n = 0; n < N; ++n) sum[g][n] = V::add_pair(sum[g][n], words[n], weight);
      }
    }
    for (int g = 0; g < G; ++g) {
      for (int n = 0; n < N; ++n) V::storef(sums + g * t.head_dim + d + n * V::L, sum[g][n]);
    }
  }
}

// Adds for G heads the value of one slot, whose neighbour in the pair is not attended to: 0 times what another decode
// left there would be no number if that is none.
template <class V, int G>
void add_value_bf16(const HeadTask& t, std::int64_t head, const std::uint8_t* values, std::int64_t slot) {
  for (std::int64_t d = 0; d < t.head_dim; d += V::L) {
    const typename V::I words = V::load(values + (slot / 2 * t.head_dim + d) * 4);
    const typename V::F value = slot % 2 == 0 ? V::even_bf16(words) : V::odd_bf16(words);
    for (int g = 0; g < G; ++g) {
      float* sum = t.sums + (head + g) * t.head_dim + d;
      V::storef(sum, V::fma(V::set(t.weights[(head + g) * kSlotBlock + slot]), value, V::loadf(sum)));
    }
  }
}

// The same for int8 keys [D][16], with a scale per slot.
template <class V, int G>
void score_int8(const HeadTask& t, std::int64_t head, const std::int8_t* keys, const float* scales, float* out) {
  const float* query = t.query + head * t.head_dim;
  for (std::int64_t lane = 0; lane < kSlots; lane += V::L) {
    typename V::F sum[G];
    for (int g = 0; g < G; ++g) sum[g] = V::set(0);
    for (std::int64_t d = 0; d < t.head_dim; ++d) {
      const std::int8_t* at = keys + d * kSlots + lane;
      prefetch(at + kSlotBlock * t.head_dim);
      const typename V::F key = V::load_int8(at);
      for (int g = 0; g < G; ++g) sum[g] = V::fma(V::set(query[g * t.head_dim + d]), key, sum[g]);
    }
    const typename V::F scale = V::loadf(scales + lane);
    for (int g = 0; g < G; ++g) V::storef(out + g * kSlotBlock + lane, V::mul(sum[g], scale));
  }
}

// The same for int8 values [S][D], whose scales are in the weights already.
template <class V, int G, int N>
void add_values_int8(const HeadTask& t, std::int64_t head, const std::int8_t* values, std::int64_t count) {
  float* sums = t.sums + head * t.head_dim;
  for (std::int64_t d = 0; d < t.head_dim; d += N * V::L) {
    typename V::F sum[G][N];
    for (int g = 0; g < G; ++g) {
      for (int n = 0; n < N; ++n) sum[g][n] = V::loadf(sums + g * t.head_dim + d + n * V::L);
    }
    for (std::int64_t s = 0; s < count; ++s) {
      typename V::F value[N];
      for (int n = 0; n < N; ++n) value[n] = V::load_int8(values + s * t.head_dim + d + n * V::L);
      for (int g = 0; g < G; ++g) {
        const typename V::F weight = V::set(t.weights[(head + g) * kSlotBlock + s]);
        for (int n = 0; n < N; ++n) sum[g][n] = V::fma(weight, value[n], sum[g][n]);
      }
    }
    for (int g = 0; g < G; ++g) {
      for (int n = 0; n < N; ++n) V::storef(sums + g * t.head_dim + d + n * V::L, sum[g][n]);
    }
  }
}

// Gives the slots of a block that are not attended to one number.
inline void fill_outside(const HeadTask& t, std::int64_t first, std::int64_t count, float number, float* weights) {
  for (std::int64_t s = 0; s < t.begin - first; ++s) weights[s] = number;
  for (std::int64_t s = std::max<std::int64_t>(0, t.end - first); s < count; ++s) weights[s] = number;
}

template <class V>
float largest_of(const float* numbers, std::int64_t count) {
  typename V::F most = V::loadf(numbers);
  for (std::int64_t s = V::L; s < count; s += V::L) most = V::max(most, V::loadf(numbers + s));
  float lanes[V::L];
  V::storef(lanes, most);
  return *std::max_element(lanes, lanes + V::L);
}

// Turns scores into weights against a running maximum, and rescales what was summed before.
template <class V>
void weigh(const HeadTask& t, std::int64_t head, std::int64_t first, std::int64_t count) {
  float* weights = t.weights + head * kSlotBlock;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  fill_outside(t, first, count, kNone, weights);
  const float largest = std::max(t.maxima[head], largest_of<V>(weights, count));
  if (largest > t.maxima[head]) {
    const float keep = t.maxima[head] == kNone ? 0.0f : std::exp2(t.maxima[head] - largest);
    float* sums = t.sums + head * t.head_dim;
    for (std::int64_t d = 0; d < t.head_dim; d += V::L) V::storef(sums + d, V::mul(V::loadf(sums + d), V::set(keep)));
    t.totals[head] *= keep;
    t.maxima[head] = largest;
  }
  typename V::F total = V::set(0);
  for (std::int64_t s = 0; s < count; s += V::L) {
    typename V::F weight = exp2_of<V>(V::sub(V::loadf(weights + s), V::set(largest)));
    total = V::add(total, weight);
    if (t.value_scales != nullptr) weight = V::mul(weight, V::loadf(t.value_scales + first + s));
    V::storef(weights + s, weight);
  }
  t.totals[head] += V::sum(total);
  // A slot that is not attended to weighs nothing, not 2^-126.
  fill_outside(t, first, count, 0.0f, weights);
}

// Slots [first, first + count) for G heads.
template <class V, int G, int N>
void attend_bf16(const HeadTask& t, std::int64_t head, std::int64_t first, std::int64_t count) {
  const auto* keys = static_cast<const std::uint8_t*>(t.keys) + first * t.head_dim * 2;
  const auto* values = static_cast<const std::uint8_t*>(t.values) + first * t.head_dim * 2;
  for (std::int64_t s = 0; s < count; s += kSlots) {
    const std::int64_t at = s * t.head_dim * 2;
    score_bf16<V, G>(t, head, keys + at, t.weights + head * kSlotBlock + s);
  }
  for (int g = 0; g < G; ++g) {
    weigh<V>(t, head + g, first, count);
    V::pack_pairs(t.weights + (head + g) * kSlotBlock, count,
                  t.packed_weights + (head + g) * (kSlotBlock / 2) * V::kPairBytes);
  }
  const std::int64_t begin = std::max<std::int64_t>(0, t.begin - first), end = std::min(count, t.end - first);
  if (begin % 2 != 0) add_value_bf16<V, G>(t, head, values, begin);
  add_values_bf16<V, G, N>(t, head, values, begin + begin % 2, end - end % 2);
  if (end % 2 != 0) add_value_bf16<V, G>(t, head, values, end - 1);
}

template <class V, int G, int N>
void attend_int8(const HeadTask& t, std::int64_t head, std::int64_t first, std::int64_t count) {
  const auto* keys = static_cast<const std::int8_t*>(t.keys) + first * t.head_dim;
  const auto* values = static_cast<const std::int8_t*>(t.values) + first * t.head_dim;
  for (std::int64_t s = 0; s < count; s += kSlots) {
    const std::int64_t at = s * t.head_dim;
    score_int8<V, G>(t, head, keys + at, t.key_scales + first + s, t.weights + head * kSlotBlock + s);
  }
  for (int g = 0; g < G; ++g) weigh<V>(t, head + g, first, count);
  add_values_int8<V, G, N>(t, head, values, count);
}

template <class V, int G>
void attend_heads(const HeadTask& t, std::int64_t head) {
  // Two vectors of a value at a time, where there are registers for their sums.
  constexpr int kTwo = V::L == 16 ? 2 : 1;
  const bool two = t.head_dim % (kTwo * V::L) == 0;
  for (std::int64_t first = t.begin / kSlots * kSlots; first < t.end; first += kSlotBlock) {
    const std::int64_t count = std::min(kSlotBlock, (t.end - first + kSlots - 1) / kSlots * kSlots);
    if (t.format == KVFormat::bf16) {
      two ? attend_bf16<V, G, kTwo>(t, head, first, count) : attend_bf16<V, G, 1>(t, head, first, count);
    } else {
      two ? attend_int8<V, G, kTwo>(t, head, first, count) : attend_int8<V, G, 1>(t, head, first, count);
    }
  }
}

template <class V>
void attend(const HeadTask& t) {
  std::fill(t.sums, t.sums + t.group * t.head_dim, 0.0f);
  std::fill(t.totals, t.totals + t.group, 0.0f);
  std::fill(t.maxima, t.maxima + t.group, -std::numeric_limits<float>::infinity());
  V::pack_pairs(t.query, t.group * t.head_dim, t.packed_query);
  std::int64_t head = 0;
  for (; head + 8 <= t.group; head += 8) attend_heads<V, 8>(t, head);
  switch (t.group - head) {
    case 7: attend_heads<V, 7>(t, head); break;
    case 6: attend_heads<V, 6>(t, head); break;
    case 5: attend_heads<V, 5>(t, head); break;
    case 4: attend_heads<V, 4>(t, head); break;
    case 3: attend_heads<V, 3>(t, head); break;
    case 2: attend_heads<V, 2>(t, head); break;
    case 1: attend_heads<V, 1>(t, head); break;
    default: break;
  }
}

// ---- around the products -------------------------------------------------------------------------------------------

template <class V>
void norm(const float* x, const std::uint16_t* weight, std::int64_t size, float eps, float* out) {
  typename V::F squares = V::set(0);
  std::int64_t i = 0;
  for (; i + V::L <= size; i += V::L) squares = V::fma(V::loadf(x + i), V::loadf(x + i), squares);
  float total = V::sum(squares);
  for (; i < size; ++i) total += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(total / static_cast<float>(size) + eps);
  for (i = 0; i < size; ++i) out[i] = x[i] * factor * bf16_to_float(weight[i]);
}

template <class V>
void silu(const float* pairs, std::int64_t size, float* out) {
  for (std::int64_t i = 0; i < size; ++i) out[i] = pairs[2 * i] / (1.0f + std::exp(-pairs[2 * i])) * pairs[2 * i + 1];
}

template <class V>
constexpr Kernels table(const char* name) {
  return {name, prepare<V>, multiply<V>, attend<V>, norm<V>, silu<V>};
}
