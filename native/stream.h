// Streaming passes over a large buffer by pinned threads, to find what the memory can deliver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"

namespace memfloor {

struct StreamResult {
  std::vector<double> pass_seconds;
  // Sum of all 64-bit words read in the last pass: proof that every byte was read.
  std::uint64_t checksum = 0;
};

// Writes the whole buffer, each part by the thread that will read it.
void stream_fill(const Buffer& buffer, const std::vector<int>& cpus);
// Reads the buffer once per pass, one contiguous part per thread, asking ahead in software or leaving that to the
// processor. Which of the two is faster differs between machines, and on one machine with its load.
StreamResult stream_read(const Buffer& buffer, const std::vector<int>& cpus, int passes, bool ahead);
// a[i] = b[i] over the two halves of the buffer.
StreamResult stream_copy(const Buffer& buffer, const std::vector<int>& cpus, int passes);
// a[i] = b[i] + 3 * c[i] over the three thirds of the buffer.
StreamResult stream_triad(const Buffer& buffer, const std::vector<int>& cpus, int passes);

// The instruction set the read pass runs on this processor: avx512f, avx2 or portable.
std::string stream_isa();

}  // namespace memfloor
