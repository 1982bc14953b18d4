// Streaming passes over a large buffer by pinned threads, to find what the memory can deliver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace memfloor {

// Anonymous memory on huge pages where the system gives them, touched by the threads that will read it.
class Buffer {
 public:
  Buffer(std::size_t bytes, const std::vector<int>& cpus);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::uint64_t* words() const { return words_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::uint64_t* words_ = nullptr;
  std::size_t bytes_ = 0;
};

struct StreamResult {
  std::vector<double> pass_seconds;
  // Sum of all 64-bit words read in the last pass: proof that every byte was read.
  std::uint64_t checksum = 0;
};

// Reads the buffer once per pass, one contiguous part per thread.
StreamResult stream_read(const Buffer& buffer, const std::vector<int>& cpus, int passes);
// a[i] = b[i] over the two halves of the buffer.
StreamResult stream_copy(const Buffer& buffer, const std::vector<int>& cpus, int passes);
// a[i] = b[i] + 3 * c[i] over the three thirds of the buffer.
StreamResult stream_triad(const Buffer& buffer, const std::vector<int>& cpus, int passes);

// The instruction set the read pass runs on this processor: avx512f, avx2 or portable.
std::string stream_isa();

}  // namespace memfloor
