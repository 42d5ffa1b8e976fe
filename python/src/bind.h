// python/src/bind.h: what the files of the extension share.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "mlx/array.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::python {

namespace nb = nanobind;
namespace mx = mlx::core;

/** A model and the words of its checkpoint. */
struct Model {
  InterpretableModel model;
  std::string path;        ///< What it was loaded from.
  std::string model_type;  ///< Of its config.json.
  /** Every module, children before parents, and what the checkpoint calls it.
   */
  std::vector<std::pair<std::string, std::string>> modules;
};

/** Rows of ids, an array as it is, or texts. */
using Ids = std::
    variant<std::vector<std::vector<int>>, mx::array, std::vector<std::string>>;
Inputs inputs_of(const Ids& ids);

/** A Python function that C++ may copy, call and drop without the GIL. */
using Held = std::shared_ptr<nb::callable>;
Held hold(nb::callable f);

/** Site or pattern, and a function of the value. */
using PyEdit = std::pair<std::string, nb::callable>;
std::vector<Edit> edits_of(const std::vector<PyEdit>& edits);

/** Calls `f(what, done)`, or only asks whether Ctrl-C was pressed. */
Progress progress_of(const std::optional<nb::callable>& f);

void bind_blas(nb::module_& m);
void bind_errors(nb::module_& m);
void bind_model(nb::module_& m);
void bind_pass(nb::module_& m);
void bind_metrics(nb::module_& m);
void bind_sweeps(nb::module_& m);
void bind_readings(nb::module_& m);

}  // namespace mlxterp::python
