// Calls of a plan whose parameters never change, and rows that carry their states.
#pragma once

#include <nanobind/nanobind.h>

namespace recurra {

void bind_streaming(nanobind::module_& m);

}  // namespace recurra
