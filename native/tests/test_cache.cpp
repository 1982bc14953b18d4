// The KV cache keeps what is appended, slot by slot, and nothing else changes.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "cache.h"
#include "check.h"
#include "numbers.h"

using namespace memfloor;
using memfloor::test::Numbers;
using memfloor::test::Trying;

namespace {

// Half a unit of bf16, or half a step of 127 in the largest magnitude.
float tolerance_of(KVFormat format, const float* x, std::int64_t count, float one) {
  if (format == KVFormat::bf16) return std::fabs(one) * 0x1p-8f;
  float largest = 0;
  for (std::int64_t d = 0; d < count; ++d) largest = std::max(largest, std::fabs(x[d]));
  return largest / 127.0f * 0.501f;
}

}  // namespace

TEST(the_cache_keeps_every_slot_of_every_head) {
  for (const KVFormat format : {KVFormat::bf16, KVFormat::int8}) {
    for (const std::int64_t head_dim : {2, 16, 80}) {
      constexpr std::int64_t kLayers = 2, kHeads = 3, kLength = 37;
      const Trying at(format == KVFormat::bf16 ? "bf16" : "int8", head_dim);
      KVCache cache(format, kLayers, kHeads, kLength, head_dim);
      const std::int64_t size = kLayers * kHeads * kLength * head_dim;
      const std::vector<float> keys = Numbers(1).floats(size), values = Numbers(2).floats(size);
      // From the last to the first: an append that touched a later slot would be seen.
      for (std::int64_t i = kLayers * kHeads * kLength - 1; i >= 0; --i) {
        cache.append(i / kLength / kHeads, i / kLength % kHeads, i % kLength, keys.data() + i * head_dim,
                     values.data() + i * head_dim);
      }
      std::vector<float> key(static_cast<std::size_t>(head_dim)), value(key);
      for (std::int64_t i = 0; i < kLayers * kHeads * kLength; ++i) {
        cache.read(i / kLength / kHeads, i / kLength % kHeads, i % kLength, key.data(), value.data());
        for (std::int64_t d = 0; d < head_dim; ++d) {
          const float* k = keys.data() + i * head_dim;
          const float* v = values.data() + i * head_dim;
          CHECK_NEAR(key[static_cast<std::size_t>(d)], k[d], tolerance_of(format, k, head_dim, k[d]));
          CHECK_NEAR(value[static_cast<std::size_t>(d)], v[d], tolerance_of(format, v, head_dim, v[d]));
        }
      }
    }
  }
}

TEST(the_cache_counts_its_bytes) {
  const KVCache bf16(KVFormat::bf16, 2, 3, 37, 16), int8(KVFormat::int8, 2, 3, 37, 16);
  CHECK_EQUAL(bf16.vector_bytes(), 32);
  CHECK_EQUAL(int8.vector_bytes(), 20);
  // 37 slots are three groups of 16.
  CHECK_EQUAL(bf16.bytes(), std::size_t{2 * 2 * 3 * 48 * 32});
  CHECK_EQUAL(int8.bytes(), std::size_t{2 * 2 * 3 * 48 * 20});
  CHECK(bf16.key_scales(0, 0) == nullptr);
}

TEST(the_cache_keeps_zeros_and_vanishing_numbers) {
  for (const float tiny : {0.0f, 1e-36f, 1e-38f, 1e-42f}) {
    KVCache cache(KVFormat::int8, 1, 1, 1, 16);
    const std::vector<float> x(16, tiny);
    std::vector<float> key(16), value(16);
    cache.append(0, 0, 0, x.data(), x.data());
    cache.read(0, 0, 0, key.data(), value.data());
    for (const float k : key) CHECK_NEAR(k, tiny, 1e-35);
    for (const float v : value) CHECK_NEAR(v, tiny, 1e-35);
  }
}

TEST(an_empty_or_odd_cache_is_refused) {
  CHECK_THROWS(std::invalid_argument, KVCache(KVFormat::bf16, 0, 1, 1, 16));
  CHECK_THROWS(std::invalid_argument, KVCache(KVFormat::bf16, 1, 0, 1, 16));
  CHECK_THROWS(std::invalid_argument, KVCache(KVFormat::bf16, 1, 1, 0, 16));
  CHECK_THROWS(std::invalid_argument, KVCache(KVFormat::int8, 1, 1, 1, 0));
  // Two neighbours of a bf16 key share a word.
  CHECK_THROWS(std::invalid_argument, KVCache(KVFormat::bf16, 1, 1, 1, 15));
}
