// Packed matrices: what a format keeps of the numbers, where rows go, and what is refused.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "formats.h"
#include "matrix.h"
#include "numbers.h"

using namespace memfloor;
using memfloor::test::Numbers;
using memfloor::test::Trying;

namespace {

std::vector<float> dequantized(const Matrix& matrix) {
  const MatrixView& m = matrix.view();
  std::vector<float> out(static_cast<std::size_t>(m.rows * m.columns));
  matrix.dequantize(0, m.rows, out.data());
  return out;
}

// The farthest a kept number may be from a source number: half a step between codes; for bf16 half a unit. The largest
// code of int4_g32 is 7.5 to 8 steps from its zero, where a number of the other sign may be 8 steps: a whole step.
// A float16 scale, or zero, is off by 2^-11 of itself, 15 or 8 steps away from the number.
float tolerance_at(const MatrixView& m, const float* source, std::int64_t row, std::int64_t column) {
  const float* x = source + row * m.columns;
  if (m.format == Format::bf16) return std::fabs(x[column]) * 0x1p-8f;
  if (m.format == Format::int8) {
    float largest = 0;
    for (std::int64_t k = 0; k < m.columns; ++k) largest = std::max(largest, std::fabs(x[k]));
    return largest / 127.0f * 0.501f;
  }
  const std::int64_t size = m.format == Format::int4_g32 ? 32 : 128;
  const float* group = x + column / size * size;
  const float low = std::min(0.0f, *std::min_element(group, group + size));
  const float high = std::max(0.0f, *std::max_element(group, group + size));
  if (m.format == Format::int4_g32) return std::max(-low, high) / 8.0f * 1.01f;
  return (high - low) / 15.0f * 0.52f;
}

void check_kept(const Matrix& matrix, const std::vector<float>& source) {
  const MatrixView& m = matrix.view();
  const std::vector<float> kept = dequantized(matrix);
  for (std::int64_t i = 0; i < m.rows * m.columns; ++i) {
    const float tolerance = tolerance_at(m, source.data(), i / m.columns, i % m.columns);
    CHECK_NEAR(kept[static_cast<std::size_t>(i)], source[static_cast<std::size_t>(i)], tolerance);
  }
}

}  // namespace

TEST(packed_rows_are_within_half_a_step_of_their_source) {
  Pool pool({0, 1});
  for (const Format format : test::kFormats) {
    for (const std::int64_t columns : test::columns_of(format)) {
      for (const std::int64_t rows : {1, 5, 16, 17, 33}) {
        const Trying at(test::name_of(format), rows, columns);
        const std::vector<float> source = Numbers(7).floats(rows * columns);
        Matrix matrix(format, rows, columns);
        CHECK_EQUAL(static_cast<std::int64_t>(matrix.bytes()), rows * row_bytes(format, columns));
        matrix.write_float(source.data(), rows, 0, 1, pool);
        check_kept(matrix, source);
      }
    }
  }
}

TEST(one_sided_and_zero_rows_keep_their_numbers) {
  Pool pool({0});
  for (const Format format : test::kFormats) {
    const Trying at(test::name_of(format));
    std::vector<float> source(3 * 128, 0.0f);
    for (std::size_t k = 0; k < 128; ++k) source[k] = 1.0f + static_cast<float>(k) / 128.0f;
    for (std::size_t k = 0; k < 128; ++k) source[128 + k] = -source[k];
    Matrix matrix(format, 3, 128);
    matrix.write_float(source.data(), 3, 0, 1, pool);
    check_kept(matrix, source);
  }
}

TEST(bf16_and_float_sources_pack_alike) {
  Pool pool({0, 1});
  const std::vector<std::uint16_t> bits = Numbers(8).bf16s(17 * 384);
  std::vector<float> floats;
  for (const std::uint16_t x : bits) floats.push_back(bf16_to_float(x));
  for (const Format format : test::kFormats) {
    const Trying at(test::name_of(format));
    Matrix a(format, 17, 384), b(format, 17, 384);
    a.write_bf16(bits.data(), 17, 0, 1, pool);
    b.write_float(floats.data(), 17, 0, 1, pool);
    CHECK(std::equal(a.view().data, a.view().data + a.bytes(), b.view().data));
  }
}

// Gate and up rows take turns, Q, K and V follow one another: rows land where `first` and `step` say, and nowhere else.
TEST(rows_written_in_parts_are_the_rows_written_at_once) {
  Pool pool({0, 1, 0});
  const std::vector<float> source = Numbers(9).floats(34 * 128);
  for (const Format format : test::kFormats) {
    const Trying at(test::name_of(format));
    Matrix whole(format, 34, 128), turns(format, 34, 128), parts(format, 34, 128);
    whole.write_float(source.data(), 34, 0, 1, pool);
    std::vector<float> even, odd;
    for (std::size_t row = 0; row < 34; ++row) {
      std::vector<float>& half = row % 2 == 0 ? even : odd;
      half.insert(half.end(), source.begin() + static_cast<std::ptrdiff_t>(row * 128),
                  source.begin() + static_cast<std::ptrdiff_t>((row + 1) * 128));
    }
    turns.write_float(even.data(), 17, 0, 2, pool);
    turns.write_float(odd.data(), 17, 1, 2, pool);
    parts.write_float(source.data() + 9 * 128, 25, 9, 1, pool);
    parts.write_float(source.data(), 9, 0, 1, pool);
    CHECK(std::equal(whole.view().data, whole.view().data + whole.bytes(), turns.view().data));
    CHECK(std::equal(whole.view().data, whole.view().data + whole.bytes(), parts.view().data));
  }
}

TEST(shapes_and_rows_a_matrix_cannot_hold_are_refused) {
  Pool pool({0});
  CHECK_THROWS(std::invalid_argument, Matrix(Format::bf16, 0, 4));
  CHECK_THROWS(std::invalid_argument, Matrix(Format::bf16, 4, 0));
  CHECK_THROWS(std::invalid_argument, Matrix(Format::bf16, 4, 6));
  CHECK_THROWS(std::invalid_argument, Matrix(Format::int8, 4, 5));
  CHECK_THROWS(std::invalid_argument, Matrix(Format::int4_g128, 4, 64));
  CHECK_THROWS(std::invalid_argument, Matrix(Format::int4_g32, 4, 96));
  Matrix matrix(Format::bf16, 4, 8);
  std::vector<float> x(5 * 8, 1.0f);
  CHECK_THROWS(std::out_of_range, matrix.write_float(x.data(), 5, 0, 1, pool));
  CHECK_THROWS(std::out_of_range, matrix.write_float(x.data(), 2, 3, 1, pool));
  CHECK_THROWS(std::out_of_range, matrix.write_float(x.data(), 3, 0, 2, pool));
  CHECK_THROWS(std::out_of_range, matrix.write_float(x.data(), 1, -1, 1, pool));
  CHECK_THROWS(std::out_of_range, matrix.write_float(x.data(), 1, 0, 0, pool));
  CHECK_THROWS(std::out_of_range, matrix.dequantize(0, 5, x.data()));
  CHECK_THROWS(std::out_of_range, matrix.dequantize(3, 2, x.data()));
}
