#include "memory.h"

#include <sys/mman.h>

#include <new>
#include <stdexcept>

namespace memfloor {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t mapped_bytes(std::size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) throw std::invalid_argument("a buffer needs at least one byte");
  void* memory = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, mapped_bytes(bytes), MADV_HUGEPAGE);
  data_ = static_cast<std::uint8_t*>(memory);
}

Buffer::~Buffer() { munmap(data_, mapped_bytes(bytes_)); }

}  // namespace memfloor
