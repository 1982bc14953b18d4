#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "stream.h"

namespace nb = nanobind;
using namespace memfloor;

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of memfloor.";
  nb::class_<Buffer>(m, "Buffer")
      .def(nb::init<std::size_t, const std::vector<int>&>(), nb::arg("size_bytes"), nb::arg("cpus"))
      .def_prop_ro("size_bytes", &Buffer::bytes)
      .def_prop_ro("address", [](const Buffer& b) { return reinterpret_cast<std::uintptr_t>(b.words()); });
  nb::class_<StreamResult>(m, "StreamResult")
      .def_ro("pass_seconds", &StreamResult::pass_seconds)
      .def_ro("checksum", &StreamResult::checksum);
  const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
  m.def("stream_read", &stream_read, nb::arg("buffer"), nb::arg("cpus"), nb::arg("passes"), no_gil);
  m.def("stream_copy", &stream_copy, nb::arg("buffer"), nb::arg("cpus"), nb::arg("passes"), no_gil);
  m.def("stream_triad", &stream_triad, nb::arg("buffer"), nb::arg("cpus"), nb::arg("passes"), no_gil);
  m.def("stream_isa", &stream_isa);
}
