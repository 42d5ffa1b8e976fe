// The extension module mlxterp._core: the C++ library as plain functions and
// a few classes; what users see of it is written in Python.

#include "bind.h"
#include "jacobian.h"
#include "sae.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  nb::module_::import_("mlx.core");  // it owns the type of arrays
  using namespace mlxterp::python;
  m.attr("version") = MLXTERP_VERSION;
  bind_errors(m);
  bind_interventions(m);
  bind_model(m);
  bind_chat(m);
  bind_pass(m);
  bind_metrics(m);
  bind_sweeps(m);
  bind_readings(m);
  bind_stores(m);
  bind_sae_training(m);
  bind_probes(m);
  bind_specs(m);
  bind_steering(m);
  bind_reports(m);
  bind_generate(m);
  bind_saes(m);
  bind_features(m);
  bind_dashboards(m);
  bind_jacobian(m);
  bind_blas(m);
}
