// The logits of whole steps against a model in double precision that is written for reading.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "half.h"
#include "small_model.h"

using namespace memfloor;
using memfloor::test::kDim;
using memfloor::test::kLayers;
using memfloor::test::kWindow;
using memfloor::test::Model;
using memfloor::test::Trying;

namespace {

using Vector = std::vector<double>;

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

Vector product(const Matrix& matrix, const Vector& x, const std::uint16_t* bias) {
  const MatrixView& m = matrix.view();
  Vector y;
  for (std::int64_t row = 0; row < m.rows; ++row) {
    double sum = bias == nullptr ? 0.0 : bf16_to_float(bias[row]);
    for (std::int64_t k = 0; k < m.columns; ++k) sum += double{number_at(m, row, k)} * x[size_of(k)];
    y.push_back(sum);
  }
  return y;
}

// Of `size` numbers from `begin`; none without a weight.
Vector normed(const Vector& x, std::int64_t begin, std::int64_t size, const std::uint16_t* weight) {
  Vector y(x.begin() + begin, x.begin() + begin + size);
  if (weight == nullptr) return y;
  double squares = 0;
  for (const double one : y) squares += one * one;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(size) + kDim.eps);
  for (std::int64_t i = 0; i < size; ++i) y[size_of(i)] *= factor * bf16_to_float(weight[i]);
  return y;
}

Vector rotated(const Vector& x, std::int64_t position) {
  const std::int64_t half = kDim.head_dim / 2;
  Vector y = x;
  for (std::int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i) / half);
    y[size_of(i)] = x[size_of(i)] * std::cos(angle) - x[size_of(i + half)] * std::sin(angle);
    y[size_of(i + half)] = x[size_of(i + half)] * std::cos(angle) + x[size_of(i)] * std::sin(angle);
  }
  return y;
}

Vector kept(const Vector& x) {
  Vector y;
  for (const double one : x) y.push_back(bf16_to_float(float_to_bf16(static_cast<float>(one))));
  return y;
}

void add(Vector& x, const Vector& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

class Reference {
 public:
  explicit Reference(const Model& model) : model_(model), layers_(size_of(kLayers)) {}

  // The logits after a token, at the position that follows the last.
  Vector next(std::int32_t token) {
    Vector x;
    for (std::int64_t i = 0; i < kDim.hidden; ++i) x.push_back(number_at(model_.embedding.view(), token, i));
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const auto* at = &model_.matrices[size_of(layer * 4)];
      const std::uint16_t* bias = layer == 0 ? nullptr : model_.bias.data();
      const Vector qkv = product(*at[0], norm_all(x), bias);
      add(x, product(*at[1], attention(layer, qkv), bias));
      add(x, product(*at[3], joined(product(*at[2], norm_all(x), bias)), bias));
    }
    ++position_;
    return product(model_.head, norm_all(x), nullptr);
  }

 private:
  struct Slots {
    std::vector<Vector> keys[kDim.kv_heads], values[kDim.kv_heads];
  };

  Vector norm_all(const Vector& x) const { return normed(x, 0, kDim.hidden, model_.norm.data()); }

  // Gate and up rows take turns.
  static Vector joined(const Vector& pairs) {
    Vector y;
    for (std::size_t i = 0; i < pairs.size(); i += 2) y.push_back(pairs[i] / (1 + std::exp(-pairs[i])) * pairs[i + 1]);
    return y;
  }

  Vector attention(std::int64_t layer, const Vector& qkv) {
    Slots& slots = layers_[size_of(layer)];
    const std::uint16_t* head_norm = layer == 0 ? nullptr : model_.head_norm.data();
    const std::int64_t size = kDim.head_dim;
    for (std::int64_t h = 0; h < kDim.kv_heads; ++h) {
      const Vector key = normed(qkv, (kDim.heads + h) * size, size, head_norm);
      slots.keys[h].push_back(kept(rotated(key, position_)));
      slots.values[h].push_back(kept(normed(qkv, (kDim.heads + kDim.kv_heads + h) * size, size, nullptr)));
    }
    Vector out;
    for (std::int64_t h = 0; h < kDim.heads; ++h) {
      const Vector query = rotated(normed(qkv, h * size, size, head_norm), position_);
      const Vector one = attended(slots, h / kDim.group(), query, layer == 0 ? 0 : position_ + 1 - kWindow);
      out.insert(out.end(), one.begin(), one.end());
    }
    return out;
  }

  Vector attended(const Slots& slots, std::int64_t head, const Vector& query, std::int64_t begin) const {
    Vector out(query.size(), 0.0);
    double total = 0;
    for (std::int64_t s = std::max<std::int64_t>(0, begin); s <= position_; ++s) {
      double score = 0;
      for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * slots.keys[head][size_of(s)][d];
      const double weight = std::exp(score / std::sqrt(static_cast<double>(kDim.head_dim)));
      total += weight;
      for (std::size_t d = 0; d < query.size(); ++d) out[d] += weight * slots.values[head][size_of(s)][d];
    }
    for (double& one : out) one /= total;
    return out;
  }

  const Model& model_;
  std::vector<Slots> layers_;
  std::int64_t position_ = 0;
};

}  // namespace

TEST(steps_give_the_logits_of_a_model_in_double_precision) {
  const Model model(Format::bf16);
  for (const std::string& isa : usable_isas()) {
    for (const int threads : {1, 3}) {
      const Trying at(isa, threads, "threads");
      test::Decoder decoder(model, KVFormat::bf16, threads, isa);
      Reference reference(model);
      for (int step = 0; step < 40; ++step) {
        const Vector expected = reference.next(decoder.step.state().token);
        decoder.step.run_all(1);
        const std::vector<float>& logits = decoder.step.state().logits;
        const auto likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
        CHECK_EQUAL(decoder.step.state().token, likeliest);
        // Queries and weights of attention may be rounded to bf16: 2^-8 of what attention adds to logits of about 1.
        for (std::size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(logits[i], expected[i], 0.02);
      }
    }
  }
}
