// A small model's whole step: the same bits however it is run.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "formats.h"
#include "small_model.h"

using namespace memfloor;
using memfloor::test::Decoder;
using memfloor::test::kDim;
using memfloor::test::Model;
using memfloor::test::Trying;

namespace {

template <class Body>
void for_every_cell(const Body& body) {
  for (const Format format : test::kFormats) {
    const Model model(format);
    for (const KVFormat kv : {KVFormat::bf16, KVFormat::int8}) {
      for (const std::string& isa : usable_isas()) {
        const Trying at(isa, test::name_of(format), kv == KVFormat::bf16 ? "kv bf16" : "kv int8");
        body(model, kv, isa);
      }
    }
  }
}

void check_same(const Decoder& a, const Decoder& b) {
  // Step gives no const view of its state.
  const State& left = const_cast<Decoder&>(a).step.state();
  const State& right = const_cast<Decoder&>(b).step.state();
  CHECK(left.logits == right.logits);
  CHECK(left.residual == right.residual);
  CHECK(left.ring == right.ring);
  CHECK_EQUAL(left.token, right.token);
  CHECK_EQUAL(left.position, right.position);
  CHECK(std::equal(a.cache.keys(0, 0), a.cache.keys(0, 0) + a.cache.bytes(), b.cache.keys(0, 0)));
}

}  // namespace

TEST(one_by_one_and_all_at_once_give_the_same_bits) {
  for_every_cell([](const Model& model, KVFormat kv, const std::string& isa) {
    Decoder eager(model, kv, 2, isa), graph(model, kv, 2, isa);
    // Past the end of a group of slots, and of the window.
    for (Decoder* d : {&eager, &graph}) d->step.start(7, 12);
    for (int step = 0; step < 10; ++step) {
      for (std::int64_t i = 0; i < eager.step.size(); ++i) eager.step.run(i);
      graph.step.run_all(1);
    }
    check_same(eager, graph);
  });
}

TEST(any_number_of_threads_gives_the_same_bits_one_by_one_and_all_at_once) {
  const Model model(Format::int8);
  for (const int threads : {1, 2, 3, 5}) {
    const Trying at(threads, "threads");
    Decoder eager(model, KVFormat::bf16, threads, usable_isas().front());
    Decoder graph(model, KVFormat::bf16, threads, usable_isas().front());
    for (int step = 0; step < 20; ++step) {
      for (std::int64_t i = 0; i < eager.step.size(); ++i) eager.step.run(i);
    }
    graph.step.run_all(20);
    check_same(eager, graph);
  }
}

TEST(steps_in_one_call_or_timed_give_the_same_bits) {
  for_every_cell([](const Model& model, KVFormat kv, const std::string& isa) {
    Decoder single(model, kv, 2, isa), many(model, kv, 2, isa), timed(model, kv, 2, isa);
    for (int step = 0; step < 12; ++step) single.step.run_all(1);
    for (int call = 0; call < 3; ++call) many.step.run_all(4);
    const std::vector<double> seconds = timed.step.run_timed(12);
    CHECK_EQUAL(static_cast<std::int64_t>(seconds.size()), 12 * timed.step.size());
    for (const double one : seconds) CHECK(one >= 0);
    check_same(single, many);
    check_same(single, timed);
  });
}

// A row's product is one thread's work, so that only attention sees the number of threads: by the parts that slots are
// cut into, threads / gcd(threads, KV heads). Equal parts give equal bits; other parts other sums of the same numbers.
TEST(thread_counts_with_the_same_parts_give_the_same_bits) {
  for_every_cell([](const Model& model, KVFormat kv, const std::string& isa) {
    Decoder one(model, kv, 1, isa), two(model, kv, 2, isa);
    for (Decoder* d : {&one, &two}) d->step.run_all(40);
    check_same(one, two);
  });
  const Model model(Format::bf16);
  Decoder three(model, KVFormat::bf16, 3, usable_isas().front()), six(model, KVFormat::bf16, 6, usable_isas().front());
  for (Decoder* d : {&three, &six}) d->step.run_all(24);
  check_same(three, six);
}

TEST(other_thread_counts_give_the_same_logits_but_for_rounding) {
  const Model model(Format::bf16);
  for (const std::string& isa : usable_isas()) {
    const std::vector<float> expected = Decoder(model, KVFormat::bf16, 1, isa).decode(40);
    for (const int threads : {3, 5}) {
      const Trying at(isa, threads, "threads");
      Decoder many(model, KVFormat::bf16, threads, isa);
      CHECK_EQUAL(many.step.state().splits, threads);
      const std::vector<float> got = many.decode(40);
      // Attention weights in bf16 are rounded against another maximum: 2^-8 of what attention adds, a part of the
      // logits; otherwise keys that round to another bf16 are what makes a difference, one unit in 2^8 of few.
      for (std::size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], 0.05);
    }
  }
}

