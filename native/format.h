// How a weight matrix [N, K] lies in memory: tiles of 16 rows, read from end to end in one stream.
//
// A 32-bit word holds 2, 4 or 8 neighbouring columns of one row. The words of the tile's rows lie side by side, so that
// a vector's lanes are rows: a product needs no sum across lanes, and one number of the activation serves all of them.
// Reading row by row instead, with two loads of the activation for each of a weight, stays at two thirds of the
// memory's rate on Zen 4: see docs/log.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace memfloor {

enum class Format { bf16, int8, int4_g128, int4_g32 };

constexpr std::int64_t kTileRows = 16;
// Activations have one scale per so many numbers of K; rows of int4 are whole blocks of them.
constexpr std::int64_t kBlock = 128;
// Columns of every format are a multiple of this.
constexpr std::int64_t kColumnStep = 4;

constexpr bool is_int4(Format format) { return format == Format::int4_g128 || format == Format::int4_g32; }

constexpr std::int64_t columns_per_word(Format format) {
  return format == Format::bf16 ? 2 : format == Format::int8 ? 4 : 8;
}

// Bytes that the scales and zeros of one row and one block of 128 columns take, ahead of the block's numbers:
// for int4_g128 a float16 scale and a float16 zero, for int4_g32 four float16 scales, the zero being 8.
constexpr std::int64_t block_scale_bytes(Format format) {
  return format == Format::int4_g128 ? 4 : format == Format::int4_g32 ? 8 : 0;
}

// Bytes of a float32 scale of one row, behind all of a tile's numbers: for int8, whose zero is 128.
constexpr std::int64_t row_scale_bytes(Format format) { return format == Format::int8 ? 4 : 0; }

constexpr std::int64_t row_bytes(Format format, std::int64_t columns) {
  return columns / columns_per_word(format) * 4 + (is_int4(format) ? columns / kBlock * block_scale_bytes(format) : 0) +
         row_scale_bytes(format);
}

// A view of a packed matrix.
struct MatrixView {
  Format format = Format::bf16;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::uint8_t* data = nullptr;

  std::int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  // Rows of a tile: 16, but for the last.
  std::int64_t height(std::int64_t tile) const {
    const std::int64_t left = rows - tile * kTileRows;
    return left < kTileRows ? left : kTileRows;
  }
  std::uint8_t* tile(std::int64_t index) const { return data + index * kTileRows * row_bytes(format, columns); }

  // Of one row: the word that holds a column, the float16 scale of a column's group (the zero of int4_g128 lies one
  // row of scales further), and the float32 scale of the row.
  std::uint8_t* word(std::int64_t row, std::int64_t column) const {
    const std::int64_t t = row / kTileRows, n = height(t), per_word = columns_per_word(format);
    const std::int64_t scales = is_int4(format) ? (column / kBlock + 1) * n * block_scale_bytes(format) : 0;
    return tile(t) + scales + column / per_word * n * 4 + row % kTileRows * 4;
  }
  std::uint8_t* group_scale(std::int64_t row, std::int64_t column) const {
    const std::int64_t t = row / kTileRows, n = height(t);
    const std::int64_t block = column / kBlock * n * (block_scale_bytes(format) + kBlock / 2);
    const std::int64_t group = format == Format::int4_g32 ? column % kBlock / 32 : 0;
    return tile(t) + block + (group * n + row % kTileRows) * 2;
  }
  std::uint8_t* row_scale(std::int64_t row) const {
    const std::int64_t t = row / kTileRows;
    return tile(t) + height(t) * columns / columns_per_word(format) * 4 + row % kTileRows * 4;
  }
};

// Where in its word a column lies: byte and shift. Of int4, byte j holds columns j and j + 4 of the eight.
struct Place {
  std::int64_t byte;
  int shift;
};
constexpr Place place_of(Format format, std::int64_t column) {
  if (format == Format::bf16) return {column % 2 * 2, 0};
  if (format == Format::int8) return {column % 4, 0};
  return {column % 4, column % 8 < 4 ? 0 : 4};
}

}  // namespace memfloor
