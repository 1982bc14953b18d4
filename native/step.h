// One decode step as a list of operations over fixed buffers, run by a pool one by one or all in one call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "matrix.h"
#include "pool.h"

namespace memfloor {

struct Dimensions {
  std::int64_t hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, max_len = 0;
  float eps = 0;

  std::int64_t query() const { return heads * head_dim; }
  std::int64_t qkv() const { return (heads + 2 * kv_heads) * head_dim; }
  std::int64_t group() const { return heads / kv_heads; }
};

// How the next token is chosen: the likeliest at temperature 0, else drawn from the smallest set of likeliest tokens
// whose probabilities reach top_p. The draw depends on seed and position alone.
struct Sampling {
  float temperature = 0.0f;
  float top_p = 1.0f;
  std::uint64_t seed = 0;
};

// What one thread needs for itself.
struct Scratch {
  explicit Scratch(std::int64_t columns, std::int64_t group, std::int64_t head_dim);

  Activation activation;
  float* query = nullptr;    // [group, D]
  float* weights = nullptr;  // [group, kSlotBlock]
  std::uint8_t* packed_weights = nullptr;
  std::uint8_t* packed_query = nullptr;
  float* key = nullptr;      // [D]
  float* value = nullptr;    // [D]

 private:
  std::vector<std::unique_ptr<Buffer>> owned_;
  float* room(std::int64_t bytes);
};

// The buffers that operations hand to one another, and what they share.
struct State {
  State(const Dimensions& dimensions, const Kernels& kernels, int threads);

  const Dimensions dim;
  const Kernels& kernels;
  const int threads;
  // Parts that each KV head's slots are cut into, so that all threads have the same share.
  const std::int64_t splits;
  std::int32_t token = 0;
  std::int32_t position = 0;
  Sampling sampling;
  std::vector<float> residual, qkv, joined, logits;
  std::vector<float> cosines, sines;              // [max_len, D / 2]
  std::vector<float> sums, maxima, totals;        // [Hkv * splits, group, D], [Hkv * splits, group]
  std::vector<std::int32_t> ring;
  struct alignas(64) Best {
    float value = 0;
    std::int64_t token = 0;
  };
  std::vector<Best> best;
  std::vector<std::unique_ptr<Scratch>> scratch;
};

// One operation: what each thread does of it, and where each thread starts to read.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual void run(State& state, int thread) const = 0;
  // The first byte this thread reads from memory, or null.
  virtual const std::uint8_t* first_read(const State& state, int thread) const = 0;
};

class Step {
 public:
  Step(const Dimensions& dimensions, const std::string& isa, Pool& pool);

  State& state() { return state_; }
  std::int64_t size() const { return static_cast<std::int64_t>(operations_.size()); }

  // Each adds one operation and returns its index. The caller keeps all weights alive. Null vectors are absent.
  int add_qkv(const Matrix& weights, const std::uint16_t* norm, const std::uint16_t* bias);
  int add_attention(KVCache& cache, std::int64_t layer, std::int64_t window, const std::uint16_t* query_norm,
                    const std::uint16_t* key_norm);
  int add_output(const Matrix& weights, const std::uint16_t* bias);
  int add_gate_up(const Matrix& weights, const std::uint16_t* norm, const std::uint16_t* bias);
  int add_down(const Matrix& weights, const std::uint16_t* bias);
  int add_head(const Matrix& weights, const std::uint16_t* norm);
  int add_sample(const Matrix& embedding);

  // Makes a token at a position the input of the next step.
  void start(std::int32_t token, std::int32_t position);
  // Decodes given tokens from a position on without their logits, so that their keys and values fill the cache.
  void prefill(const std::vector<std::int32_t>& tokens, std::int32_t position);
  // Runs one operation on all threads.
  void run(std::int64_t index);
  // Runs all operations, `steps` times.
  void run_all(std::int64_t steps);
  // The same, and the time of each operation: seconds [steps, size()] between the ends of two operations.
  std::vector<double> run_timed(std::int64_t steps);
  // Runs one operation and returns its seconds, from where the calling thread begins with it.
  double run_timed_one(std::int64_t index);

 private:
  int add(std::unique_ptr<Operation> operation);
  void check_one(std::int64_t index) const;
  void run_one(std::int64_t index, int thread);

  Pool& pool_;
  State state_;
  SpinBarrier barrier_;
  const Matrix* embedding_ = nullptr;
  // Operations before the head.
  std::int64_t layers_end_ = 0;
  std::vector<std::unique_ptr<Operation>> operations_;
};

// Writes a token's embedding as the residual of the next step.
void embed(State& state, const MatrixView& table);
// Chooses a token from the logits.
std::int32_t choose(const State& state);

}  // namespace memfloor
