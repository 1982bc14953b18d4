// Products of every format by every instruction set, against the same product in double precision.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "formats.h"
#include "kernels.h"
#include "matrix.h"
#include "numbers.h"
#include "step.h"

using namespace memfloor;
using memfloor::test::kNaN;
using memfloor::test::Numbers;
using memfloor::test::Trying;

namespace {

struct Product {
  std::vector<float> y;
  std::vector<float> scales;
  std::vector<std::int32_t> sums32, sums128;
};

// Everything that is not input is NaN or ones beforehand, so that nothing may depend on what was there.
Product product_of(const Matrix& matrix, const std::vector<float>& x, const std::string& isa) {
  const MatrixView& m = matrix.view();
  const Kernels& kernels = kernels_of(isa);
  Scratch scratch(m.columns, 1, 16);
  Activation& a = scratch.activation;
  const std::int64_t blocks = (m.columns + kBlock - 1) / kBlock, padded = blocks * kBlock;
  std::fill(a.plain, a.plain + padded, kNaN);
  std::fill(a.packed, a.packed + padded * 8, std::uint8_t{0xff});
  std::copy(x.begin(), x.end(), a.plain);
  kernels.prepare(m.format, m.columns, a);
  Product product;
  for (std::int64_t tile = 0; tile < m.tiles(); ++tile) {
    float lanes[kTileRows + 1];
    std::fill(lanes, lanes + kTileRows + 1, kNaN);
    kernels.multiply(m, a, tile, lanes);
    CHECK(std::isnan(lanes[kTileRows]));
    product.y.insert(product.y.end(), lanes, lanes + m.height(tile));
  }
  if (m.format != Format::bf16) {
    product.scales.assign(a.scales, a.scales + blocks);
    product.sums32.assign(a.sums32, a.sums32 + padded / 32);
    product.sums128.assign(a.sums128, a.sums128 + blocks);
  }
  return product;
}

// A product in double precision, and how far a kernel's may be from it.
struct Reference {
  double product = 0;
  // From keeping 16 bits of the activation.
  double kept = 0;
  // From arithmetic in float32.
  double rounded = 0;
};

// The farthest from zero that a code is, and the step between two: products are sums of codes before the zero is taken.
double code_span(const MatrixView& m, std::int64_t row, std::int64_t column, const float* w) {
  if (m.format == Format::bf16) return std::fabs(w[column]);
  if (m.format == Format::int8) {
    float scale;
    std::memcpy(&scale, m.row_scale(row), 4);
    return 255.0 * scale;
  }
  std::uint16_t bits;
  std::memcpy(&bits, m.group_scale(row, column), 2);
  return 30.0 * std::fabs(half_to_float(bits));
}

Reference reference_of(const MatrixView& m, std::int64_t row, const float* w, const std::vector<float>& x) {
  Reference r;
  double spans = 0;
  for (std::int64_t begin = 0; begin < m.columns; begin += kBlock) {
    const std::int64_t end = std::min(m.columns, begin + kBlock);
    double largest = 0, weights = 0;
    for (std::int64_t k = begin; k < end; ++k) {
      const double xk = x[static_cast<std::size_t>(k)];
      r.product += w[k] * xk;
      spans += code_span(m, row, k, w) * std::fabs(xk);
      largest = std::max(largest, std::fabs(xk));
      weights += std::fabs(w[k]);
      if (m.format == Format::bf16) r.kept += std::fabs(w[k] * xk) * 0x1p-15;
    }
    // Half a code, and what the multiplication by the inverse scale is off.
    if (m.format != Format::bf16) r.kept += 0.51 * largest / 32512.0 * weights;
  }
  // Each term of a sum in float32 may be off by 2^-24 of the whole: pairs of columns, or blocks and their parts.
  const double terms = m.format == Format::bf16 ? m.columns / 2.0 + 8 : m.columns / 32.0 + 8;
  r.rounded = terms * 0x1p-24 * spans + 1e-30;
  return r;
}

void check_products(const Matrix& matrix, const std::vector<float>& x) {
  const MatrixView& m = matrix.view();
  std::vector<float> w(static_cast<std::size_t>(m.rows * m.columns));
  matrix.dequantize(0, m.rows, w.data());
  const Product first = product_of(matrix, x, "portable");
  for (const std::string& isa : usable_isas()) {
    const Trying at(isa, test::name_of(m.format), m.rows, m.columns);
    const Product product = product_of(matrix, x, isa);
    CHECK(product.scales == first.scales);
    CHECK(product.sums32 == first.sums32);
    CHECK(product.sums128 == first.sums128);
    for (std::int64_t row = 0; row < m.rows; ++row) {
      const std::size_t i = static_cast<std::size_t>(row);
      const Reference r = reference_of(m, row, w.data() + row * m.columns, x);
      CHECK_NEAR(product.y[i], r.product, r.kept + r.rounded);
      // Codes are the same everywhere; only bf16 has instruction sets that keep the whole activation.
      CHECK_NEAR(product.y[i], first.y[i], r.rounded + (m.format == Format::bf16 ? r.kept : 0.0));
    }
  }
}

}  // namespace

