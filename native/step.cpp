#include "step.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <string>

#include "operations.h"

namespace memfloor {
namespace {

constexpr std::size_t kRing = 4096;
// Bytes of its next weights that a thread asks for before it meets the others.
constexpr std::int64_t kFirstRead = 4096;

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

const Dimensions& checked(const Dimensions& d) {
  const std::int64_t least =
      std::min({d.hidden, d.intermediate, d.heads, d.kv_heads, d.head_dim, d.vocab, d.max_len});
  if (least < 1) throw std::invalid_argument("every dimension must be 1 or more");
  if (d.heads % d.kv_heads != 0) throw std::invalid_argument("heads must be a multiple of KV heads");
  if (d.head_dim % kSlots != 0) throw std::invalid_argument("head_dim must be a multiple of 16");
  return d;
}

void require_shape(const Matrix& matrix, std::int64_t rows, std::int64_t columns) {
  const MatrixView& view = matrix.view();
  if (view.rows == rows && view.columns == columns) return;
  throw std::invalid_argument("a matrix of [" + std::to_string(view.rows) + ", " + std::to_string(view.columns) +
                              "] where [" + std::to_string(rows) + ", " + std::to_string(columns) + "] is needed");
}

}  // namespace

Scratch::Scratch(std::int64_t columns, std::int64_t group, std::int64_t head_dim) {
  const std::int64_t padded = (columns + kBlock - 1) / kBlock * kBlock;
  activation.plain = room(padded * 4);
  activation.packed = reinterpret_cast<std::uint8_t*>(room(padded * 8));
  activation.scales = room(padded / kBlock * 4);
  activation.sums32 = reinterpret_cast<std::int32_t*>(room(padded / 32 * 4));
  activation.sums128 = reinterpret_cast<std::int32_t*>(room(padded / kBlock * 4));
  query = room(group * head_dim * 4);
  weights = room(group * kSlotBlock * 4);
  packed_weights = reinterpret_cast<std::uint8_t*>(room(group * kSlotBlock * 4));
  packed_query = reinterpret_cast<std::uint8_t*>(room(group * head_dim * 4));
  key = room(head_dim * 4);
  value = room(head_dim * 4);
}

float* Scratch::room(std::int64_t bytes) {
  // A vector more, as rows are read in whole vectors.
  owned_.push_back(std::make_unique<Buffer>(size_of(bytes) + 64));
  return reinterpret_cast<float*>(owned_.back()->data());
}

State::State(const Dimensions& dimensions, const Kernels& isa_kernels, int thread_count)
    : dim(checked(dimensions)),
      kernels(isa_kernels),
      threads(thread_count),
      splits(thread_count / std::gcd(static_cast<std::int64_t>(thread_count), dim.kv_heads)),
      residual(size_of(dim.hidden)),
      qkv(size_of(dim.qkv())),
      joined(size_of(dim.intermediate)),
      logits(size_of(dim.vocab)),
      cosines(size_of(dim.max_len * dim.head_dim / 2)),
      sines(size_of(dim.max_len * dim.head_dim / 2)),
      sums(size_of(dim.heads * splits * dim.head_dim)),
      maxima(size_of(dim.heads * splits)),
      totals(size_of(dim.heads * splits)),
      ring(kRing),
      best(size_of(thread_count)) {
  const std::int64_t columns = std::max({dim.hidden, dim.intermediate, dim.query()});
  for (int i = 0; i < threads; ++i) scratch.push_back(std::make_unique<Scratch>(columns, dim.group(), dim.head_dim));
}

Step::Step(const Dimensions& dimensions, const std::string& isa, Pool& pool)
    : pool_(pool), state_(dimensions, kernels_of(isa), pool.size()), barrier_(pool.size()) {}

int Step::add(std::unique_ptr<Operation> operation) {
  operations_.push_back(std::move(operation));
  return static_cast<int>(operations_.size()) - 1;
}

int Step::add_qkv(const Matrix& weights, const std::uint16_t* norm, const std::uint16_t* bias) {
  require_shape(weights, state_.dim.qkv(), state_.dim.hidden);
  return add(std::make_unique<Qkv>(weights.view(), norm, bias));
}

int Step::add_attention(KVCache& cache, std::int64_t layer, std::int64_t window, const std::uint16_t* query_norm,
                        const std::uint16_t* key_norm) {
  const Dimensions& d = state_.dim;
  if (cache.kv_heads() != d.kv_heads || cache.head_dim() != d.head_dim || cache.max_len() != d.max_len) {
    throw std::invalid_argument("the KV cache has another shape than the step");
  }
  if (layer < 0 || layer >= cache.layers()) throw std::invalid_argument("the KV cache has no such layer");
  return add(std::make_unique<Attention>(cache, layer, window, query_norm, key_norm));
}

int Step::add_output(const Matrix& weights, const std::uint16_t* bias) {
  require_shape(weights, state_.dim.hidden, state_.dim.query());
  return add(std::make_unique<Output>(weights.view(), bias));
}

int Step::add_gate_up(const Matrix& weights, const std::uint16_t* norm, const std::uint16_t* bias) {
  require_shape(weights, 2 * state_.dim.intermediate, state_.dim.hidden);
  return add(std::make_unique<GateUp>(weights.view(), norm, bias));
}

int Step::add_down(const Matrix& weights, const std::uint16_t* bias) {
  require_shape(weights, state_.dim.hidden, state_.dim.intermediate);
  return add(std::make_unique<Down>(weights.view(), bias));
}

int Step::add_head(const Matrix& weights, const std::uint16_t* norm) {
  require_shape(weights, state_.dim.vocab, state_.dim.hidden);
  layers_end_ = size();
  return add(std::make_unique<Head>(weights.view(), norm));
}

int Step::add_sample(const Matrix& embedding) {
  require_shape(embedding, state_.dim.vocab, state_.dim.hidden);
  if (embedding.view().format != Format::bf16) throw std::invalid_argument("the embedding must be bf16");
  embedding_ = &embedding;
  return add(std::make_unique<Sample>(embedding.view()));
}

void Step::start(std::int32_t token, std::int32_t position) {
  if (embedding_ == nullptr) throw std::logic_error("a step without a sample has no embedding to start from");
  if (token < 0 || token >= state_.dim.vocab) throw std::out_of_range("the token is outside the vocabulary");
  if (position < 0 || position >= state_.dim.max_len) throw std::out_of_range("the position is outside the KV cache");
  state_.token = token;
  state_.position = position;
  embed(state_, embedding_->view());
}

void Step::prefill(const std::vector<std::int32_t>& tokens, std::int32_t position) {
  for (const std::int32_t token : tokens) {
    start(token, position++);
    pool_.run([&](int thread) {
      for (std::int64_t index = 0; index < layers_end_; ++index) {
        run_one(index, thread);
        barrier_.wait();
      }
    });
  }
}

void Step::run_one(std::int64_t index, int thread) {
  operations_[size_of(index)]->run(state_, thread);
  // The start of the next weights comes while the threads meet.
  const std::int64_t next = (index + 1) % size();
  const std::uint8_t* address = operations_[size_of(next)]->first_read(state_, thread);
  if (address == nullptr) return;
  for (std::int64_t offset = 0; offset < kFirstRead; offset += 64) __builtin_prefetch(address + offset);
}

void Step::check_one(std::int64_t index) const {
  if (index < 0 || index >= size()) throw std::out_of_range("the step has no such operation");
  if (state_.position >= state_.dim.max_len) throw std::out_of_range("the KV cache has no slot left");
}

void Step::run(std::int64_t index) {
  check_one(index);
  pool_.run([&](int thread) { run_one(index, thread); });
}

double Step::run_timed_one(std::int64_t index) {
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin;
  check_one(index);
  pool_.run([&](int thread) {
    if (thread == 0) begin = Clock::now();
    run_one(index, thread);
  });
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void Step::run_all(std::int64_t steps) {
  if (state_.position + steps > state_.dim.max_len) throw std::out_of_range("the KV cache has no slot left");
  pool_.run([&](int thread) {
    for (std::int64_t step = 0; step < steps; ++step) {
      for (std::int64_t index = 0; index < size(); ++index) {
        run_one(index, thread);
        barrier_.wait();
      }
    }
  });
}

std::vector<double> Step::run_timed(std::int64_t steps) {
  if (state_.position + steps > state_.dim.max_len) throw std::out_of_range("the KV cache has no slot left");
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds(size_of(steps * size()));
  pool_.run([&](int thread) {
    auto last = Clock::now();
    for (std::int64_t i = 0; i < steps * size(); ++i) {
      run_one(i % size(), thread);
      barrier_.wait();
      if (thread != 0) continue;
      const auto now = Clock::now();
      seconds[size_of(i)] = std::chrono::duration<double>(now - last).count();
      last = now;
    }
  });
  return seconds;
}

}  // namespace memfloor
