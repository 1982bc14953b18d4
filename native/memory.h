// Large anonymous memory on huge pages where the system gives them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memfloor {

// Zeroed on first touch; a page lies where the thread that first wrote it runs.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace memfloor
