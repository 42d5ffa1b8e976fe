// What results are written as: JSON and pages.

#include "bind.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/report/lens.h"
#include "mlxterp/report/sweep.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/lens.h"

namespace mlxterp::python {

namespace {

// Normalised effects where the two runs differ, else the metric itself.
template <typename Options, typename Result>
report::SweepReport report_of(
    const Model& model, const Bound<Options>& bound, const Result& found) {
  const auto& options = bound.value;
  report::SweepStyle style{.model = model.path};
  try {
    return report::sweep_report(model.model, options, found, style);
  } catch (const Error&) {
    style.raw = true;
    return report::sweep_report(model.model, options, found, style);
  }
}

}  // namespace

void bind_reports(nb::module_& m) {
  m.def(
      "write_file",
      [](const std::string& path, std::string_view text) {
        write_file_atomically(checked_path(path), text, /*overwrite=*/true);
      },
      nb::arg("path"),
      nb::arg("text"),
      "Whole or not at all.");
  using report::SweepReport;
  nb::class_<SweepReport>(m, "SweepReport")
      .def(
          "to_json",
          [](const SweepReport& self) { return report::to_json(self); })
      .def("to_html", [](const SweepReport& self) {
        return view::heatmap_page(report::heatmap(self));
      });
  m.def("report", &report_of<PatchOptions, Sweep>);
  m.def("report", &report_of<AblateOptions, Sweep>);
  m.def("report", &report_of<CausalTraceOptions, CausalTrace>);
  m.def("report", &report_of<PathPatchOptions, Sweep>);
  m.def("lens_json", [](const Model& model, const Lens& lens) {
    return report::to_json(
        lens, report::lens_names(model.model, lens, model.path));
  });
  m.def("lens_page", [](const Model& model, const Lens& lens) {
    return view::lens_page(
        lens, report::lens_names(model.model, lens, model.path));
  });
}

}  // namespace mlxterp::python