TEST(instruction_sets_agree_on_the_logits) {
  for (const Format format : test::kFormats) {
    const Model model(format);
    const std::vector<float> expected = Decoder(model, KVFormat::int8, 1, "portable").decode(30);
    for (const std::string& isa : usable_isas()) {
      const Trying at(isa, test::name_of(format));
      const std::vector<float> got = Decoder(model, KVFormat::int8, 1, isa).decode(30);
      for (std::size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], 0.05);
    }
  }
}

// After a longer decode, slots beyond the position hold what it left.
TEST(a_decode_does_not_depend_on_what_another_left) {
  for_every_cell([](const Model& model, KVFormat kv, const std::string& isa) {
    Decoder fresh(model, kv, 1, isa), used(model, kv, 1, isa);
    used.step.run_all(kDim.max_len);
    used.step.start(7, 0);
    fresh.step.run_all(21);
    used.step.run_all(21);
    CHECK(fresh.step.state().logits == used.step.state().logits);
    CHECK_EQUAL(fresh.step.state().token, used.step.state().token);
  });
}

TEST(the_ring_holds_each_positions_token) {
  const Model model(Format::bf16);
  Decoder d(model, KVFormat::bf16, 2, usable_isas().front());
  d.step.state().sampling = {1.0f, 0.9f, 3};
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 40; ++i) {
    d.step.run_all(1);
    tokens.push_back(d.step.state().token);
  }
  CHECK(std::equal(tokens.begin(), tokens.end(), d.step.state().ring.begin()));
  CHECK_EQUAL(d.step.state().position, 40);
  // The same seed from the same start gives the same tokens.
  Decoder again(model, KVFormat::bf16, 2, usable_isas().front());
  again.step.state().sampling = {1.0f, 0.9f, 3};
  again.step.run_all(40);
  CHECK(std::equal(tokens.begin(), tokens.end(), again.step.state().ring.begin()));
}

TEST(positions_and_tokens_that_are_not_there_are_refused) {
  const Model model(Format::bf16);
  Decoder d(model, KVFormat::bf16, 2, "portable");
  CHECK_THROWS(std::out_of_range, d.step.start(-1, 0));
  CHECK_THROWS(std::out_of_range, d.step.start(static_cast<std::int32_t>(kDim.vocab), 0));
  CHECK_THROWS(std::out_of_range, d.step.start(0, -1));
  CHECK_THROWS(std::out_of_range, d.step.start(0, static_cast<std::int32_t>(kDim.max_len)));
  CHECK_THROWS(std::out_of_range, d.step.run(-1));
  CHECK_THROWS(std::out_of_range, d.step.run(d.step.size()));
  d.step.start(7, static_cast<std::int32_t>(kDim.max_len) - 2);
  CHECK_THROWS(std::out_of_range, d.step.run_all(3));
  CHECK_THROWS(std::out_of_range, d.step.run_timed(3));
  d.step.run_all(2);
  CHECK_THROWS(std::out_of_range, d.step.run_all(1));
  CHECK_THROWS(std::out_of_range, d.step.run(0));
}

TEST(dimensions_that_do_not_fit_are_refused) {
  Pool pool({0});
  const auto with = [&](const Dimensions& d) { Step(d, "portable", pool); };
  CHECK_THROWS(std::invalid_argument, with({0, 256, 8, 2, 16, 301, 80, 1e-6f}));
  CHECK_THROWS(std::invalid_argument, with({128, 256, 8, 3, 16, 301, 80, 1e-6f}));
  CHECK_THROWS(std::invalid_argument, with({128, 256, 8, 2, 24, 301, 80, 1e-6f}));
  CHECK_THROWS(std::invalid_argument, with({128, 256, 8, 2, 16, 301, 0, 1e-6f}));
  CHECK_THROWS(std::invalid_argument, Step(kDim, "mmx", pool));
}

TEST(weights_and_caches_of_another_shape_are_refused) {
  Pool pool({0});
  Step step(kDim, "portable", pool);
  const Matrix wrong(Format::bf16, 128, 132);
  const std::vector<std::uint16_t> norm(132, 0);
  CHECK_THROWS(std::invalid_argument, step.add_qkv(wrong, norm.data(), nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_output(wrong, nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_gate_up(wrong, norm.data(), nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_down(wrong, nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_head(wrong, norm.data()));
  CHECK_THROWS(std::invalid_argument, step.add_sample(wrong));
  const Matrix embedding(Format::int8, kDim.vocab, kDim.hidden);
  CHECK_THROWS(std::invalid_argument, step.add_sample(embedding));
  CHECK_THROWS(std::logic_error, step.start(0, 0));
  KVCache heads(KVFormat::bf16, 1, 4, 80, 16), length(KVFormat::bf16, 1, 2, 64, 16), good(KVFormat::bf16, 1, 2, 80, 16);
  CHECK_THROWS(std::invalid_argument, step.add_attention(heads, 0, 0, nullptr, nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_attention(length, 0, 0, nullptr, nullptr));
  CHECK_THROWS(std::invalid_argument, step.add_attention(good, 1, 0, nullptr, nullptr));
  CHECK_EQUAL(step.size(), 0);
}
