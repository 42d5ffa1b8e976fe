// What is read of a model without changing it: lenses, attribution of logits,
// heads, and whether its sites mean what they say.

#include "bind.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/trace/collect.h"
#include "mlxterp/trace/verify.h"

namespace mlxterp::python {

namespace {

using Told = std::optional<nb::callable>;

// [layer][head]
std::vector<std::vector<float>> grid_of(const HeadGrid& grid) {
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < grid.layers; ++i)
    rows.emplace_back(
        grid.values.begin() + i * grid.heads,
        grid.values.begin() + (i + 1) * grid.heads);
  return rows;
}

void bind_lens(nb::module_& m) {
  nb::class_<TunedLens>(m, "TunedLens")
      .def(nb::init<int, int>())
      .def_prop_ro("layers", &TunedLens::layers)
      .def_prop_ro("d_model", &TunedLens::d_model)
      .def_rw("weights", &TunedLens::weights)
      .def_rw("biases", &TunedLens::biases)
      .def("__call__", &TunedLens::operator())
      .def(
          "save",
          [](const TunedLens& self, const std::string& path, bool overwrite) {
            self.save(path, overwrite);
          })
      .def_static("load", [](const std::string& path) {
        return TunedLens::load(path);
      });

  nb::class_<Lens>(m, "Lens")
      .def_ro("ids", &Lens::ids)
      .def_ro("layers", &Lens::layers)
      .def_ro("sites", &Lens::sites)
      .def_ro("positions", &Lens::positions)
      .def_ro("top_k", &Lens::top_k)
      .def_ro("top_ids", &Lens::top_ids)
      .def_ro("top_logits", &Lens::top_logits)
      .def_ro("top_probabilities", &Lens::top_probabilities)
      .def_ro("track", &Lens::track)
      .def_ro("track_logits", &Lens::track_logits)
      .def_ro("track_probabilities", &Lens::track_probabilities)
      .def_ro("track_ranks", &Lens::track_ranks)
      .def("on_top_from", &Lens::on_top_from);

  m.def(
      "logit_lens",
      [](const Model& model,
         const Ids& prompt,
         const std::vector<int>& layers,
         const std::vector<int>& positions,
         bool embed,
         const std::string& site,
         const TunedLens* tuned,
         int top_k,
         const std::optional<int>& track,
         const std::vector<PyEdit>& edits,
         const Told& progress) {
        const LensOptions options{
            .layers = layers,
            .positions = positions,
            .embed = embed,
            .site = site,
            .tuned = tuned,
            .top_k = top_k,
            .track = track,
            .edits = edits_of(edits),
            .progress = progress_of(progress)};
        const auto inputs = inputs_of(prompt);
        nb::gil_scoped_release no_gil;
        return logit_lens(model.model, inputs, options);
      },
      nb::arg("model"),
      nb::arg("prompt"),
      nb::arg("layers"),
      nb::arg("positions"),
      nb::arg("embed"),
      nb::arg("site"),
      nb::arg("tuned").none(),
      nb::arg("top_k"),
      nb::arg("track").none(),
      nb::arg("edits"),
      nb::arg("progress").none());

  m.def(
      "train_tuned_lens",
      [](const Model& model,
         const std::vector<int>& ids,
         int steps,
         float learning_rate,
         float momentum,
         float clip,
         int length,
         const Told& on_step,
         const Told& progress) {
        const auto held = on_step ? hold(*on_step) : nullptr;
        TunedLensOptions options{
            .steps = steps,
            .learning_rate = learning_rate,
            .momentum = momentum,
            .clip = clip,
            .length = length,
            .progress = progress_of(progress)};
        if (held)
          options.on_step = [held](int step, float loss) {
            nb::gil_scoped_acquire gil;
            (*held)(step, loss);
          };
        nb::gil_scoped_release no_gil;
        return train_tuned_lens(model.model, ids, options);
      });

  m.def(
      "evaluate_lens",
      [](const Model& model,
         const std::vector<int>& ids,
         const TunedLens* lens,
         int length,
         const Told& progress) {
        const auto told = progress_of(progress);
        LensEvaluation found;
        {
          nb::gil_scoped_release no_gil;
          found = evaluate_lens(model.model, ids, lens, length, told);
        }
        const auto rows = [](const std::vector<LensQuality>& all) {
          std::vector<std::tuple<float, float, float>> some;
          for (const auto& it : all)
            some.emplace_back(it.kl, it.cross_entropy, it.agreement);
          return some;
        };
        return nb::make_tuple(
            rows(found.logit),
            rows(found.tuned),
            found.cross_entropy,
            found.positions);
      },
      nb::arg("model"),
      nb::arg("ids"),
      nb::arg("lens").none(),
      nb::arg("length"),
      nb::arg("progress").none());
}

void bind_logits(nb::module_& m) {
  nb::enum_<Unit>(m, "Unit")
      .value("component", Unit::component)
      .value("head", Unit::head)
      .value("neuron", Unit::neuron);
  nb::class_<LogitPart>(m, "LogitPart")
      .def_prop_ro(
          "kind", [](const LogitPart& self) { return name(self.kind); })
      .def_ro("layer", &LogitPart::layer)
      .def_ro("unit", &LogitPart::unit)
      .def_ro("value", &LogitPart::value)
      .def_ro("spread", &LogitPart::spread)
      .def_prop_ro("name", &LogitPart::name);
  nb::class_<LogitAttribution>(m, "LogitAttribution")
      .def_ro("parts", &LogitAttribution::parts)
      .def_ro("accumulated", &LogitAttribution::accumulated)
      .def_ro("sum", &LogitAttribution::sum)
      .def_ro("model", &LogitAttribution::model)
      .def_ro("softcap", &LogitAttribution::softcap)
      .def_ro("ids", &LogitAttribution::ids);
  m.def(
      "logit_attribution",
      [](const Model& model,
         const Ids& prompts,
         const Metric& metric,
         Unit unit,
         const Told& progress) {
        const LogitAttributionOptions options{
            .prompts = inputs_of(prompts),
            .metric = metric,
            .unit = unit,
            .progress = progress_of(progress)};
        nb::gil_scoped_release no_gil;
        return logit_attribution(model.model, options);
      });
}

void bind_heads(nb::module_& m) {
  nb::enum_<HeadMeasure>(m, "HeadMeasure")
      .value("mean", HeadMeasure::mean)
      .value("mul", HeadMeasure::mul)
      .value("abs", HeadMeasure::abs);
  m.def(
      "repeated_tokens",
      [](const Model& model,
         int period,
         int repeats,
         int sequences,
         uint64_t seed) {
        return repeated_tokens(model.model, {period, repeats, sequences, seed});
      });
  m.def(
      "head_scores",
      [](const Model& model,
         const Ids& prompts,
         HeadMeasure measure,
         bool exclude_first,
         bool exclude_current,
         const Told& progress) {
        const HeadOptions options{
            .measure = measure,
            .exclude_first = exclude_first,
            .exclude_current = exclude_current,
            .progress = progress_of(progress)};
        const auto inputs = inputs_of(prompts);
        HeadScores found;
        {
          nb::gil_scoped_release no_gil;
          found = head_scores(model.model, inputs, options);
        }
        std::vector<std::pair<std::string, std::vector<std::vector<float>>>>
            all;
        for (const auto kind : head_kinds)
          all.emplace_back(name(kind), grid_of(found[kind]));
        return all;
      });
  nb::enum_<AblationOptions::Value>(m, "HeadValue")
      .value("zero", AblationOptions::Value::zero)
      .value("mean", AblationOptions::Value::mean);
  m.def(
      "induction_ablation",
      [](const Model& model,
         int n_heads,
         AblationOptions::Value value,
         int draws,
         int period,
         int repeats,
         int sequences,
         uint64_t seed,
         const Told& progress) {
        const AblationOptions options{
            .tokens = {period, repeats, sequences, seed},
            .heads = n_heads,
            .value = value,
            .draws = draws,
            .progress = progress_of(progress)};
        InductionAblation found;
        {
          nb::gil_scoped_release no_gil;
          found = induction_ablation(model.model, options);
        }
        const auto trial = [](const InductionAblation::Trial& it) {
          std::vector<std::pair<int, int>> all;
          for (const auto& head : it.heads)
            all.emplace_back(head.layer, head.head);
          return nb::make_tuple(all, it.loss, it.removed);
        };
        nb::list random;
        for (const auto& it : found.random)
          random.append(trial(it));
        return nb::make_tuple(
            found.first, found.repeated, trial(found.best), random);
      });
  m.def("head_circuits", [](const Model& model, const Told& progress) {
    const auto told = progress_of(progress);
    HeadCircuits found;
    {
      nb::gil_scoped_release no_gil;
      found = head_circuits(model.model, told);
    }
    return std::pair(grid_of(found.copying), grid_of(found.matching));
  });
}

void bind_verify(nb::module_& m) {
  nb::class_<Check>(m, "Check")
      .def_ro("name", &Check::name)
      .def_ro("error", &Check::error)
      .def_ro("bound", &Check::bound)
      .def_ro("compared", &Check::compared)
      .def_ro("where", &Check::where)
      .def_prop_ro("passed", &Check::passed)
      .def("__repr__", [](const Check& self) {
        return self.name + (self.passed() ? ": passed" : ": FAILED");
      });
  m.def("verify", [](const Model& model, const Told& progress) {
    const auto told = progress_of(progress);
    nb::gil_scoped_release no_gil;
    return verify(model.model, {.progress = told});
  });
  m.def(
      "collect",
      [](const Model& model,
         const Ids& prompts,
         const std::vector<std::string>& sites,
         bool last,
         int batch_size,
         const std::vector<PyEdit>& edits,
         const Told& progress) {
        using Positions = CollectOptions::Positions;
        const CollectOptions options{
            .positions = last ? Positions::last : Positions::all,
            .batch_size = batch_size,
            .edits = edits_of(edits),
            .progress = progress_of(progress)};
        const auto inputs = inputs_of(prompts);
        std::optional<ActivationCache> found;
        {
          nb::gil_scoped_release no_gil;
          found = collect_activations(model.model, inputs, sites, options);
        }
        return nb::make_tuple(found->entries(), found->lengths());
      });
}

}  // namespace

void bind_readings(nb::module_& m) {
  bind_lens(m);
  bind_logits(m);
  bind_heads(m);
  bind_verify(m);
}

}  // namespace mlxterp::python
