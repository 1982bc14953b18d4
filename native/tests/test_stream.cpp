// Streaming passes read and write every word, whatever the size and the number of threads.
#include <stdexcept>

#include "check.h"
#include "stream.h"

using namespace memfloor;
using memfloor::test::Trying;

TEST(a_read_pass_sums_every_word) {
  for (const std::size_t words : {1, 7, 8, 31, 100, 4099}) {
    for (const std::vector<int>& cpus : {std::vector<int>{0}, std::vector<int>{0, 1, 0}}) {
      const Trying at(words, "words", cpus.size(), "threads");
      const Buffer buffer(words * 8);
      stream_fill(buffer, cpus);
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < words; ++i) sum += i * 0x9E3779B97F4A7C15ull;
      for (const bool ahead : {false, true}) {
        const StreamResult result = stream_read(buffer, cpus, 3, ahead);
        CHECK_EQUAL(result.checksum, sum);
        CHECK_EQUAL(result.pass_seconds.size(), std::size_t{3});
      }
    }
  }
}

TEST(copy_and_triad_write_every_word) {
  const Buffer buffer(3 * 1000 * 8);
  const auto* words = reinterpret_cast<const std::uint64_t*>(buffer.data());
  stream_fill(buffer, {0, 1});
  stream_triad(buffer, {0, 1}, 1);
  for (std::size_t i = 0; i < 1000; ++i) CHECK_EQUAL(words[i], words[1000 + i] + 3 * words[2000 + i]);
  stream_copy(buffer, {0, 1}, 1);
  for (std::size_t i = 0; i < 1500; ++i) CHECK_EQUAL(words[i], words[1500 + i]);
}

TEST(a_stream_needs_cpus_passes_and_memory) {
  CHECK_THROWS(std::invalid_argument, Buffer(0));
  const Buffer buffer(64);
  CHECK_THROWS(std::invalid_argument, stream_read(buffer, {}, 1, false));
  CHECK_THROWS(std::invalid_argument, stream_read(buffer, {0}, 0, false));
}
