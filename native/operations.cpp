#include "operations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "half.h"

namespace memfloor {
namespace {

// Adds a bf16 vector to y, or nothing if there is none.
void add_bias(const std::uint16_t* bias, std::int64_t begin, std::int64_t end, float* y) {
  if (bias == nullptr) return;
  for (std::int64_t r = begin; r < end; ++r) y[r - begin] += bf16_to_float(bias[r]);
}

// Rotates the halves of a head by the angles of a position. Source: transformers, apply_rotary_pos_emb.
void rotate(const float* head, const float* cosines, const float* sines, std::int64_t head_dim, float scale, float* out) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    out[i] = (head[i] * cosines[i] - head[i + half] * sines[i]) * scale;
    out[i + half] = (head[i + half] * cosines[i] + head[i] * sines[i]) * scale;
  }
}

}  // namespace

std::pair<std::int64_t, std::int64_t> Product::tiles(const State& state, int thread) const {
  const std::int64_t tiles = matrix_.tiles();
  return {tiles * thread / state.threads, tiles * (thread + 1) / state.threads};
}

const std::uint8_t* Product::first_read(const State& state, int thread) const {
  const auto [begin, end] = tiles(state, thread);
  return begin < end ? matrix_.tile(begin) : nullptr;
}

void Product::run(State& state, int thread) const {
  Activation& activation = state.scratch[static_cast<std::size_t>(thread)]->activation;
  fill(state, thread, activation.plain);
  state.kernels.prepare(matrix_.format, matrix_.columns, activation);
  const auto [begin, end] = tiles(state, thread);
  float y[kTileRows];
  for (std::int64_t tile = begin; tile < end; ++tile) {
    state.kernels.multiply(matrix_, activation, tile, y);
    store(state, thread, tile * kTileRows, tile * kTileRows + matrix_.height(tile), y);
  }
}

void Qkv::fill(State& state, int, float* x) const {
  state.kernels.norm(state.residual.data(), norm_, state.dim.hidden, state.dim.eps, x);
}

void Qkv::store(State& state, int, std::int64_t begin, std::int64_t end, float* y) const {
  add_bias(bias_, begin, end, y);
  std::copy(y, y + (end - begin), state.qkv.data() + begin);
}

const std::uint8_t* Attention::first_read(const State& state, int thread) const {
  const std::int64_t unit = units(state) * thread / state.threads;
  return cache_.keys(layer_, std::min(unit / state.splits, state.dim.kv_heads - 1));
}

void Attention::run(State& state, int thread) const {
  const std::int64_t begin = units(state) * thread / state.threads, end = units(state) * (thread + 1) / state.threads;
  for (std::int64_t unit = begin; unit < end; ++unit) attend(state, *state.scratch[static_cast<std::size_t>(thread)], unit);
}

void Attention::attend(State& state, Scratch& scratch, std::int64_t unit) const {
  const Dimensions& dim = state.dim;
  const std::int64_t head = unit / state.splits, split = unit % state.splits, position = state.position;
  prepare_queries(state, scratch, head);
  // The part with the newest slot appends it, so that no other thread reads what is being written.
  if (split == state.splits - 1) append(state, scratch, head);
  const std::int64_t first = window_ > 0 ? std::max<std::int64_t>(0, position + 1 - window_) : 0;
  const std::int64_t groups = (position + 1 - first / kSlots * kSlots + kSlots - 1) / kSlots;
  const auto bound = [&](std::int64_t part) { return first / kSlots * kSlots + groups * part / state.splits * kSlots; };
  HeadTask task;
  task.format = cache_.format();
  task.group = dim.group();
  task.head_dim = dim.head_dim;
  task.query = scratch.query;
  task.keys = cache_.keys(layer_, head);
  task.values = cache_.values(layer_, head);
  task.key_scales = cache_.key_scales(layer_, head);
  task.value_scales = cache_.value_scales(layer_, head);
  task.begin = std::max(first, bound(split));
  task.end = std::min(position + 1, bound(split + 1));
  task.weights = scratch.weights;
  task.packed_weights = scratch.packed_weights;
  task.packed_query = scratch.packed_query;
  task.sums = state.sums.data() + unit * dim.group() * dim.head_dim;
  task.maxima = state.maxima.data() + unit * dim.group();
  task.totals = state.totals.data() + unit * dim.group();
  state.kernels.attend(task);
}

