// What is written as text: metrics, edits, receivers.

#include "bind.h"
#include "mlxterp/report/sweep.h"
#include "mlxterp/spec/edit.h"
#include "mlxterp/spec/head.h"
#include "mlxterp/spec/metric.h"
#include "mlxterp/spec/task.h"

namespace mlxterp::python {

namespace {

// `warn` must outlive them.
spec::MetricOptions told(
    const nb::callable& warn, std::vector<std::vector<int>> prompts) {
  spec::MetricOptions out;
  out.warn = [&warn](std::string_view sentence) { warn(sentence); };
  out.prompts = std::move(prompts);
  return out;
}

}  // namespace

void bind_specs(nb::module_& m) {
  m.def(
      "parse_metric",
      [](const Model& model,
         const std::vector<std::string>& texts,
         const nb::callable& warn,
         const std::vector<std::vector<int>>& prompts) {
        return spec::parse_metric(model.model, texts, told(warn, prompts));
      },
      nb::arg("model"),
      nb::arg("texts"),
      nb::arg("warn"),
      nb::arg("prompts") = std::vector<std::vector<int>>(),
      "A metric as the shell has it: \"logit_diff( Mary, John)\", \"kl\".");
  m.def(
      "answer_warnings",
      [](const Model& model,
         const std::vector<std::string>& answers,
         const std::vector<std::vector<int>>& prompts) {
        return spec::answer_warnings(model.model, answers, prompts);
      },
      nb::arg("model"),
      nb::arg("answers"),
      nb::arg("prompts") = std::vector<std::vector<int>>());
  m.def(
      "parse_task",
      [](const Model& model,
         std::string_view json,
         const std::string& name,
         const nb::callable& warn) {
        auto options = told(warn, {});
        options.name = name;
        return spec::parse_task(model.model, json, options);
      },
      nb::arg("model"),
      nb::arg("json"),
      nb::arg("name"),
      nb::arg("warn"),
      "A task as `mlxterp tasks --json` answers it.");
  m.def(
      "parse_head_choice",
      [](const std::vector<std::string>& texts) {
        const auto chosen = spec::parse_head_choice(texts);
        return std::make_pair(chosen.layers, chosen.heads);
      },
      nb::arg("texts"),
      "Layers, none for all, and heads of \"L23H3\", \"23.3\", \"0..3\".");
  m.def(
      "run_warnings",
      [](const std::optional<Metric>& metric, const Sweep& sweep) {
        if (!metric) return std::vector<std::string>();
        return report::run_warnings(*metric, metric->name, sweep);
      },
      nb::arg("metric").none(),
      nb::arg("sweep"),
      "What is odd about the runs between which it swept.");
  m.def(
      "parse_intervention",
      [](const std::string& text, const Model* model) {
        return spec::parse_intervention(
            text,
            {.read = spec::read_tensor,
             .model = model ? &model->model : nullptr});
      },
      nb::arg("text"),
      nb::arg("model").none() = nb::none(),
      "An edit as the shell has it: \"at_positions(-1, scale(0.5))\". Those "
      "along a Jacobian lens, \"lens_swap(FILE, ' Paris', ' Rome')\", take the "
      "model, a _core.Model.");
}

}  // namespace mlxterp::python
