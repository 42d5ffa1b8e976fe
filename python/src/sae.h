// python/src/sae.h: what core.cpp binds of sparse autoencoders.

#pragma once

#include <nanobind/nanobind.h>

namespace mlxterp::python {

void bind_saes(nanobind::module_& m);
void bind_dashboards(nanobind::module_& m);

}  // namespace mlxterp::python
