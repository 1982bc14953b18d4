// The arithmetic of a decode step on one thread, once per instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format.h"

namespace memfloor {

enum class KVFormat { bf16, int8 };

// Slots of a group in the key cache, whose numbers lie side by side.
constexpr std::int64_t kSlots = 16;
// Slots attended to at a time.
constexpr std::int64_t kSlotBlock = 64;

// What one thread multiplies weights with; `plain` is filled first, `prepare` makes the rest from it.
struct Activation {
  // [K], and room up to a whole block of 128.
  float* plain = nullptr;
  // The same in the order and type of an instruction set and a weight format; 8 bytes per number of K at most.
  std::uint8_t* packed = nullptr;
  // For integer weights, whose activation is 16-bit codes: for each block of 128 their scale, for each group of 32 and
  // each block of 128 the sum of the codes.
  float* scales = nullptr;
  std::int32_t* sums32 = nullptr;
  std::int32_t* sums128 = nullptr;
};

// One KV head, or a part of its slots, and the query heads that share it.
struct HeadTask {
  KVFormat format = KVFormat::bf16;
  std::int64_t group = 0;
  std::int64_t head_dim = 0;
  // Queries [group, D], rotated and scaled by log2(e) / sqrt(D).
  const float* query = nullptr;
  const void* keys = nullptr;
  const void* values = nullptr;
  // One per slot, for int8.
  const float* key_scales = nullptr;
  const float* value_scales = nullptr;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  // Room for [group, kSlotBlock], and for 4 bytes per number of weights and queries.
  float* weights = nullptr;
  std::uint8_t* packed_weights = nullptr;
  std::uint8_t* packed_query = nullptr;
  // Sums of values [group, D], largest scores and sums of weights [group].
  float* sums = nullptr;
  float* maxima = nullptr;
  float* totals = nullptr;
};

struct Kernels {
  const char* name;
  // Makes from `plain` what weights of a format are multiplied with.
  void (*prepare)(Format format, std::int64_t columns, Activation& activation);
  // y[i] = row 16 * tile + i times the activation, for all 16 lanes; those beyond the matrix are garbage.
  void (*multiply)(const MatrixView& matrix, const Activation& activation, std::int64_t tile, float* y);
  void (*attend)(const HeadTask& task);
  // out = x / rms(x) * weight, with a bf16 weight.
  void (*norm)(const float* x, const std::uint16_t* weight, std::int64_t size, float eps, float* out);
  // out[i] = silu(pairs[2 i]) * pairs[2 i + 1].
  void (*silu)(const float* pairs, std::int64_t size, float* out);
};

// The instruction sets this processor has, best first; `portable` is always the last.
std::vector<std::string> usable_isas();
// The kernels of an instruction set by name.
const Kernels& kernels_of(const std::string& isa);

}  // namespace memfloor
