// The choice of a token from logits that are known by hand.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "check.h"
#include "numbers.h"
#include "step.h"

using namespace memfloor;
using memfloor::test::Trying;

namespace {

// A state with these logits, as the head leaves them.
struct Fixture {
  explicit Fixture(const std::vector<float>& logits)
      : state({16, 4, 1, 1, 16, static_cast<std::int64_t>(logits.size()), 1, 1e-6f}, kernels_of("portable"), 1) {
    state.logits = logits;
    const auto most = std::max_element(logits.begin(), logits.end());
    state.best[0] = {*most, most - logits.begin()};
  }
  std::int32_t choose_at(std::int32_t position) {
    state.position = position;
    return choose(state);
  }
  // Every token that is ever drawn.
  std::set<std::int32_t> drawn(float top_p) {
    state.sampling = {1.0f, top_p, 5};
    std::set<std::int32_t> tokens;
    for (std::int32_t position = 0; position < 2000; ++position) tokens.insert(choose_at(position));
    return tokens;
  }

  State state;
};

std::vector<float> logs(const std::vector<double>& shares) {
  std::vector<float> out;
  for (const double share : shares) out.push_back(static_cast<float>(std::log(share)) + 3.0f);
  return out;
}

}  // namespace

TEST(greedy_takes_the_likeliest_of_any_thread_and_the_first_of_equals) {
  Fixture f({0.0f, 2.0f, 1.0f, 2.0f});
  f.state.sampling = {0.0f, 0.3f, 9};
  CHECK_EQUAL(f.choose_at(0), 1);
  f.state.best = {{1.5f, 2}, {2.5f, 7}, {2.5f, 9}, {-std::numeric_limits<float>::infinity(), 0}};
  CHECK_EQUAL(f.choose_at(0), 7);
}

TEST(top_p_keeps_the_smallest_set_that_reaches_it) {
  using Tokens = std::set<std::int32_t>;
  Fixture f(logs({0.05, 0.5, 0.15, 0.3}));
  CHECK(f.drawn(1.0f) == (Tokens{0, 1, 2, 3}));
  CHECK(f.drawn(0.97f) == (Tokens{0, 1, 2, 3}));
  CHECK(f.drawn(0.9f) == (Tokens{1, 2, 3}));
  CHECK(f.drawn(0.75f) == (Tokens{1, 3}));
  CHECK(f.drawn(0.45f) == (Tokens{1}));
  CHECK(f.drawn(0.0f) == (Tokens{1}));
}

// Tokens of one class of likelihood: order within it decides, and of equals the lowest come first.
TEST(top_p_cuts_inside_a_class) {
  using Tokens = std::set<std::int32_t>;
  CHECK(Fixture(logs({0.2, 0.2, 0.2, 0.2, 0.2})).drawn(0.5f) == (Tokens{0, 1, 2}));
  CHECK(Fixture(logs({0.199, 0.2, 0.202, 0.198, 0.201})).drawn(0.5f) == (Tokens{1, 2, 4}));
  CHECK(Fixture(logs({0.5, 0.1, 0.101, 0.102, 0.197})).drawn(0.75f) == (Tokens{0, 3, 4}));
}

TEST(tokens_are_drawn_as_often_as_they_are_likely) {
  const std::vector<float> logits = {0.0f, 1.0f, -1.0f, 0.5f, 2.0f, 1.5f, -2.0f, 0.25f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    const Trying at("temperature", temperature);
    Fixture f(logits);
    f.state.sampling = {temperature, 1.0f, 1234};
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    constexpr int kDraws = 20000;
    std::vector<int> counts(logits.size(), 0);
    for (std::int32_t i = 0; i < kDraws; ++i) ++counts[static_cast<std::size_t>(f.choose_at(i))];
    double chi_square = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double expected = kDraws * std::exp(logits[i] / temperature) / total;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    // One in a thousand seeds gives more with seven degrees of freedom; this one does not.
    CHECK(chi_square < 24.32);
  }
}

TEST(a_draw_depends_on_seed_and_position_alone) {
  Fixture a(std::vector<float>(1000, 0.0f)), b(std::vector<float>(1000, 0.0f));
  a.state.sampling = b.state.sampling = {1.0f, 1.0f, 42};
  std::vector<std::int32_t> forward, backward, other;
  for (std::int32_t position = 0; position < 100; ++position) forward.push_back(a.choose_at(position));
  for (std::int32_t position = 99; position >= 0; --position) backward.push_back(b.choose_at(position));
  std::reverse(backward.begin(), backward.end());
  CHECK(forward == backward);
  b.state.sampling.seed = 43;
  for (std::int32_t position = 0; position < 100; ++position) other.push_back(b.choose_at(position));
  CHECK(forward != other);
  CHECK(std::set<std::int32_t>(forward.begin(), forward.end()).size() > 80);
}

// A model that overflowed still gets a token of its vocabulary.
TEST(logits_that_are_no_numbers_give_a_token) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {test::kNaN, kInfinity, -kInfinity}) {
    for (const float top_p : {0.5f, 1.0f}) {
      const Trying at(bad, top_p);
      Fixture all(std::vector<float>(8, bad)), one({0.0f, bad, 1.0f});
      all.state.best[0] = {-kInfinity, 0};
      all.state.sampling = one.state.sampling = {1.0f, top_p, 0};
      const std::int32_t first = all.choose_at(0), second = one.choose_at(0);
      CHECK(first >= 0 && first < 8);
      CHECK(second >= 0 && second < 3);
    }
  }
}
