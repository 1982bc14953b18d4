#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <stdexcept>

namespace memfloor {
namespace {

#if defined(MEMFLOOR_HEAP_BUFFERS)
// A cache line, on which mappings begin too.
constexpr std::align_val_t kAlignment{64};

std::uint8_t* acquire(std::size_t bytes) {
  auto* memory = static_cast<std::uint8_t*>(::operator new(bytes, kAlignment));
  std::fill(memory, memory + bytes, std::uint8_t{0});
  return memory;
}

void release(std::uint8_t* memory, std::size_t) { ::operator delete(memory, kAlignment); }
#else
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t mapped_bytes(std::size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

std::uint8_t* acquire(std::size_t bytes) {
  void* memory = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, mapped_bytes(bytes), MADV_HUGEPAGE);
  return static_cast<std::uint8_t*>(memory);
}

void release(std::uint8_t* memory, std::size_t bytes) { munmap(memory, mapped_bytes(bytes)); }
#endif

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) throw std::invalid_argument("a buffer needs at least one byte");
  data_ = acquire(bytes);
}

Buffer::~Buffer() { release(data_, bytes_); }

}  // namespace memfloor
