#include "cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "half.h"

namespace memfloor {
namespace {

std::int64_t whole_groups(std::int64_t slots) { return (slots + kSlots - 1) / kSlots * kSlots; }

std::size_t checked_bytes(KVFormat format, std::int64_t vectors, std::int64_t max_len, std::int64_t head_dim) {
  if (vectors < 1 || max_len < 1 || head_dim < 1) throw std::invalid_argument("a KV cache needs at least one number");
  if (head_dim % 2 != 0) throw std::invalid_argument("head_dim must be even, not " + std::to_string(head_dim));
  const std::int64_t vector = format == KVFormat::bf16 ? 2 * head_dim : head_dim + 4;
  return static_cast<std::size_t>(2 * vectors * whole_groups(max_len) * vector);
}

float scale_of(const float* x, std::int64_t count) {
  float largest = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest / 127.0f;
}

// Zero for a scale so small that its inverse is beyond a float: its numbers are kept as zeros.
float inverse_of(float scale) { return scale >= std::numeric_limits<float>::min() ? 1.0f / scale : 0.0f; }

}  // namespace

KVCache::KVCache(KVFormat format, std::int64_t layers, std::int64_t kv_heads, std::int64_t max_len,
                 std::int64_t head_dim)
    : format_(format),
      layers_(layers),
      kv_heads_(kv_heads),
      max_len_(max_len),
      head_dim_(head_dim),
      number_bytes_(format == KVFormat::bf16 ? 2 : 1),
      slots_(whole_groups(max_len)),
      buffer_(checked_bytes(format, layers * kv_heads, max_len, head_dim)) {}

std::int64_t KVCache::vector_bytes() const { return head_dim_ * number_bytes_ + (format_ == KVFormat::int8 ? 4 : 0); }

std::uint8_t* KVCache::numbers(std::int64_t layer, std::int64_t head, int which) const {
  return buffer_.data() + ((layer * kv_heads_ + head) * 2 + which) * plane_bytes();
}

float* KVCache::scales(std::int64_t layer, std::int64_t head, int which) const {
  if (format_ == KVFormat::bf16) return nullptr;
  float* all = reinterpret_cast<float*>(buffer_.data() + layers_ * kv_heads_ * 2 * plane_bytes());
  return all + ((layer * kv_heads_ + head) * 2 + which) * slots_;
}

std::int64_t KVCache::key_at(std::int64_t slot, std::int64_t d) const {
  const std::int64_t group = slot / kSlots * kSlots * head_dim_, lane = slot % kSlots;
  return format_ == KVFormat::bf16 ? group + (d / 2 * kSlots + lane) * 2 + d % 2 : group + d * kSlots + lane;
}

std::int64_t KVCache::value_at(std::int64_t slot, std::int64_t d) const {
  return format_ == KVFormat::bf16 ? (slot / 2 * head_dim_ + d) * 2 + slot % 2 : slot * head_dim_ + d;
}

void KVCache::append(std::int64_t layer, std::int64_t head, std::int64_t slot, const float* key, const float* value) {
  if (format_ == KVFormat::bf16) {
    auto* keys = reinterpret_cast<std::uint16_t*>(numbers(layer, head, 0));
    auto* values = reinterpret_cast<std::uint16_t*>(numbers(layer, head, 1));
    for (std::int64_t d = 0; d < head_dim_; ++d) keys[key_at(slot, d)] = float_to_bf16(key[d]);
    for (std::int64_t d = 0; d < head_dim_; ++d) values[value_at(slot, d)] = float_to_bf16(value[d]);
    return;
  }
  auto* keys = reinterpret_cast<std::int8_t*>(numbers(layer, head, 0));
  auto* values = reinterpret_cast<std::int8_t*>(numbers(layer, head, 1));
  const float key_scale = scale_of(key, head_dim_), value_scale = scale_of(value, head_dim_);
  const float per_key = inverse_of(key_scale), per_value = inverse_of(value_scale);
  for (std::int64_t d = 0; d < head_dim_; ++d) {
    keys[key_at(slot, d)] = static_cast<std::int8_t>(std::lrintf(key[d] * per_key));
    values[value_at(slot, d)] = static_cast<std::int8_t>(std::lrintf(value[d] * per_value));
  }
  scales(layer, head, 0)[slot] = key_scale;
  scales(layer, head, 1)[slot] = value_scale;
}

void KVCache::read(std::int64_t layer, std::int64_t head, std::int64_t slot, float* key, float* value) const {
  const bool bf16 = format_ == KVFormat::bf16;
  for (std::int64_t d = 0; d < head_dim_; ++d) {
    const std::int64_t k = key_at(slot, d), v = value_at(slot, d);
    if (bf16) {
      key[d] = bf16_to_float(reinterpret_cast<const std::uint16_t*>(keys(layer, head))[k]);
      value[d] = bf16_to_float(reinterpret_cast<const std::uint16_t*>(values(layer, head))[v]);
    } else {
      key[d] = key_scales(layer, head)[slot] * reinterpret_cast<const std::int8_t*>(keys(layer, head))[k];
      value[d] = value_scales(layer, head)[slot] * reinterpret_cast<const std::int8_t*>(values(layer, head))[v];
    }
  }
}

}  // namespace memfloor
