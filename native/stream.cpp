#include "stream.h"

#include <chrono>
#include <functional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace memfloor {
namespace {

// Words fetched ahead of the read where software prefetch is asked for: 64 cache lines. Past the end of the buffer a
// prefetch does nothing.
constexpr std::size_t kPrefetchWords = 64 * 8;

void run_pinned(const std::vector<int>& cpus, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(cpus.size());
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    threads.emplace_back([&, i] {
      pin_to(cpus[i]);
      body(static_cast<int>(i));
    });
  }
  for (auto& thread : threads) thread.join();
}

std::uint64_t* words(const Buffer& buffer) { return reinterpret_cast<std::uint64_t*>(buffer.data()); }

using ReadPart = std::uint64_t (*)(const std::uint64_t*, std::size_t);

template <bool Ahead>
std::uint64_t read_portable(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sum[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    if (Ahead) __builtin_prefetch(words + i + kPrefetchWords);
    for (int j = 0; j < 8; ++j) sum[j] += words[i + j];
  }
  for (; i < count; ++i) sum[0] += words[i];
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

#if defined(__x86_64__)
template <bool Ahead>
__attribute__((target("avx512f"))) std::uint64_t read_avx512(const std::uint64_t* words, std::size_t count) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    for (std::size_t line = 0; Ahead && line < 32; line += 8) __builtin_prefetch(words + i + kPrefetchWords + line);
    a = _mm512_add_epi64(a, _mm512_loadu_si512(words + i));
    b = _mm512_add_epi64(b, _mm512_loadu_si512(words + i + 8));
    c = _mm512_add_epi64(c, _mm512_loadu_si512(words + i + 16));
    d = _mm512_add_epi64(d, _mm512_loadu_si512(words + i + 24));
  }
  alignas(64) std::uint64_t lanes[8];
  _mm512_store_si512(lanes, _mm512_add_epi64(_mm512_add_epi64(a, b), _mm512_add_epi64(c, d)));
  std::uint64_t sum = read_portable<Ahead>(words + i, count - i);
  for (const std::uint64_t lane : lanes) sum += lane;
  return sum;
}

template <bool Ahead>
__attribute__((target("avx2"))) std::uint64_t read_avx2(const std::uint64_t* words, std::size_t count) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  std::size_t i = 0;
  const auto at = [&](std::size_t j) { return reinterpret_cast<const __m256i*>(words + i + j); };
  for (; i + 16 <= count; i += 16) {
    for (std::size_t line = 0; Ahead && line < 16; line += 8) __builtin_prefetch(words + i + kPrefetchWords + line);
    a = _mm256_add_epi64(a, _mm256_loadu_si256(at(0)));
    b = _mm256_add_epi64(b, _mm256_loadu_si256(at(4)));
    c = _mm256_add_epi64(c, _mm256_loadu_si256(at(8)));
    d = _mm256_add_epi64(d, _mm256_loadu_si256(at(12)));
  }
  alignas(32) std::uint64_t lanes[4];
  const __m256i total = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + read_portable<Ahead>(words + i, count - i);
}
#endif

template <bool Ahead>
ReadPart read_part() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512<Ahead>;
  if (__builtin_cpu_supports("avx2")) return read_avx2<Ahead>;
#endif
  return read_portable<Ahead>;
}

// The part [begin, end) of `count` items that thread `index` of `threads` works on, in whole cache lines.
std::pair<std::size_t, std::size_t> part(std::size_t count, int index, int threads) {
  const std::size_t lines = count / 8;
  const std::size_t begin = lines * index / threads * 8;
  const std::size_t end = index + 1 == threads ? count : lines * (index + 1) / threads * 8;
  return {begin, end};
}

StreamResult run_passes(const std::vector<int>& cpus, int passes, const std::function<std::uint64_t(int)>& pass) {
  if (cpus.empty()) throw std::invalid_argument("at least one CPU is needed");
  if (passes < 1) throw std::invalid_argument("at least one pass is needed");
  using Clock = std::chrono::steady_clock;
  SpinBarrier barrier(static_cast<int>(cpus.size()));
  std::vector<std::uint64_t> sums(cpus.size(), 0);
  StreamResult result;
  result.pass_seconds.resize(static_cast<std::size_t>(passes));
  run_pinned(cpus, [&](int index) {
    for (int p = 0; p < passes; ++p) {
      barrier.wait();
      const auto start = Clock::now();
      sums[static_cast<std::size_t>(index)] = pass(index);
      barrier.wait();
      if (index == 0) {
        result.pass_seconds[static_cast<std::size_t>(p)] =
            std::chrono::duration<double>(Clock::now() - start).count();
      }
    }
  });
  for (const std::uint64_t sum : sums) result.checksum += sum;
  return result;
}

}  // namespace

void stream_fill(const Buffer& buffer, const std::vector<int>& cpus) {
  const int threads = static_cast<int>(cpus.size());
  std::uint64_t* target = words(buffer);
  run_pinned(cpus, [&](int index) {
    const auto [begin, end] = part(buffer.bytes() / 8, index, threads);
    for (std::size_t i = begin; i < end; ++i) target[i] = i * 0x9E3779B97F4A7C15ull;
  });
}

StreamResult stream_read(const Buffer& buffer, const std::vector<int>& cpus, int passes, bool ahead) {
  const ReadPart read = ahead ? read_part<true>() : read_part<false>();
  const int threads = static_cast<int>(cpus.size());
  return run_passes(cpus, passes, [&](int index) {
    const auto [begin, end] = part(buffer.bytes() / 8, index, threads);
    return read(words(buffer) + begin, end - begin);
  });
}

StreamResult stream_copy(const Buffer& buffer, const std::vector<int>& cpus, int passes) {
  const std::size_t count = buffer.bytes() / 16;
  std::uint64_t* target = words(buffer);
  const std::uint64_t* source = target + count;
  const int threads = static_cast<int>(cpus.size());
  return run_passes(cpus, passes, [=](int index) -> std::uint64_t {
    const auto [begin, end] = part(count, index, threads);
    for (std::size_t i = begin; i < end; ++i) target[i] = source[i];
    return target[begin];
  });
}

StreamResult stream_triad(const Buffer& buffer, const std::vector<int>& cpus, int passes) {
  const std::size_t count = buffer.bytes() / 24;
  std::uint64_t* target = words(buffer);
  const std::uint64_t* left = target + count;
  const std::uint64_t* right = left + count;
  const int threads = static_cast<int>(cpus.size());
  return run_passes(cpus, passes, [=](int index) -> std::uint64_t {
    const auto [begin, end] = part(count, index, threads);
    for (std::size_t i = begin; i < end; ++i) target[i] = left[i] + 3 * right[i];
    return target[begin];
  });
}

std::string stream_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return "avx512f";
  if (__builtin_cpu_supports("avx2")) return "avx2";
#endif
  return "portable";
}

}  // namespace memfloor
