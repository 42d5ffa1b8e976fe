// One traced pass, its values read by name.

#include "bind.h"
#include "core/evaluate.h"

namespace mlxterp::python {

namespace {

class TracedPass {
 public:
  TracedPass(
      const Model& model, const Ids& ids, const std::vector<PyEdit>& edits)
      : trace_(model.model.trace(inputs_of(ids), edits_of(edits))) {}

  mx::array output() const { return trace_.output(); }
  const std::vector<int>& lengths() const { return trace_.lengths(); }
  mx::array value(std::string_view site) { return trace_.value(site); }

  void check() const {
    nb::gil_scoped_release no_gil;
    trace_.check();
  }

  void finish(std::vector<mx::array> kept) {
    nb::gil_scoped_release no_gil;
    trace_.finish(std::move(kept), check_signals);
  }

 private:
  Trace trace_;
};

}  // namespace

void bind_pass(nb::module_& m) {
  nb::class_<TracedPass>(m, "Pass")
      .def(
          nb::init<const Model&, const Ids&, const std::vector<PyEdit>&>(),
          nb::keep_alive<1, 2>(),
          nb::arg("model"),
          nb::arg("ids"),
          nb::arg("edits") = std::vector<PyEdit>{})
      .def_prop_ro("output", &TracedPass::output)
      .def_prop_ro("lengths", &TracedPass::lengths)
      .def("value", &TracedPass::value)
      .def("check", &TracedPass::check)
      .def("finish", &TracedPass::finish, nb::arg("kept"));
  m.def(
      "evaluate",
      [](std::vector<mx::array> values) {
        evaluate(std::move(values), check_signals);
      },
      nb::arg("values"),
      nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace mlxterp::python
