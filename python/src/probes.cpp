// Linear probes.

#include "bind.h"
#include "mlxterp/analysis/probe.h"
#include "mlxterp/spec/choice.h"

namespace mlxterp::python {

void bind_probes(nb::module_& m) {
  nb::class_<Probe>(m, "Probe")
      .def(nb::init<>())
      .def_prop_ro(
          "kind", [](const Probe& self) { return spec::name(self.kind); })
      .def_ro("weight", &Probe::weight)
      .def_ro("bias", &Probe::bias)
      .def_ro("spread", &Probe::spread)
      .def_ro("classes", &Probe::classes)
      .def_ro("coordinates", &Probe::coordinates)
      .def_ro("site", &Probe::site)
      .def_ro("facts", &Probe::facts)
      .def(
          "named",
          [](const Probe& self,
             std::string site,
             std::vector<std::string> classes) {
            auto out = self;
            out.site = std::move(site);
            out.classes = std::move(classes);
            return out;
          },
          "The same with its site and what its classes are called.")
      .def("__call__", &Probe::operator())
      .def(
          "check_fits",
          [](const Probe& self, const Model& model, const nb::callable& warn) {
            self.check_fits(model.model, [&](std::string_view sentence) {
              warn(sentence);
            });
          },
          nb::arg("model"),
          nb::arg("warn"))
      .def("direction", &Probe::direction)
      .def(
          "save",
          [](const Probe& self, const std::string& path, bool overwrite) {
            self.save(checked_path(path), overwrite);
          })
      .def_static("load", [](const std::string& path) {
        return Probe::load(checked_path(path));
      });
  bind_result<ProbeScore>(
      m,
      "ProbeScore",
      Member{"mean", &ProbeScore::mean},
      Member{"folds", &ProbeScore::folds},
      Member{"auc", &ProbeScore::auc});
  nb::class_<ProbeResult>(m, "ProbeResult")
      .def_ro("probe", &ProbeResult::probe)
      .def_ro("rows", &ProbeResult::rows)
      .def_ro("groups", &ProbeResult::groups)
      .def_ro("baseline", &ProbeResult::baseline)
      .def_ro("held_out", &ProbeResult::held_out)
      .def_ro("shuffled_labels", &ProbeResult::shuffled_labels)
      .def_ro("random_coordinates", &ProbeResult::random_coordinates)
      .def_ro("random_k", &ProbeResult::random_k);
  bind_options<ProbeOptions>(
      m,
      "ProbeOptions",
      {},
      {{"kind",
        worded(
            &ProbeOptions::kind, "kind", spec::parse_probe_kind, spec::name)},
       {"l2", field(&ProbeOptions::l2)},
       {"standardize", field(&ProbeOptions::standardize)},
       {"k", field(&ProbeOptions::k)},
       {"folds", field(&ProbeOptions::folds)},
       {"controls", field(&ProbeOptions::controls)},
       {"seed", field(&ProbeOptions::seed)}});
  m.def(
      "train_probe",
      [](const mx::array& rows,
         const std::vector<double>& labels,
         const std::vector<int>& groups,
         const Bound<ProbeOptions>& options) {
        const auto own = options.value;
        nb::gil_scoped_release no_gil;
        return train_probe(rows, labels, groups, own);
      });
}

}  // namespace mlxterp::python