TEST(products_are_those_of_double_precision) {
  Pool pool({0});
  for (const Format format : test::kFormats) {
    for (const std::int64_t columns : test::columns_of(format)) {
      for (const std::int64_t rows : {1, 5, 16, 17, 33}) {
        Numbers numbers(static_cast<std::uint32_t>(rows * 1000 + columns));
        Matrix matrix(format, rows, columns);
        matrix.write_float(numbers.floats(rows * columns, 0.05f).data(), rows, 0, 1, pool);
        check_products(matrix, numbers.floats(columns));
      }
    }
  }
}

// An activation of a model has a few numbers hundreds of times as large as the rest.
TEST(products_hold_with_outliers_and_zeros) {
  Pool pool({0});
  for (const Format format : test::kFormats) {
    Numbers numbers(3);
    Matrix matrix(format, 33, 384);
    matrix.write_float(numbers.floats(33 * 384).data(), 33, 0, 1, pool);
    std::vector<float> x = numbers.floats(384);
    x[5] = 700.0f;
    x[130] = -2000.0f;
    std::fill(x.begin() + 256, x.end(), 0.0f);
    check_products(matrix, x);
    check_products(matrix, std::vector<float>(384, 0.0f));
  }
}

// The largest sums of codes: they must not leave int32.
TEST(products_hold_where_all_codes_are_the_largest) {
  Pool pool({0});
  for (const Format format : test::kFormats) {
    for (const float weight : {1.0f, -1.0f}) {
      Matrix matrix(format, 17, 384);
      matrix.write_float(std::vector<float>(17 * 384, weight).data(), 17, 0, 1, pool);
      check_products(matrix, std::vector<float>(384, 3.0f));
      check_products(matrix, std::vector<float>(384, -3.0f));
    }
  }
}

// Below float32's normal numbers there is no inverse scale.
TEST(products_of_vanishing_activations_vanish) {
  Pool pool({0});
  for (const Format format : test::kFormats) {
    Matrix matrix(format, 16, 128);
    matrix.write_float(Numbers(4).floats(16 * 128).data(), 16, 0, 1, pool);
    for (const std::string& isa : usable_isas()) {
      for (const float tiny : {1e-36f, 1e-40f, 1e-45f}) {
        const Trying at(isa, test::name_of(format), tiny);
        for (const float y : product_of(matrix, std::vector<float>(128, tiny), isa).y) CHECK_NEAR(y, 0.0f, 1e-33);
      }
    }
  }
}

TEST(an_unknown_instruction_set_is_refused) {
  CHECK_THROWS(std::invalid_argument, kernels_of("mmx"));
  CHECK_EQUAL(usable_isas().back(), std::string("portable"));
}
