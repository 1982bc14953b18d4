#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.h"

namespace memfloor {
namespace {

std::size_t checked_bytes(Format format, std::int64_t rows, std::int64_t columns) {
  if (rows < 1 || columns < 1) throw std::invalid_argument("a matrix needs at least one row and one column");
  const std::int64_t step = is_int4(format) ? kBlock : kColumnStep;
  if (columns % step != 0) {
    throw std::invalid_argument("rows of this format are whole blocks of " + std::to_string(step) + " numbers, not " +
                                std::to_string(columns));
  }
  return static_cast<std::size_t>(rows * row_bytes(format, columns));
}

void put_half(std::uint8_t* at, float value) {
  const std::uint16_t bits = float_to_half(value);
  std::memcpy(at, &bits, 2);
}

float get_half(const std::uint8_t* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return half_to_float(bits);
}

float largest_magnitude(const float* x, std::int64_t count) {
  float largest = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

void put_bf16(const MatrixView& m, std::int64_t row, std::int64_t column, std::uint16_t bits) {
  std::memcpy(m.word(row, column) + column % 2 * 2, &bits, 2);
}

// Symmetric around 128, the largest magnitude at 127 from it.
void pack_int8(const MatrixView& m, const float* x, std::int64_t row) {
  const float largest = largest_magnitude(x, m.columns), scale = largest / 127.0f;
  // A row of numbers so small that their inverse scale is beyond a float is a row of zeros.
  const float inverse = scale >= std::numeric_limits<float>::min() ? 127.0f / largest : 0.0f;
  const std::int64_t stride = m.height(row / kTileRows) * 4;
  std::uint8_t* word = m.word(row, 0);
  for (std::int64_t k = 0; k < m.columns; k += 4, word += stride) {
    for (std::int64_t i = 0; i < 4; ++i) word[i] = static_cast<std::uint8_t>(128 + std::lrintf(x[k + i] * inverse));
  }
  std::memcpy(m.row_scale(row), &scale, 4);
}

// Writes a group's codes: x / scale + zero, kept within 0 and 15.
void put_codes(const MatrixView& m, const float* x, std::int64_t row, std::int64_t begin, std::int64_t count,
               float inverse, float zero) {
  const std::int64_t stride = m.height(row / kTileRows) * 4;
  std::uint8_t* word = m.word(row, begin);
  const auto code = [&](std::int64_t k) {
    return static_cast<std::uint32_t>(std::lrintf(std::min(15.0f, std::max(0.0f, x[k] * inverse + zero))));
  };
  for (std::int64_t k = begin; k < begin + count; k += 8, word += stride) {
    for (std::int64_t i = 0; i < 4; ++i) word[i] = static_cast<std::uint8_t>(code(k + i) | code(k + 4 + i) << 4);
  }
}

// Asymmetric: the smallest number at 0, the largest at 15; zero is always inside.
void pack_int4_g128(const MatrixView& m, const float* x, std::int64_t row) {
  const std::int64_t zero_offset = m.height(row / kTileRows) * 2;
  for (std::int64_t begin = 0; begin < m.columns; begin += 128) {
    const float* group = x + begin;
    const float low = std::min(0.0f, *std::min_element(group, group + 128));
    const float high = std::max(0.0f, *std::max_element(group, group + 128));
    std::uint8_t* scales = m.group_scale(row, begin);
    put_half(scales, (high - low) / 15.0f);
    const float scale = get_half(scales), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    put_half(scales + zero_offset, -low * inverse);
    put_codes(m, x, row, begin, 128, inverse, get_half(scales + zero_offset));
  }
}

// Around a zero of 8; the number of the largest magnitude at 0, as 16 would be beyond.
void pack_int4_g32(const MatrixView& m, const float* x, std::int64_t row) {
  for (std::int64_t begin = 0; begin < m.columns; begin += 32) {
    const auto nearer = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    const float extreme = *std::max_element(x + begin, x + begin + 32, nearer);
    std::uint8_t* scale_at = m.group_scale(row, begin);
    put_half(scale_at, extreme / -8.0f);
    const float scale = get_half(scale_at);
    put_codes(m, x, row, begin, 32, scale != 0.0f ? 1.0f / scale : 0.0f, 8.0f);
  }
}

void pack_row(const MatrixView& m, const float* x, std::int64_t row) {
  switch (m.format) {
    case Format::bf16:
      for (std::int64_t k = 0; k < m.columns; ++k) put_bf16(m, row, k, float_to_bf16(x[k]));
      break;
    case Format::int8: pack_int8(m, x, row); break;
    case Format::int4_g128: pack_int4_g128(m, x, row); break;
    case Format::int4_g32: pack_int4_g32(m, x, row); break;
  }
}

}  // namespace

float number_at(const MatrixView& m, std::int64_t row, std::int64_t column) {
  const Place place = place_of(m.format, column);
  const std::uint8_t* at = m.word(row, column) + place.byte;
  if (m.format == Format::bf16) {
    std::uint16_t bits;
    std::memcpy(&bits, at, 2);
    return bf16_to_float(bits);
  }
  if (m.format == Format::int8) {
    float scale;
    std::memcpy(&scale, m.row_scale(row), 4);
    return scale * static_cast<float>(*at - 128);
  }
  const float code = static_cast<float>(*at >> place.shift & 15);
  const std::uint8_t* scale = m.group_scale(row, column);
  const float zero = m.format == Format::int4_g32 ? 8.0f : get_half(scale + m.height(row / kTileRows) * 2);
  return get_half(scale) * (code - zero);
}

Matrix::Matrix(Format format, std::int64_t rows, std::int64_t columns) : bytes_(checked_bytes(format, rows, columns)), buffer_(bytes_ + 64) {
  view_ = {format, rows, columns, buffer_.data()};
}

template <class Row>
void Matrix::write(std::int64_t count, std::int64_t first, std::int64_t step, Pool& pool, const Row& row_of) {
  if (count < 0 || first < 0 || step < 1 || (count > 0 && first + (count - 1) * step >= view_.rows)) {
    throw std::out_of_range("rows beyond the matrix");
  }
  const int threads = pool.size();
  pool.run([&](int thread) {
    std::vector<float> scratch(static_cast<std::size_t>(view_.columns));
    for (std::int64_t i = count * thread / threads; i < count * (thread + 1) / threads; ++i) {
      row_of(i, first + i * step, scratch.data());
    }
  });
}

void Matrix::write_bf16(const std::uint16_t* source, std::int64_t count, std::int64_t first, std::int64_t step,
                        Pool& pool) {
  const std::int64_t columns = view_.columns;
  write(count, first, step, pool, [&](std::int64_t i, std::int64_t row, float* scratch) {
    const std::uint16_t* x = source + i * columns;
    if (view_.format == Format::bf16) {
      const std::int64_t stride = view_.height(row / kTileRows) * 4;
      std::uint8_t* word = view_.word(row, 0);
      for (std::int64_t k = 0; k < columns; k += 2, word += stride) std::memcpy(word, x + k, 4);
      return;
    }
    for (std::int64_t k = 0; k < columns; ++k) scratch[k] = bf16_to_float(x[k]);
    pack_row(view_, scratch, row);
  });
}

void Matrix::write_float(const float* source, std::int64_t count, std::int64_t first, std::int64_t step, Pool& pool) {
  write(count, first, step, pool,
        [&](std::int64_t i, std::int64_t row, float*) { pack_row(view_, source + i * view_.columns, row); });
}

void Matrix::dequantize(std::int64_t begin, std::int64_t end, float* out) const {
  if (begin < 0 || begin > end || end > view_.rows) throw std::out_of_range("rows beyond the matrix");
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t k = 0; k < view_.columns; ++k) *out++ = number_at(view_, row, k);
  }
}

}  // namespace memfloor
