// The classes Frozen and Stream of recurra._engine.
#include "streaming.hpp"

#include "frozen.hpp"
#include "stream.hpp"

namespace recurra {

void bind_streaming(nb::module_& m) {
  nb::class_<Frozen>(m, "Frozen", "A forward plan with parameters that never change, packed once.")
      .def(nb::init<nb::object, int, const std::vector<Given>&, const std::vector<Maybe>&, bool>(), nb::arg("plan"),
           nb::arg("item_size"), nb::arg("parameters"), nb::arg("scales") = std::vector<Maybe>(),
           nb::arg("bfloat16_vectors") = false)
      .def("forward", &Frozen::forward, nb::arg("x"), nb::arg("y"), nb::arg("before"), nb::arg("after"),
           nb::arg("lengths") = nb::none(), nb::arg("reset") = nb::none(), nb::arg("elapsed") = nb::none(),
           nb::arg("threads") = 1,
           "Runs x (batch, time, input) into y; states go from `before` into `after`, arrays (batch, columns).")
      .def("step", &Frozen::step, nb::arg("x"), nb::arg("y"), nb::arg("before"), nb::arg("after"),
           nb::arg("elapsed") = nb::none(), nb::arg("threads") = 1, "One step of x (batch, input) into y (batch, output).");
  nb::class_<Stream>(m, "Stream", "Rows of a Frozen plan with the states that they carry.")
      .def(nb::init<nb::object, long>(), nb::arg("frozen"), nb::arg("rows"))
      .def("push", &Stream::push, nb::arg("x"), nb::arg("y"), nb::arg("elapsed") = nb::none(),
           "Steps of the one row: x (time, input) into y (time, output).")
      .def("tick", &Stream::tick, nb::arg("x"), nb::arg("y"), nb::arg("rows") = nb::none(),
           nb::arg("elapsed") = nb::none(), nb::arg("threads") = 1,
           "A step of all rows, or of those with these numbers: x (rows, input) into y (rows, output).")
      .def("reset", &Stream::reset, nb::arg("rows") = nb::none(), "All rows, or these, start afresh.")
      .def("read", &Stream::read, nb::arg("state"), nb::arg("out"), "Copies a state (rows, columns) out.")
      .def("write", &Stream::write, nb::arg("state"), nb::arg("values"), "Copies a state (rows, columns) in.");
}

}  // namespace recurra
