// What is written as text: metrics, edits, receivers.

#include "bind.h"
#include "mlxterp/spec/edit.h"
#include "mlxterp/spec/metric.h"

namespace mlxterp::python {

void bind_specs(nb::module_& m) {
  m.def(
      "parse_metric",
      [](const Model& model,
         const std::vector<std::string>& texts,
         const nb::callable& warn) {
        return spec::parse_metric(
            model.model, texts, {.warn = [&](std::string_view sentence) {
              warn(sentence);
            }});
      },
      nb::arg("model"),
      nb::arg("texts"),
      nb::arg("warn"),
      "A metric as the shell has it: \"logit_diff( Mary, John)\", \"kl\".");
  m.def(
      "answer_warnings",
      [](const Model& model, const std::vector<std::string>& answers) {
        return spec::answer_warnings(model.model, answers);
      },
      nb::arg("model"),
      nb::arg("answers"));
  m.def(
      "parse_intervention",
      [](const std::string& text) {
        return spec::parse_intervention(text, {.read = spec::read_tensor});
      },
      nb::arg("text"),
      "An edit as the shell has it: \"at_positions(-1, scale(0.5))\".");
}

}  // namespace mlxterp::python
