// The static KV cache of all layers and KV heads.
//
// bf16: keys [S / 16][D / 2][16][2] and values [S / 2][D][2], so that one instruction multiplies two neighbours.
// int8: keys [S / 16][D][16] and values [S][D], with a float32 scale per slot.
#pragma once

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace memfloor {

class KVCache {
 public:
  KVCache(KVFormat format, std::int64_t layers, std::int64_t kv_heads, std::int64_t max_len, std::int64_t head_dim);

  KVFormat format() const { return format_; }
  std::int64_t layers() const { return layers_; }
  std::int64_t kv_heads() const { return kv_heads_; }
  std::int64_t max_len() const { return max_len_; }
  std::int64_t head_dim() const { return head_dim_; }
  std::size_t bytes() const { return buffer_.bytes(); }
  // Of one key or value vector, its scale included.
  std::int64_t vector_bytes() const;

  // Stores the key and the value [D] of one slot.
  void append(std::int64_t layer, std::int64_t head, std::int64_t slot, const float* key, const float* value);
  // Reads them back [D].
  void read(std::int64_t layer, std::int64_t head, std::int64_t slot, float* key, float* value) const;

  const std::uint8_t* keys(std::int64_t layer, std::int64_t head) const { return numbers(layer, head, 0); }
  const std::uint8_t* values(std::int64_t layer, std::int64_t head) const { return numbers(layer, head, 1); }
  // One per slot; null where the format has none.
  const float* key_scales(std::int64_t layer, std::int64_t head) const { return scales(layer, head, 0); }
  const float* value_scales(std::int64_t layer, std::int64_t head) const { return scales(layer, head, 1); }

 private:
  std::uint8_t* numbers(std::int64_t layer, std::int64_t head, int which) const;
  float* scales(std::int64_t layer, std::int64_t head, int which) const;
  // Where number d of a slot lies in its plane of keys or values.
  std::int64_t key_at(std::int64_t slot, std::int64_t d) const;
  std::int64_t value_at(std::int64_t slot, std::int64_t d) const;
  std::int64_t plane_bytes() const { return slots_ * head_dim_ * number_bytes_; }

  KVFormat format_;
  std::int64_t layers_, kv_heads_, max_len_, head_dim_, number_bytes_, slots_;
  Buffer buffer_;
};

}  // namespace memfloor
