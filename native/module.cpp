// The Python module `memfloor._native`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "kernels.h"
#include "matrix.h"
#include "step.h"
#include "stream.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace memfloor;

namespace {

using Bits = nb::ndarray<const std::uint16_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Vector = std::optional<Bits>;

Format format_of(const std::string& name) {
  if (name == "bf16") return Format::bf16;
  if (name == "int8") return Format::int8;
  if (name == "int4-g128") return Format::int4_g128;
  if (name == "int4-g32") return Format::int4_g32;
  throw std::invalid_argument("unknown weight format " + name);
}

KVFormat kv_format_of(const std::string& name) {
  if (name == "bf16") return KVFormat::bf16;
  if (name == "int8") return KVFormat::int8;
  throw std::invalid_argument("unknown KV format " + name);
}

void require_size(std::size_t have, std::int64_t want, const char* what) {
  if (have == static_cast<std::size_t>(want)) return;
  throw std::invalid_argument(std::string(what) + " needs " + std::to_string(want) + " numbers, not " +
                              std::to_string(have));
}

const std::uint16_t* data_of(const Vector& vector, std::int64_t size, const char* what) {
  if (!vector) return nullptr;
  require_size(vector->size(), size, what);
  return vector->data();
}

template <class T>
nb::ndarray<nb::numpy, T> array_of(std::vector<T>& numbers, nb::handle owner) {
  return nb::ndarray<nb::numpy, T>(numbers.data(), {numbers.size()}, owner);
}

void bind_stream(nb::module_& m) {
  const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Buffer>(m, "Buffer")
      .def(nb::init<std::size_t>(), "size_bytes"_a)
      .def_prop_ro("size_bytes", &Buffer::bytes)
      .def_prop_ro("address", [](const Buffer& self) { return reinterpret_cast<std::uintptr_t>(self.data()); });
  nb::class_<StreamResult>(m, "StreamResult")
      .def_ro("pass_seconds", &StreamResult::pass_seconds)
      .def_ro("checksum", &StreamResult::checksum);
  m.def("stream_fill", &stream_fill, "buffer"_a, "cpus"_a, no_gil);
  m.def("stream_read", &stream_read, "buffer"_a, "cpus"_a, "passes"_a, "ahead"_a, no_gil);
  m.def("stream_copy", &stream_copy, "buffer"_a, "cpus"_a, "passes"_a, no_gil);
  m.def("stream_triad", &stream_triad, "buffer"_a, "cpus"_a, "passes"_a, no_gil);
  m.def("stream_isa", &stream_isa);
}

void bind_matrix(nb::module_& m) {
  const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Matrix>(m, "Matrix")
      .def("__init__", [](Matrix* self, const std::string& format, std::int64_t rows, std::int64_t columns) {
        new (self) Matrix(format_of(format), rows, columns);
      }, "format"_a, "rows"_a, "columns"_a)
      .def_prop_ro("size_bytes", &Matrix::bytes)
      .def_prop_ro("rows", [](const Matrix& self) { return self.view().rows; })
      .def_prop_ro("columns", [](const Matrix& self) { return self.view().columns; })
      .def("write_bf16", [](Matrix& self, const Bits& source, std::int64_t first, std::int64_t step, Pool& pool) {
        const std::int64_t count = static_cast<std::int64_t>(source.size()) / self.view().columns;
        require_size(source.size(), count * self.view().columns, "whole rows");
        self.write_bf16(source.data(), count, first, step, pool);
      }, "source"_a, "first"_a, "step"_a, "pool"_a, no_gil)
      .def("write_float", [](Matrix& self, const Floats& source, std::int64_t first, std::int64_t step, Pool& pool) {
        const std::int64_t count = static_cast<std::int64_t>(source.size()) / self.view().columns;
        require_size(source.size(), count * self.view().columns, "whole rows");
        self.write_float(source.data(), count, first, step, pool);
      }, "source"_a, "first"_a, "step"_a, "pool"_a, no_gil)
      .def("dequantize", [](const Matrix& self, std::int64_t begin, std::int64_t end, const FloatsOut& out) {
        require_size(out.size(), (end - begin) * self.view().columns, "the rows");
        self.dequantize(begin, end, out.data());
      }, "begin"_a, "end"_a, "out"_a);
  m.def("multiply", [](const Matrix& matrix, const Floats& x, const std::string& isa, const FloatsOut& y) {
    const MatrixView& view = matrix.view();
    require_size(x.size(), view.columns, "the activation");
    require_size(y.size(), view.rows, "the product");
    const Kernels& kernels = kernels_of(isa);
    Scratch scratch(view.columns, 1, 1);
    std::copy(x.data(), x.data() + view.columns, scratch.activation.plain);
    kernels.prepare(view.format, view.columns, scratch.activation);
    float lanes[kTileRows];
    for (std::int64_t tile = 0; tile < view.tiles(); ++tile) {
      kernels.multiply(view, scratch.activation, tile, lanes);
      std::copy(lanes, lanes + view.height(tile), y.data() + tile * kTileRows);
    }
  }, "matrix"_a, "x"_a, "isa"_a, "y"_a, no_gil);
}

void bind_cache(nb::module_& m) {
  nb::class_<KVCache>(m, "KVCache")
      .def("__init__", [](KVCache* self, const std::string& format, std::int64_t layers, std::int64_t kv_heads,
                          std::int64_t max_len, std::int64_t head_dim) {
        new (self) KVCache(kv_format_of(format), layers, kv_heads, max_len, head_dim);
      }, "format"_a, "layers"_a, "kv_heads"_a, "max_len"_a, "head_dim"_a)
      .def_prop_ro("size_bytes", &KVCache::bytes)
      .def_prop_ro("vector_bytes", &KVCache::vector_bytes)
      .def("write", [](KVCache& self, std::int64_t layer, std::int64_t head, std::int64_t first, const Floats& keys,
                       const Floats& values) {
        const std::int64_t count = static_cast<std::int64_t>(keys.size()) / self.head_dim();
        require_size(keys.size(), count * self.head_dim(), "whole keys");
        require_size(values.size(), count * self.head_dim(), "as many values");
        if (layer < 0 || layer >= self.layers() || head < 0 || head >= self.kv_heads() || first < 0 ||
            first + count > self.max_len()) {
          throw std::out_of_range("slots beyond the KV cache");
        }
        for (std::int64_t s = 0; s < count; ++s) {
          self.append(layer, head, first + s, keys.data() + s * self.head_dim(), values.data() + s * self.head_dim());
        }
      }, "layer"_a, "head"_a, "first"_a, "keys"_a, "values"_a)
      .def("fill", [](KVCache& self, std::int64_t length, const Floats& block) {
        const std::int64_t size = static_cast<std::int64_t>(block.size()) - 2 * self.head_dim();
        if (length < 0 || length > self.max_len()) throw std::out_of_range("slots beyond the KV cache");
        if (size < 1) throw std::invalid_argument("the block is shorter than a key and a value");
        std::int64_t at = 0;
        for (std::int64_t layer = 0; layer < self.layers(); ++layer) {
          for (std::int64_t head = 0; head < self.kv_heads(); ++head) {
            for (std::int64_t slot = 0; slot < length; ++slot, at = (at + 2 * self.head_dim()) % size) {
              self.append(layer, head, slot, block.data() + at, block.data() + at + self.head_dim());
            }
          }
        }
      }, "length"_a, "block"_a)
      .def("read", [](const KVCache& self, std::int64_t layer, std::int64_t head, std::int64_t slot,
                      const FloatsOut& key, const FloatsOut& value) {
        require_size(key.size(), self.head_dim(), "a key");
        require_size(value.size(), self.head_dim(), "a value");
        if (layer < 0 || layer >= self.layers() || head < 0 || head >= self.kv_heads() || slot < 0 ||
            slot >= self.max_len()) {
          throw std::out_of_range("a slot beyond the KV cache");
        }
        self.read(layer, head, slot, key.data(), value.data());
      }, "layer"_a, "head"_a, "slot"_a, "key"_a, "value"_a);
}

void bind_step(nb::module_& m) {
  const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Pool>(m, "Pool")
      .def(nb::init<std::vector<int>>(), "cpus"_a)
      .def_prop_ro("size", &Pool::size)
      .def_prop_ro("cpus", &Pool::cpus);
  nb::class_<Step>(m, "Step")
      .def("__init__", [](Step* self, const std::string& isa, Pool& pool, std::int64_t hidden,
                          std::int64_t intermediate, std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                          std::int64_t vocab, std::int64_t max_len, float eps) {
        new (self) Step({hidden, intermediate, heads, kv_heads, head_dim, vocab, max_len, eps}, isa, pool);
      }, "isa"_a, "pool"_a, nb::kw_only(), "hidden"_a, "intermediate"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
         "vocab"_a, "max_len"_a, "eps"_a, nb::keep_alive<1, 3>())
      .def("add_qkv", [](Step& self, const Matrix& weights, const Vector& norm, const Vector& bias) {
        const Dimensions& d = self.state().dim;
        return self.add_qkv(weights, data_of(norm, d.hidden, "the norm"), data_of(bias, d.qkv(), "the bias"));
      }, "weights"_a, "norm"_a, "bias"_a.none(), nb::keep_alive<1, 2>())
      .def("add_attention", [](Step& self, KVCache& cache, std::int64_t layer, std::int64_t window,
                               const Vector& query_norm, const Vector& key_norm) {
        const std::int64_t size = self.state().dim.head_dim;
        return self.add_attention(cache, layer, window, data_of(query_norm, size, "the query norm"),
                                  data_of(key_norm, size, "the key norm"));
      }, "cache"_a, "layer"_a, "window"_a, "query_norm"_a.none(), "key_norm"_a.none(), nb::keep_alive<1, 2>())
      .def("add_output", [](Step& self, const Matrix& weights, const Vector& bias) {
        return self.add_output(weights, data_of(bias, self.state().dim.hidden, "the bias"));
      }, "weights"_a, "bias"_a.none(), nb::keep_alive<1, 2>())
      .def("add_gate_up", [](Step& self, const Matrix& weights, const Vector& norm, const Vector& bias) {
        const Dimensions& d = self.state().dim;
        return self.add_gate_up(weights, data_of(norm, d.hidden, "the norm"),
                                data_of(bias, 2 * d.intermediate, "the bias"));
      }, "weights"_a, "norm"_a, "bias"_a.none(), nb::keep_alive<1, 2>())
      .def("add_down", [](Step& self, const Matrix& weights, const Vector& bias) {
        return self.add_down(weights, data_of(bias, self.state().dim.hidden, "the bias"));
      }, "weights"_a, "bias"_a.none(), nb::keep_alive<1, 2>())
      .def("add_head", [](Step& self, const Matrix& weights, const Vector& norm) {
        return self.add_head(weights, data_of(norm, self.state().dim.hidden, "the norm"));
      }, "weights"_a, "norm"_a, nb::keep_alive<1, 2>())
      .def("add_sample", &Step::add_sample, "embedding"_a, nb::keep_alive<1, 2>())
      .def("start", &Step::start, "token"_a, "position"_a)
      .def("prefill", &Step::prefill, "tokens"_a, "position"_a, no_gil)
      .def("set_sampling", [](Step& self, float temperature, float top_p, std::uint64_t seed) {
        self.state().sampling = {temperature, top_p, seed};
      }, "temperature"_a, "top_p"_a, "seed"_a)
      .def("set_rope", [](Step& self, const Floats& cosines, const Floats& sines) {
        State& state = self.state();
        require_size(cosines.size(), static_cast<std::int64_t>(state.cosines.size()), "the cosines");
        require_size(sines.size(), static_cast<std::int64_t>(state.sines.size()), "the sines");
        std::copy(cosines.data(), cosines.data() + cosines.size(), state.cosines.begin());
        std::copy(sines.data(), sines.data() + sines.size(), state.sines.begin());
      }, "cosines"_a, "sines"_a)
      .def("run", &Step::run, "index"_a, no_gil)
      .def("run_timed_one", &Step::run_timed_one, "index"_a, no_gil)
      .def("run_all", &Step::run_all, "steps"_a, no_gil)
      .def("run_timed", &Step::run_timed, "steps"_a, no_gil)
      .def_prop_ro("token", [](Step& self) { return self.state().token; })
      .def_prop_ro("position", [](Step& self) { return self.state().position; })
      .def_prop_ro("ring", [](Step& self) { return array_of(self.state().ring, nb::find(self)); })
      .def_prop_ro("logits", [](Step& self) { return array_of(self.state().logits, nb::find(self)); })
      .def_prop_ro("residual", [](Step& self) { return array_of(self.state().residual, nb::find(self)); })
      .def_prop_ro("qkv", [](Step& self) { return array_of(self.state().qkv, nb::find(self)); })
      .def_prop_ro("joined", [](Step& self) { return array_of(self.state().joined, nb::find(self)); });
  m.def("usable_isas", &usable_isas);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of memfloor.";
  bind_stream(m);
  bind_matrix(m);
  bind_cache(m);
  bind_step(m);
}
