// The operations of a decode step, each fused with what comes right before and after it.
#pragma once

#include <cstdint>
#include <utility>

#include "step.h"

namespace memfloor {

// A matrix-vector product: every thread makes the whole activation for itself, which saves a meeting, and multiplies
// its own share of the rows.
class Product : public Operation {
 public:
  explicit Product(const MatrixView& matrix) : matrix_(matrix) {}
  void run(State& state, int thread) const override;
  const std::uint8_t* first_read(const State& state, int thread) const override;

 protected:
  // Writes the activation [K].
  virtual void fill(State& state, int thread, float* x) const = 0;
  // Takes rows [begin, end) of the product; may change y.
  virtual void store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const = 0;

  // The tiles of a thread.
  std::pair<std::int64_t, std::int64_t> tiles(const State& state, int thread) const;

  const MatrixView matrix_;
};

// Norm, Q, K and V rows, bias.
class Qkv : public Product {
 public:
  Qkv(const MatrixView& matrix, const std::uint16_t* norm, const std::uint16_t* bias)
      : Product(matrix), norm_(norm), bias_(bias) {}

 protected:
  void fill(State& state, int thread, float* x) const override;
  void store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const override;

 private:
  const std::uint16_t* norm_;
  const std::uint16_t* bias_;
};

// Norms of Q and K, rotation, KV append, attention by parts of the slots.
class Attention : public Operation {
 public:
  Attention(KVCache& cache, std::int64_t layer, std::int64_t window, const std::uint16_t* query_norm,
            const std::uint16_t* key_norm)
      : cache_(cache), layer_(layer), window_(window), query_norm_(query_norm), key_norm_(key_norm) {}
  void run(State& state, int thread) const override;
  const std::uint8_t* first_read(const State& state, int thread) const override;

 private:
  static std::int64_t units(const State& state) { return state.dim.kv_heads * state.splits; }
  void attend(State& state, Scratch& scratch, std::int64_t unit) const;
  void prepare_queries(State& state, Scratch& scratch, std::int64_t head) const;
  void append(State& state, Scratch& scratch, std::int64_t head) const;

  KVCache& cache_;
  // Slots a query sees, itself included; 0 for all.
  const std::int64_t layer_, window_;
  const std::uint16_t* query_norm_;
  const std::uint16_t* key_norm_;
};

// Adds a product and its bias to the residual.
class ResidualProduct : public Product {
 public:
  ResidualProduct(const MatrixView& matrix, const std::uint16_t* bias) : Product(matrix), bias_(bias) {}

 protected:
  void store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const override;

 private:
  const std::uint16_t* bias_;
};

// The join of attention's parts, O rows, bias, residual.
class Output : public ResidualProduct {
 public:
  using ResidualProduct::ResidualProduct;

 protected:
  void fill(State& state, int thread, float* x) const override;
};

// Down rows, bias, residual.
class Down : public ResidualProduct {
 public:
  using ResidualProduct::ResidualProduct;

 protected:
  void fill(State& state, int thread, float* x) const override;
};

// Norm, gate and up rows taking turns, bias, SiLU.
class GateUp : public Product {
 public:
  GateUp(const MatrixView& matrix, const std::uint16_t* norm, const std::uint16_t* bias)
      : Product(matrix), norm_(norm), bias_(bias) {}

 protected:
  void fill(State& state, int thread, float* x) const override;
  void store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const override;

 private:
  const std::uint16_t* norm_;
  const std::uint16_t* bias_;
};

// Final norm, logits, the likeliest token of each thread's rows.
class Head : public Product {
 public:
  Head(const MatrixView& matrix, const std::uint16_t* norm) : Product(matrix), norm_(norm) {}

 protected:
  void fill(State& state, int thread, float* x) const override;
  void store(State& state, int thread, std::int64_t begin, std::int64_t end, float* y) const override;

 private:
  const std::uint16_t* norm_;
};

// The next token, its place in the ring, its embedding; one thread's work.
class Sample : public Operation {
 public:
  explicit Sample(const MatrixView& embedding) : embedding_(embedding) {}
  void run(State& state, int thread) const override;
  const std::uint8_t* first_read(const State&, int) const override { return nullptr; }

 private:
  const MatrixView embedding_;
};

}  // namespace memfloor
