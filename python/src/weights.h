// python/src/weights.h: a model's weights by name.

#pragma once

#include "bind.h"

namespace mlxterp::python {

void bind_weights(nb::module_& m, nb::class_<Model>& model);

}  // namespace mlxterp::python
