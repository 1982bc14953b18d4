// Attention of one KV head against the same in double precision, over the numbers that the cache keeps.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cache.h"
#include "check.h"
#include "kernels.h"
#include "numbers.h"
#include "step.h"

using namespace memfloor;
using memfloor::test::kNaN;
using memfloor::test::Numbers;
using memfloor::test::Trying;

namespace {

constexpr std::int64_t kLength = 256;
constexpr std::int64_t kMostHeads = 16;

// A full cache of one head, and queries of as many heads as any test takes.
struct Fixture {
  Fixture(KVFormat format, std::int64_t head_dim)
      : cache(format, 1, 1, kLength, head_dim), head_dim(head_dim), scratch(kBlock, kMostHeads, head_dim) {
    Numbers numbers(static_cast<std::uint32_t>(head_dim));
    query = numbers.floats(kMostHeads * head_dim, 1.4f / std::sqrt(static_cast<float>(head_dim)));
    source = numbers.floats(2 * kLength * head_dim);
    for (std::int64_t slot = 0; slot < kLength; ++slot) restore(slot);
    keys.resize(static_cast<std::size_t>(kLength * head_dim));
    values.resize(keys.size());
    for (std::int64_t s = 0; s < kLength; ++s) {
      cache.read(0, 0, s, keys.data() + s * head_dim, values.data() + s * head_dim);
    }
  }
  void restore(std::int64_t slot) {
    const float* at = source.data() + 2 * slot * head_dim;
    cache.append(0, 0, slot, at, at + head_dim);
  }
  void poison(std::int64_t slot) {
    const std::vector<float> nan(static_cast<std::size_t>(head_dim), kNaN);
    cache.append(0, 0, slot, nan.data(), nan.data());
    if (cache.format() == KVFormat::bf16) return;
    const_cast<float*>(cache.key_scales(0, 0))[slot] = kNaN;
    const_cast<float*>(cache.value_scales(0, 0))[slot] = kNaN;
  }
  // Calls for each slot that shares a group of 16 with [begin, end) and lies outside.
  template <class Body>
  void outside(std::int64_t begin, std::int64_t end, const Body& body) {
    for (std::int64_t s = begin / kSlots * kSlots; s < begin; ++s) body(s);
    for (std::int64_t s = end; s % kSlots != 0; ++s) body(s);
  }

