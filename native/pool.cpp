#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <stdexcept>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace memfloor {
namespace {

// More threads than free cores must not live-lock each other: after so many turns a spinning thread yields.
constexpr int kSpinsBeforeYield = 1 << 14;
// Turns an idle thread spins before it sleeps: some hundred microseconds, far more than Python needs between calls.
constexpr int kSpinsBeforeSleep = 1 << 15;

}  // namespace

void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pin_to(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void SpinBarrier::wait() {
  const int generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    return;
  }
  int spins = 0;
  while (generation_.load(std::memory_order_acquire) == generation) {
    spin_pause();
    if (++spins > kSpinsBeforeYield) std::this_thread::yield();
  }
}

Pool::Pool(std::vector<int> cpus) : cpus_(std::move(cpus)) {
  if (cpus_.empty()) throw std::invalid_argument("a pool needs at least one CPU");
  for (int index = 1; index < size(); ++index) threads_.emplace_back([this, index] { work(index); });
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::run(const std::function<void(int)>& body) {
  body_ = &body;
  working_.store(size() - 1, std::memory_order_relaxed);
  {
    // Held for an instant only: a thread between its last look and its sleep must not miss the change.
    const std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  body(0);
  int spins = 0;
  while (working_.load(std::memory_order_acquire) != 0) {
    spin_pause();
    if (++spins > kSpinsBeforeYield) std::this_thread::yield();
  }
}

void Pool::work(int index) {
  pin_to(cpus_[static_cast<std::size_t>(index)]);
  int seen = 0;
  while (true) {
    seen = wait_for_work(seen);
    if (stop_.load()) return;
    (*body_)(index);
    working_.fetch_sub(1, std::memory_order_release);
  }
}

int Pool::wait_for_work(int seen) {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    const int generation = generation_.load(std::memory_order_acquire);
    if (generation != seen) return generation;
    spin_pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
  return generation_.load(std::memory_order_acquire);
}

}  // namespace memfloor
