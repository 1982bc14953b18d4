// A packed weight matrix that owns its memory: quantised on the way in, and back to float32 for tests.
#pragma once

#include "format.h"
#include "memory.h"
#include "pool.h"

namespace memfloor {

// A number of a matrix as the products see it.
float number_at(const MatrixView& matrix, std::int64_t row, std::int64_t column);

class Matrix {
 public:
  // Throws std::invalid_argument if the format cannot hold such rows.
  Matrix(Format format, std::int64_t rows, std::int64_t columns);

  const MatrixView& view() const { return view_; }
  // What a product reads: numbers and scales.
  std::size_t bytes() const { return bytes_; }

  // Packs source row i [count, K], bf16 or float32, as row first + i * step.
  void write_bf16(const std::uint16_t* source, std::int64_t count, std::int64_t first, std::int64_t step, Pool& pool);
  void write_float(const float* source, std::int64_t count, std::int64_t first, std::int64_t step, Pool& pool);
  // Writes rows [begin, end) as the products see them.
  void dequantize(std::int64_t begin, std::int64_t end, float* out) const;

 private:
  template <class Row>
  void write(std::int64_t count, std::int64_t first, std::int64_t step, Pool& pool, const Row& row_of);

  MatrixView view_;
  std::size_t bytes_;
  // A vector more: the lanes beyond the rows of a last tile are read, and not used.
  Buffer buffer_;
};

}  // namespace memfloor