  KVCache cache;
  std::int64_t head_dim;
  Scratch scratch;
  std::vector<float> query, source, keys, values;
};

struct Attended {
  std::vector<float> sums, maxima, totals;
};

Attended attend(const Fixture& f, std::int64_t group, std::int64_t begin, std::int64_t end, const std::string& isa) {
  const auto filled = [](std::int64_t count) { return std::vector<float>(static_cast<std::size_t>(count), kNaN); };
  Attended out = {filled(group * f.head_dim), filled(group), filled(group)};
  const Scratch& scratch = f.scratch;
  std::copy(f.query.begin(), f.query.begin() + group * f.head_dim, scratch.query);
  std::fill(scratch.weights, scratch.weights + group * kSlotBlock, kNaN);
  HeadTask task;
  task.format = f.cache.format();
  task.group = group;
  task.head_dim = f.head_dim;
  task.query = scratch.query;
  task.keys = f.cache.keys(0, 0);
  task.values = f.cache.values(0, 0);
  task.key_scales = f.cache.key_scales(0, 0);
  task.value_scales = f.cache.value_scales(0, 0);
  task.begin = begin;
  task.end = end;
  task.weights = scratch.weights;
  task.packed_weights = scratch.packed_weights;
  task.packed_query = scratch.packed_query;
  task.sums = out.sums.data();
  task.maxima = out.maxima.data();
  task.totals = out.totals.data();
  kernels_of(isa).attend(task);
  return out;
}

// One query head in double precision: attended values, and what bounds the error of a kernel's.
struct Reference {
  std::vector<double> output, magnitude;
  // log2 of the sum of weights, largest score included.
  double log2_total = 0;
  // Of a score, from float32.
  double score_error = 0;
};

Reference reference_of(const Fixture& f, std::int64_t head, std::int64_t begin, std::int64_t end, bool round_query) {
  std::vector<double> scores;
  double most_products = 0;
  for (std::int64_t s = begin; s < end; ++s) {
    double score = 0, products = 0;
    for (std::int64_t d = 0; d < f.head_dim; ++d) {
      const float query = f.query[static_cast<std::size_t>(head * f.head_dim + d)];
      const double product = double{round_query ? bf16_to_float(float_to_bf16(query)) : query} *
                             f.keys[static_cast<std::size_t>(s * f.head_dim + d)];
      score += product;
      products += std::fabs(product);
    }
    scores.push_back(score);
    most_products = std::max(most_products, products);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  Reference r;
  r.output.assign(static_cast<std::size_t>(f.head_dim), 0.0);
  r.magnitude = r.output;
  double total = 0;
  for (const double score : scores) total += std::exp2(score - largest);
  for (std::int64_t s = begin; s < end; ++s) {
    const double share = std::exp2(scores[static_cast<std::size_t>(s - begin)] - largest) / total;
    for (std::int64_t d = 0; d < f.head_dim; ++d) {
      const double value = f.values[static_cast<std::size_t>(s * f.head_dim + d)];
      r.output[static_cast<std::size_t>(d)] += share * value;
      r.magnitude[static_cast<std::size_t>(d)] += share * std::fabs(value);
    }
  }
  r.log2_total = largest + std::log2(total);
  r.score_error = static_cast<double>(f.head_dim + 2) * 0x1p-24 * most_products;
  return r;
}

// A weight's relative error is that of 2^score, of the polynomial and of some rescalings; sums add one per slot. Where
// weights are rounded to bf16 each is off by 2^-8 of itself.
void check_head(const Attended& got, std::int64_t head, std::int64_t slots, const Reference& r,
                bool bf16_weights) {
  const double weight_error = r.score_error + 8 * 0x1p-23;
  const double sum_error = static_cast<double>(slots + 4) * 0x1p-24;
  const std::size_t h = static_cast<std::size_t>(head);
  CHECK_NEAR(got.maxima[h] + std::log2(got.totals[h]), r.log2_total, 2 * (weight_error + sum_error) + 1e-6);
  for (std::size_t d = 0; d < r.output.size(); ++d) {
    const double output = double{got.sums[h * r.output.size() + d]} / got.totals[h];
    const double share_error = 2 * (weight_error + sum_error) + (bf16_weights ? 0x1p-8 : 0.0);
    CHECK_NEAR(output, r.output[d], share_error * r.magnitude[d] + 1e-30);
  }
}

void check_window(Fixture& f, std::int64_t begin, std::int64_t end) {
  std::vector<Reference> plain, rounded;
  for (std::int64_t head = 0; head < kMostHeads; ++head) plain.push_back(reference_of(f, head, begin, end, false));
  for (std::int64_t head = 0; head < kMostHeads; ++head) rounded.push_back(reference_of(f, head, begin, end, true));
  for (const std::string& isa : usable_isas()) {
    // It multiplies pairs of bf16, and so rounds what it multiplies keys and values with.
    const bool rounds = isa == "avx512-bf16" && f.cache.format() == KVFormat::bf16;
    for (const std::int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16}) {
      const Trying at(isa, "group", group);
      const Attended got = attend(f, group, begin, end, isa);
      for (std::int64_t head = 0; head < group; ++head) {
        const std::size_t h = static_cast<std::size_t>(head);
        check_head(got, head, end - begin, rounds ? rounded[h] : plain[h], rounds);
      }
    }
  }
}

template <class Body>
void for_every_window(const Body& body) {
  for (const KVFormat format : {KVFormat::bf16, KVFormat::int8}) {
    for (const std::int64_t head_dim : {16, 48, 64, 80, 128}) {
      Fixture fixture(format, head_dim);
      for (const std::int64_t begin : {0, 16, 21}) {
        for (const std::int64_t length : {1, 15, 16, 17, 63, 64, 65, 200}) {
          const Trying at(format == KVFormat::bf16 ? "bf16" : "int8", head_dim, "slots", begin, begin + length);
          body(fixture, begin, begin + length);
        }
      }
    }
  }
}

}  // namespace

TEST(attention_is_that_of_double_precision) { for_every_window(check_window); }

// What another decode left in slots outside the window, numbers or none, must not reach the result.
TEST(attention_ignores_what_lies_outside_its_window) {
  for_every_window([](Fixture& f, std::int64_t begin, std::int64_t end) {
    for (const std::string& isa : usable_isas()) {
      for (const std::int64_t group : {3, 8}) {
        const Trying at(isa, "group", group);
        const Attended before = attend(f, group, begin, end, isa);
        f.outside(begin, end, [&](std::int64_t slot) { f.poison(slot); });
        const Attended after = attend(f, group, begin, end, isa);
        f.outside(begin, end, [&](std::int64_t slot) { f.restore(slot); });
        CHECK(before.sums == after.sums);
        CHECK(before.maxima == after.maxima);
        CHECK(before.totals == after.totals);
      }
    }
  });
}

TEST(attention_to_no_slot_weighs_nothing) {
  const Fixture f(KVFormat::bf16, 16);
  for (const std::string& isa : usable_isas()) {
    const Trying at(isa);
    for (const std::int64_t begin : {0, 32}) {
      const Attended got = attend(f, 2, begin, begin, isa);
      CHECK(got.sums == std::vector<float>(32, 0.0f));
      CHECK(got.totals == std::vector<float>(2, 0.0f));
      CHECK(got.maxima == std::vector<float>(2, -std::numeric_limits<float>::infinity()));
    }
  }
}

// Scores that rise by far more than a float's range: weights before them vanish and nothing overflows.
TEST(attention_holds_where_scores_are_far_apart) {
  Fixture f(KVFormat::bf16, 16);
  for (float& q : f.query) q *= 400.0f;
  for (const std::string& isa : usable_isas()) {
    const Trying at(isa);
    const Attended got = attend(f, 4, 0, 200, isa);
    for (std::int64_t head = 0; head < 4; ++head) {
      const bool rounds = isa == "avx512-bf16";
      check_head(got, head, 200, reference_of(f, head, 0, 200, rounds), rounds);
    }
  }
}
