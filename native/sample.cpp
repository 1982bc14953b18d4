// The choice of the next token, and the embedding that starts the next step.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "step.h"

namespace memfloor {
namespace {

// Classes of likelihood, by the distance of a logit to the largest in units of the temperature.
constexpr int kBins = 1024;
// Beyond this distance e^-d is nothing beside the likeliest token, whatever the vocabulary's size.
constexpr float kFarthest = 32.0f;

// A number in [0, 1) from a seed and a counter. Source: splitmix64, Steele, Lea and Flood, OOPSLA 2014.
double uniform(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

std::int32_t likeliest(const State& state) {
  // Threads own rising rows, so that the first of equals is the lowest token.
  const State::Best* best = &state.best.front();
  for (const State::Best& other : state.best) {
    if (other.value > best->value) best = &other;
  }
  return static_cast<std::int32_t>(best->token);
}

struct Weight {
  float distance;
  std::int32_t token;
};

double weight_of(const Weight& w) { return std::exp(-static_cast<double>(w.distance)); }

// The smallest set of likeliest tokens whose share reaches top_p, likeliest class first.
std::vector<Weight> nucleus(const State& state, float largest) {
  std::vector<Weight> near;
  std::array<double, kBins> mass{};
  const auto bin = [](float distance) { return static_cast<int>(distance * ((kBins - 1) / kFarthest)); };
  double total = 0;
  for (std::size_t i = 0; i < state.logits.size(); ++i) {
    const Weight w = {(largest - state.logits[i]) / state.sampling.temperature, static_cast<std::int32_t>(i)};
    if (!(w.distance < kFarthest)) continue;
    near.push_back(w);
    mass[static_cast<std::size_t>(bin(w.distance))] += weight_of(w);
    total += weight_of(w);
  }
  if (state.sampling.top_p >= 1.0f) return near;
  const double wanted = static_cast<double>(state.sampling.top_p) * total;
  double reached = 0;
  int last = 0;
  while (last < kBins - 1 && reached + mass[static_cast<std::size_t>(last)] < wanted) reached += mass[static_cast<std::size_t>(last++)];
  std::vector<Weight> kept, border;
  for (const Weight& w : near) {
    if (bin(w.distance) < last) kept.push_back(w);
    if (bin(w.distance) == last) border.push_back(w);
  }
  // Only the class that holds the border need be sorted.
  std::sort(border.begin(), border.end(), [](const Weight& a, const Weight& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.token < b.token;
  });
  for (const Weight& w : border) {
    kept.push_back(w);
    reached += weight_of(w);
    if (reached >= wanted) break;
  }
  return kept;
}

std::int32_t draw(const std::vector<Weight>& tokens, double fraction) {
  double total = 0;
  for (const Weight& w : tokens) total += weight_of(w);
  double left = fraction * total;
  for (const Weight& w : tokens) {
    left -= weight_of(w);
    if (left < 0) return w.token;
  }
  return tokens.back().token;
}

}  // namespace

std::int32_t choose(const State& state) {
  const std::int32_t best = likeliest(state);
  if (state.sampling.temperature <= 0.0f) return best;
  const std::vector<Weight> tokens = nucleus(state, state.logits[static_cast<std::size_t>(best)]);
  // Logits that are no numbers are near nothing.
  if (tokens.empty()) return best;
  return draw(tokens, uniform(state.sampling.seed, static_cast<std::uint64_t>(state.position)));
}

void embed(State& state, const MatrixView& table) {
  for (std::int64_t i = 0; i < state.dim.hidden; ++i) {
    state.residual[static_cast<std::size_t>(i)] = number_at(table, state.token, i);
  }
}

}  // namespace memfloor