void Attention::prepare_queries(State& state, Scratch& scratch, std::int64_t head) const {
  const Dimensions& dim = state.dim;
  const float* cosines = state.cosines.data() + state.position * (dim.head_dim / 2);
  const float* sines = state.sines.data() + state.position * (dim.head_dim / 2);
  const float scale = std::log2(std::exp(1.0f)) / std::sqrt(static_cast<float>(dim.head_dim));
  for (std::int64_t g = 0; g < dim.group(); ++g) {
    const float* query = state.qkv.data() + (head * dim.group() + g) * dim.head_dim;
    if (query_norm_ != nullptr) {
      state.kernels.norm(query, query_norm_, dim.head_dim, dim.eps, scratch.value);
      query = scratch.value;
    }
    rotate(query, cosines, sines, dim.head_dim, scale, scratch.query + g * dim.head_dim);
  }
}

void Attention::append(State& state, Scratch& scratch, std::int64_t head) const {
  const Dimensions& dim = state.dim;
  const float* key = state.qkv.data() + (dim.heads + head) * dim.head_dim;
  const float* value = key + dim.kv_heads * dim.head_dim;
  if (key_norm_ != nullptr) {
    state.kernels.norm(key, key_norm_, dim.head_dim, dim.eps, scratch.value);
    key = scratch.value;
  }
  const std::int64_t angle = state.position * (dim.head_dim / 2);
  rotate(key, state.cosines.data() + angle, state.sines.data() + angle, dim.head_dim, 1.0f, scratch.key);
  cache_.append(layer_, head, state.position, scratch.key, value);
}

// Joins the parts of each query head.
void Output::fill(State& state, int, float* x) const {
  const Dimensions& dim = state.dim;
  for (std::int64_t h = 0; h < dim.heads; ++h, x += dim.head_dim) {
    const std::int64_t first = h / dim.group() * state.splits, g = h % dim.group();
    const auto at = [&](std::int64_t part) { return (first + part) * dim.group() + g; };
    float largest = state.maxima[static_cast<std::size_t>(at(0))], total = 0.0f;
    for (std::int64_t p = 1; p < state.splits; ++p) largest = std::max(largest, state.maxima[static_cast<std::size_t>(at(p))]);
    std::fill(x, x + dim.head_dim, 0.0f);
    for (std::int64_t p = 0; p < state.splits; ++p) {
      const float weight = std::exp2(state.maxima[static_cast<std::size_t>(at(p))] - largest);
      const float* sums = state.sums.data() + at(p) * dim.head_dim;
      total += weight * state.totals[static_cast<std::size_t>(at(p))];
      for (std::int64_t d = 0; d < dim.head_dim; ++d) x[d] += weight * sums[d];
    }
    for (std::int64_t d = 0; d < dim.head_dim; ++d) x[d] /= total;
  }
}

void ResidualProduct::store(State& state, int, std::int64_t begin, std::int64_t end, float* y) const {
  add_bias(bias_, begin, end, y);
  for (std::int64_t r = begin; r < end; ++r) state.residual[static_cast<std::size_t>(r)] += y[r - begin];
}

void GateUp::fill(State& state, int, float* x) const {
  state.kernels.norm(state.residual.data(), norm_, state.dim.hidden, state.dim.eps, x);
}

void GateUp::store(State& state, int, std::int64_t begin, std::int64_t end, float* y) const {
  add_bias(bias_, begin, end, y);
  state.kernels.silu(y, (end - begin) / 2, state.joined.data() + begin / 2);
}

void Down::fill(State& state, int, float* x) const { std::copy(state.joined.begin(), state.joined.end(), x); }

void Head::fill(State& state, int thread, float* x) const {
  state.best[static_cast<std::size_t>(thread)] = {-std::numeric_limits<float>::infinity(), 0};
  state.kernels.norm(state.residual.data(), norm_, state.dim.hidden, state.dim.eps, x);
}

void Head::store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const {
  State::Best& best = state.best[static_cast<std::size_t>(thread)];
  for (std::int64_t r = begin; r < end; ++r) {
    state.logits[static_cast<std::size_t>(r)] = y[r - begin];
    if (y[r - begin] > best.value) best = {y[r - begin], r};
  }
}

void Sample::run(State& state, int thread) const {
  if (thread != 0) return;
  state.token = choose(state);
  state.ring[static_cast<std::size_t>(state.position) % state.ring.size()] = state.token;
  state.position += 1;
  embed(state, embedding_);
}

}  // namespace memfloor
