// python/src/jacobian.h: the Jacobian lens for Python.

#pragma once

#include "bind.h"

namespace mlxterp::python {

void bind_jacobian(nb::module_& m);

}  // namespace mlxterp::python
