// Threads of a pool run every body once, meet at barriers, sleep and wake; more of them than CPUs too.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "pool.h"

using namespace memfloor;
using memfloor::test::Trying;

namespace {


// CPUs take turns; one that is not there leaves its thread where the scheduler puts it.
std::vector<int> cpus_for(int threads) {
  std::vector<int> cpus;
  for (int i = 0; i < threads; ++i) cpus.push_back(i % 2);
  return cpus;
}

}  // namespace

TEST(every_thread_runs_every_body_once) {
  for (int threads = 1; threads <= 8; ++threads) {
    const Trying at(threads, "threads");
    Pool pool(cpus_for(threads));
    CHECK_EQUAL(pool.size(), threads);
    // Not atomic: the pool orders a run before the next, on whatever thread.
    std::vector<int> counts(static_cast<std::size_t>(threads), 0);
    // Threads that share a CPU wait for its scheduler.
    const int runs = threads <= 2 ? 1000 : 40;
    for (int run = 0; run < runs; ++run) pool.run([&](int thread) { ++counts[static_cast<std::size_t>(thread)]; });
    for (const int count : counts) CHECK_EQUAL(count, runs);
  }
}

TEST(what_one_run_writes_every_thread_reads_in_the_next) {
  Pool pool(cpus_for(3));
  std::vector<int> left(3, 0), right(3, 0);
  for (int run = 1; run <= 50; ++run) {
    pool.run([&](int thread) { left[static_cast<std::size_t>(thread)] = run; });
    pool.run([&](int thread) {
      right[static_cast<std::size_t>(thread)] = left[static_cast<std::size_t>((thread + 1) % 3)];
    });
    for (const int seen : right) CHECK_EQUAL(seen, run);
  }
}

// The way of run_all: phases within one run, kept apart by a barrier alone.
TEST(a_barrier_keeps_phases_apart) {
  for (const int threads : {1, 2, 3, 5, 8}) {
    const Trying at(threads, "threads");
    Pool pool(cpus_for(threads));
    SpinBarrier barrier(threads);
    std::vector<int> phases(static_cast<std::size_t>(threads), 0);
    std::atomic<int> wrong{0};
    for (int run = 0; run < 5; ++run) {
      pool.run([&](int thread) {
        for (int phase = 0; phase < 10; ++phase) {
          ++phases[static_cast<std::size_t>(thread)];
          barrier.wait();
          for (const int seen : phases) wrong += seen != run * 10 + phase + 1;
          barrier.wait();
        }
      });
    }
    CHECK_EQUAL(wrong.load(), 0);
  }
}

TEST(threads_that_slept_wake) {
  for (const int threads : {2, 4}) {
    const Trying at(threads, "threads");
    Pool pool(cpus_for(threads));
    std::atomic<int> ran{0};
    for (int run = 0; run < 20; ++run) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      pool.run([&](int) { ++ran; });
    }
    CHECK_EQUAL(ran.load(), 20 * threads);
  }
}

TEST(a_pool_may_end_while_threads_spin_or_sleep) {
  for (int round = 0; round < 20; ++round) {
    Pool idle(cpus_for(3));
    if (round % 2 == 0) idle.run([](int) {});
    if (round % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(pools_live_side_by_side) {
  Pool first(cpus_for(2)), second(cpus_for(3));
  std::atomic<int> ran{0};
  for (int run = 0; run < 50; ++run) {
    first.run([&](int) { ++ran; });
    second.run([&](int) { ++ran; });
  }
  CHECK_EQUAL(ran.load(), 250);
}

TEST(a_pool_without_cpus_is_refused) { CHECK_THROWS(std::invalid_argument, Pool({})); }
