// A small model with everything a layer may have, and a decoder over it.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "numbers.h"
#include "step.h"

namespace memfloor::test {

inline constexpr Dimensions kDim = {128, 256, 8, 2, 16, 301, 80, 1e-6f};
constexpr std::int64_t kLayers = 2;
// Of the second layer, which also has biases and norms of queries and keys; the first has none of them.
constexpr std::int64_t kWindow = 20;

// Weights of a model of kDim; their vectors outlive the steps over them.
struct Model {
  explicit Model(Format format)
      : embedding(Format::bf16, kDim.vocab, kDim.hidden), head(format, kDim.vocab, kDim.hidden) {
    fill(embedding);
    fill(head);
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      matrices.push_back(std::make_unique<Matrix>(format, kDim.qkv(), kDim.hidden));
      matrices.push_back(std::make_unique<Matrix>(format, kDim.hidden, kDim.query()));
      matrices.push_back(std::make_unique<Matrix>(format, 2 * kDim.intermediate, kDim.hidden));
      matrices.push_back(std::make_unique<Matrix>(format, kDim.hidden, kDim.intermediate));
    }
    for (const auto& matrix : matrices) fill(*matrix);
  }
  void fill(Matrix& matrix) {
    const MatrixView& m = matrix.view();
    Pool pool({0});
    const float scale = 1.0f / std::sqrt(static_cast<float>(m.columns));
    matrix.write_float(numbers.floats(m.rows * m.columns, scale).data(), m.rows, 0, 1, pool);
  }

  Numbers numbers{11};
  Matrix embedding, head;
  std::vector<std::unique_ptr<Matrix>> matrices;
  const std::vector<std::uint16_t> norm = numbers.bf16s(kDim.hidden, 0.1f, 1.0f);
  const std::vector<std::uint16_t> head_norm = numbers.bf16s(kDim.head_dim, 0.1f, 1.0f);
  const std::vector<std::uint16_t> bias = numbers.bf16s(2 * kDim.intermediate, 0.1f);
};

// A decoder of its own: threads, cache and step over a model.
struct Decoder {
  Decoder(const Model& m, KVFormat kv, int threads, const std::string& isa)
      : pool(cpus(threads)), cache(kv, kLayers, kDim.kv_heads, kDim.max_len, kDim.head_dim), step(kDim, isa, pool) {
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const auto* at = &m.matrices[static_cast<std::size_t>(layer * 4)];
      const bool plain = layer == 0;
      step.add_qkv(*at[0], m.norm.data(), plain ? nullptr : m.bias.data());
      step.add_attention(cache, layer, plain ? 0 : kWindow, plain ? nullptr : m.head_norm.data(),
                         plain ? nullptr : m.head_norm.data());
      step.add_output(*at[1], plain ? nullptr : m.bias.data());
      step.add_gate_up(*at[2], m.norm.data(), plain ? nullptr : m.bias.data());
      step.add_down(*at[3], plain ? nullptr : m.bias.data());
    }
    step.add_head(m.head, m.norm.data());
    step.add_sample(m.embedding);
    State& state = step.state();
    for (std::size_t i = 0; i < state.cosines.size(); ++i) {
      const double angle = static_cast<double>(i / 8) * std::pow(10000.0, -static_cast<double>(i % 8) / 8);
      state.cosines[i] = static_cast<float>(std::cos(angle));
      state.sines[i] = static_cast<float>(std::sin(angle));
    }
    step.start(7, 0);
  }
  static std::vector<int> cpus(int threads) {
    std::vector<int> out;
    for (int i = 0; i < threads; ++i) out.push_back(i % 2);
    return out;
  }
  // The logits of each of `count` steps, launched one by one.
  std::vector<float> decode(int count) {
    std::vector<float> all;
    for (int i = 0; i < count; ++i) {
      step.run_all(1);
      all.insert(all.end(), step.state().logits.begin(), step.state().logits.end());
    }
    return all;
  }

  Pool pool;
  KVCache cache;
  Step step;
};

}  // namespace memfloor::test
