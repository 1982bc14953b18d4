// A team of pinned threads that spins between two pieces of work and sleeps when there is none.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace memfloor {

// Threads meet here by spinning: a futex wake would cost more than the skew it is to hide.
class SpinBarrier {
 public:
  explicit SpinBarrier(int count) : count_(count) {}
  void wait();

 private:
  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

// Tells the processor that this thread is spinning.
void spin_pause();

// Binds the calling thread to a CPU; a refusal leaves it where the scheduler puts it.
void pin_to(int cpu);

class Pool {
 public:
  // One thread per CPU; the thread that calls run() is the first of them.
  explicit Pool(std::vector<int> cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return static_cast<int>(cpus_.size()); }
  const std::vector<int>& cpus() const { return cpus_; }

  // Runs body(index) on every thread and returns when all have ended. Only one thread may call it at a time.
  void run(const std::function<void(int)>& body);

 private:
  void work(int index);
  int wait_for_work(int seen);

  std::vector<int> cpus_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* body_ = nullptr;
  alignas(64) std::atomic<int> generation_{0};
  alignas(64) std::atomic<int> working_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace memfloor
