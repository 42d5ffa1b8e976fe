// Sweeps over a model's inside: patching, ablation, tracing, paths, gradients.

#include "bind.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/analysis/edges.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/head.h"
#include "rules.h"

namespace mlxterp::python {

namespace {

/** A field of axes: words, or one text of several. */
template <typename Options>
Field<Options> axes(std::vector<Axis> Options::*member) {
  return {
      [member](Options& self, nb::handle value) {
        std::string one;
        self.*member = spec::parse_axes(
            nb::try_cast(value, one)
                ? std::vector{one}
                : nb::cast<std::vector<std::string>>(value));
      },
      [member](const Options& self) {
        nb::list words;
        for (const auto axis : self.*member)
          words.append(name(axis));
        return nb::object(words);
      }};
}

}  // namespace

void bind_sweeps(nb::module_& m) {
  using Range = Sweep::Range;
  bind_result(
      m, "SweepRange", Member{"", &Range::axis}, Member{"", &Range::values});
  bind_result(
      m,
      "Sweep",
      Member{"axes", &Sweep::axes},
      Member{"metric", &Sweep::metric},
      Member{"spread", &Sweep::spread},
      Member{"clean", &Sweep::clean},
      Member{"corrupt", &Sweep::corrupt},
      Member{"", &Sweep::direction},
      Member{"", &Sweep::pairs},
      Member{"", &Sweep::computed},
      Member{"", &Sweep::rows},
      Member{"ids", &Sweep::ids},
      Member{"", &Sweep::inert})
      .def_prop_ro(
          "axes",
          [](const Sweep& self) {
            std::vector<std::pair<std::string, std::vector<int>>> axes;
            for (const auto& range : self.axes)
              axes.emplace_back(name(range.axis), range.values);
            return axes;
          })
      .def_prop_ro("shape", &Sweep::shape)
      .def("effect", &Sweep::effect)
      .def("delta", &Sweep::delta);

  bind_options<PatchOptions>(
      m,
      "PatchOptions",
      {.clean = no_prompts, .corrupt = no_prompts, .metric = {}},
      {{"clean", prompts(&PatchOptions::clean)},
       {"corrupt", prompts(&PatchOptions::corrupt)},
       {"site", field(&PatchOptions::site)},
       {"by", axes(&PatchOptions::by)},
       {"metric", field(&PatchOptions::metric)},
       {"direction",
        worded(
            &PatchOptions::direction,
            "direction",
            spec::parse_direction,
            spec::name)},
       {"layers", field(&PatchOptions::layers)},
       {"positions", field(&PatchOptions::positions)},
       {"heads", field(&PatchOptions::heads)},
       {"neurons", field(&PatchOptions::neurons)},
       {"position_map", field(&PatchOptions::position_map)},
       {"one_pass_per_cell", field(&PatchOptions::one_pass_per_cell)},
       {"memory", field(&PatchOptions::memory)}});
  m.def("patch", &run<PatchOptions, &patch>);

  bind_options<AblateOptions>(
      m,
      "AblateOptions",
      {.prompts = no_prompts, .metric = {}},
      {{"prompts", prompts(&AblateOptions::prompts)},
       {"site", field(&AblateOptions::site)},
       {"by", axes(&AblateOptions::by)},
       {"metric", field(&AblateOptions::metric)},
       {"ablation",
        worded(
            &AblateOptions::ablation,
            "ablation",
            spec::parse_ablation,
            spec::name)},
       {"data", prompts(&AblateOptions::data)},
       {"samples", field(&AblateOptions::samples)},
       {"seed", field(&AblateOptions::seed)},
       {"layers", field(&AblateOptions::layers)},
       {"positions", field(&AblateOptions::positions)},
       {"heads", field(&AblateOptions::heads)},
       {"neurons", field(&AblateOptions::neurons)},
       {"one_pass_per_cell", field(&AblateOptions::one_pass_per_cell)},
       {"memory", field(&AblateOptions::memory)}});
  m.def("ablate", &run<AblateOptions, &ablate>);

  bind_options<CausalTraceOptions>(
      m,
      "CausalTraceOptions",
      {.prompt = no_prompts, .subject = {}},
      {{"prompt", prompts(&CausalTraceOptions::prompt)},
       {"subject", field(&CausalTraceOptions::subject)},
       {"metric", field(&CausalTraceOptions::metric)},
       {"site", field(&CausalTraceOptions::site)},
       {"window", field(&CausalTraceOptions::window)},
       {"noise", field(&CausalTraceOptions::noise)},
       {"samples", field(&CausalTraceOptions::samples)},
       {"seed", field(&CausalTraceOptions::seed)},
       {"layers", field(&CausalTraceOptions::layers)},
       {"positions", field(&CausalTraceOptions::positions)},
       {"memory", field(&CausalTraceOptions::memory)}});
  nb::class_<CausalTrace>(m, "CausalTrace")
      .def_ro("sweep", &CausalTrace::sweep)
      .def_ro("metric", &CausalTrace::metric)
      .def_ro("subject", &CausalTrace::subject);
  m.def("causal_trace", &run<CausalTraceOptions, &causal_trace>);

  // (layer, head, "q" | "k" | "v"), or text as the shell has it.
  const Field<PathPatchOptions> receivers = {
      [](PathPatchOptions& self, nb::handle value) {
        self.receivers.clear();
        for (nb::handle it : nb::iter(value)) {
          nb::object text = nb::borrow(it);
          if (!nb::isinstance<nb::str>(it)) {
            nb::list parts;
            for (nb::handle part : nb::iter(it))
              parts.append(nb::str(part));
            text = nb::str(".").attr("join")(parts);
          }
          self.receivers.push_back(
              spec::parse_receiver(nb::cast<std::string>(text)));
        }
      },
      [](const PathPatchOptions& self) {
        std::vector<std::string> spelled;
        for (const auto& it : self.receivers)
          spelled.push_back(spec::spell(it));
        return nb::cast(spelled);
      }};
  bind_options<PathPatchOptions>(
      m,
      "PathPatchOptions",
      {.clean = no_prompts, .corrupt = no_prompts, .metric = {}},
      {{"clean", prompts(&PathPatchOptions::clean)},
       {"corrupt", prompts(&PathPatchOptions::corrupt)},
       {"receivers", receivers},
       {"senders", field(&PathPatchOptions::senders)},
       {"through_mlps", field(&PathPatchOptions::through_mlps)},
       {"metric", field(&PathPatchOptions::metric)},
       {"direction",
        worded(
            &PathPatchOptions::direction,
            "direction",
            spec::parse_direction,
            spec::name)},
       {"layers", field(&PathPatchOptions::layers)},
       {"heads", field(&PathPatchOptions::heads)},
       {"memory", field(&PathPatchOptions::memory)}});
  m.def("path_patch", &run<PathPatchOptions, &path_patch>);

  bind_options<AttributeOptions>(
      m,
      "AttributeOptions",
      {.clean = no_prompts, .corrupt = no_prompts, .metric = {}},
      {{"clean", prompts(&AttributeOptions::clean)},
       {"corrupt", prompts(&AttributeOptions::corrupt)},
       {"sites", field(&AttributeOptions::sites)},
       {"by", axes(&AttributeOptions::by)},
       {"metric", field(&AttributeOptions::metric)},
       {"direction",
        worded(
            &AttributeOptions::direction,
            "direction",
            spec::parse_direction,
            spec::name)},
       {"method",
        worded(
            &AttributeOptions::method,
            "method",
            spec::parse_attribution_method,
            spec::name)},
       {"rule", rule_field(&AttributeOptions::rule)},
       {"steps", field(&AttributeOptions::steps)},
       {"layers", field(&AttributeOptions::layers)},
       {"positions", field(&AttributeOptions::positions)},
       {"heads", field(&AttributeOptions::heads)},
       {"neurons", field(&AttributeOptions::neurons)},
       {"position_map", field(&AttributeOptions::position_map)}});
  nb::class_<Attribution>(m, "Attribution")
      .def_ro("site", &Attribution::site)
      .def_ro("sweep", &Attribution::sweep);
  m.def("attribute", &run<AttributeOptions, &attribute>);

  bind_options<EdgeOptions>(
      m,
      "EdgeOptions",
      {.clean = no_prompts, .corrupt = no_prompts, .metric = {}},
      {{"clean", prompts(&EdgeOptions::clean)},
       {"corrupt", prompts(&EdgeOptions::corrupt)},
       {"metric", field(&EdgeOptions::metric)},
       {"method",
        worded(
            &EdgeOptions::method,
            "method",
            spec::parse_edge_method,
            spec::name)},
       {"direction",
        worded(
            &EdgeOptions::direction,
            "direction",
            spec::parse_direction,
            spec::name)},
       {"steps", field(&EdgeOptions::steps)},
       {"rule",
        worded(&EdgeOptions::rule, "rule", spec::parse_line_rule, spec::name)},
       {"ungrouped", field(&EdgeOptions::ungrouped)},
       {"by_position", field(&EdgeOptions::by_position)},
       {"sample", field(&EdgeOptions::sample)},
       {"seed", field(&EdgeOptions::seed)}});
  nb::class_<EdgeErrors>(m, "EdgeErrors")
      .def_ro("distance", &EdgeErrors::distance)
      .def_ro("edges", &EdgeErrors::edges)
      .def_ro("mean", &EdgeErrors::mean)
      .def_ro("rms", &EdgeErrors::rms)
      .def_ro("within_68", &EdgeErrors::within_68)
      .def_ro("within_90", &EdgeErrors::within_90);
  nb::class_<EdgeCoverage>(m, "EdgeCoverage")
      .def_ro("within_68", &EdgeCoverage::within_68)
      .def_ro("within_90", &EdgeCoverage::within_90)
      .def_ro("strong_90", &EdgeCoverage::strong_90);
  nb::class_<EdgeSource>(m, "EdgeSource")
      .def_ro("name", &EdgeSource::name)
      .def_ro("layer", &EdgeSource::layer);
  nb::class_<EdgeDestination>(m, "EdgeDestination")
      .def_ro("name", &EdgeDestination::name)
      .def_ro("layer", &EdgeDestination::layer)
      .def_ro("before", &EdgeDestination::before);
  nb::class_<EdgeScores>(m, "EdgeScores")
      .def_ro("sources", &EdgeScores::sources)
      .def_ro("destinations", &EdgeScores::destinations)
      .def_ro("scores", &EdgeScores::scores)
      .def_ro("spread", &EdgeScores::spread)
      .def_ro("exact", &EdgeScores::exact)
      .def_ro("errors", &EdgeScores::errors)
      .def_ro("coverage", &EdgeScores::coverage)
      .def_ro("positions", &EdgeScores::positions)
      .def_ro("clean", &EdgeScores::clean)
      .def_ro("corrupt", &EdgeScores::corrupt)
      .def_ro("pairs", &EdgeScores::pairs)
      .def_ro("ids", &EdgeScores::ids)
      // What the two runs measure, as of a sweep.
      .def_prop_ro(
          "runs",
          [](const EdgeScores& self) {
            Sweep runs;
            runs.clean = self.clean;
            runs.corrupt = self.corrupt;
            runs.direction = self.direction;
            runs.pairs = self.pairs;
            return runs;
          })
      .def("edges", &EdgeScores::edges)
      .def("strongest", &EdgeScores::strongest);
  m.def("edges", &run<EdgeOptions, &edges>);

  m.def(
      "compare",
      [](const Sweep& exact, const Sweep& approximate, size_t n, bool sizes) {
        const auto found = compare(exact, approximate, n, sizes);
        std::vector<std::tuple<size_t, float, float>> worst;
        for (const auto& it : found.worst)
          worst.emplace_back(it.cell, it.exact, it.approximate);
        return nb::make_tuple(found.pearson, found.spearman, worst);
      });
}

}  // namespace mlxterp::python
