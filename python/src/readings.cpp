// What is read of a model without changing it: lenses, attribution of logits,
// heads, and whether its sites mean what they say.

#include <fmt/format.h>

#include "bind.h"
#include "mlx/utils.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/analysis/verify.h"
#include "mlxterp/core/error.h"
#include "mlxterp/spec/choice.h"

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

// What a lens is given: one array of floating-point numbers for each layer.
std::vector<mx::array> of_each_layer(
    const TunedLens& lens,
    const char* field,
    nb::handle value,
    const mx::Shape& shape) {
  std::vector<mx::array> arrays;
  if (!nb::try_cast(value, arrays)) fail_field("TunedLens", field, value);
  bool fits = static_cast<int>(arrays.size()) == lens.layers();
  for (const auto& array : arrays)
    fits &=
        array.shape() == shape && mx::issubdtype(array.dtype(), mx::floating);
  if (!fits)
    throw Error(
        ErrorKind::usage,
        fmt::format(
            "[TunedLens] {} takes {} arrays of floating-point numbers, one for "
            "each layer, of shape ({})",
            field,
            lens.layers(),
            fmt::join(shape.begin(), shape.end(), ", ")));
  return arrays;
}

void bind_lens(nb::module_& m) {
  nb::class_<TunedLens>(m, "TunedLens")
      .def(nb::init<int, int>())
      .def_prop_ro("layers", &TunedLens::layers)
      .def_prop_ro("d_model", &TunedLens::d_model)
      .def_prop_rw(
          "weights",
          [](const TunedLens& self) { return self.weights; },
          [](TunedLens& self, nb::handle value) {
            const mx::Shape shape{self.d_model(), self.d_model()};
            self.weights = of_each_layer(self, "weights", value, shape);
          },
          nb::for_setter(nb::arg("value").none()))
      .def_prop_rw(
          "biases",
          [](const TunedLens& self) { return self.biases; },
          [](TunedLens& self, nb::handle value) {
            const mx::Shape shape{self.d_model()};
            self.biases = of_each_layer(self, "biases", value, shape);
          },
          nb::for_setter(nb::arg("value").none()))
      .def("__call__", &TunedLens::operator())
      .def(
          "save",
          [](const TunedLens& self, const std::string& path, bool overwrite) {
            self.save(checked_path(path), overwrite);
          })
      .def_static("load", [](const std::string& path) {
        return TunedLens::load(
            checked_path(path), [](std::string_view sentence) {
              // Raises where warnings are errors.
              if (PyErr_WarnEx(
                      PyExc_UserWarning, std::string(sentence).c_str(), 1) < 0)
                throw nb::python_error();
            });
      });

  bind_result(
      m,
      "Lens",
      Member{"ids", &Lens::ids},
      Member{"", &Lens::model_layers},
      Member{"", &Lens::site},
      Member{"", &Lens::tuned},
      Member{"layers", &Lens::layers},
      Member{"", &Lens::sites},
      Member{"positions", &Lens::positions},
      Member{"top_k", &Lens::top_k},
      Member{"top_ids", &Lens::top_ids},
      Member{"top_logits", &Lens::top_logits},
      Member{"top_probabilities", &Lens::top_probabilities},
      Member{"track", &Lens::track},
      Member{"", &Lens::track_logits},
      Member{"track_probabilities", &Lens::track_probabilities},
      Member{"track_ranks", &Lens::track_ranks});

  bind_options<LensOptions>(
      m,
      "LensOptions",
      {},
      {{"layers", field(&LensOptions::layers)},
       {"positions", field(&LensOptions::positions)},
       {"embed", field(&LensOptions::embed)},
       {"site", field(&LensOptions::site)},
       {"top_k", field(&LensOptions::top_k)},
       {"track", field(&LensOptions::track)},
       {"edits", edits(&LensOptions::edits)}});
  m.def(
      "logit_lens",
      [](const Model& model,
         const Ids& prompt,
         const Bound<LensOptions>& options,
         const TunedLens* tuned) {
        const auto inputs = inputs_of(prompt);
        auto own = options.value;
        own.tuned = tuned;
        nb::gil_scoped_release no_gil;
        return logit_lens(model.model, inputs, own);
      },
      nb::arg("model"),
      nb::arg("prompt"),
      nb::arg("options"),
      nb::arg("tuned").none() = nb::none());

  const Field<TunedLensOptions> on_step = {
      [](TunedLensOptions& self, nb::handle f) {
        self.on_step = [held = hold(nb::cast<nb::callable>(f))](
                           int step, float loss) {
          nb::gil_scoped_acquire gil;
          (*held)(step, loss);
        };
      }};
  const Field<TunedLensOptions> stop = {
      [](TunedLensOptions& self, nb::handle f) {
        self.stop = [held = hold(nb::cast<nb::callable>(f))] {
          nb::gil_scoped_acquire gil;
          return nb::cast<bool>((*held)());
        };
      }};
  bind_options<TunedLensOptions>(
      m,
      "TunedLensOptions",
      {},
      {{"steps", field(&TunedLensOptions::steps)},
       {"minutes", field(&TunedLensOptions::minutes)},
       {"learning_rate", field(&TunedLensOptions::learning_rate)},
       {"momentum", field(&TunedLensOptions::momentum)},
       {"clip", field(&TunedLensOptions::clip)},
       {"length", field(&TunedLensOptions::length)},
       {"on_step", on_step},
       {"stop", stop}});
  m.def(
      "train_tuned_lens",
      [](const Model& model,
         const std::vector<int>& ids,
         const Bound<TunedLensOptions>& options) {
        const auto own = options.value;
        nb::gil_scoped_release no_gil;
        return train_tuned_lens(model.model, ids, own);
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
  bind_result(
      m,
      "LogitPart",
      Member{"kind", &LogitPart::kind},
      Member{"layer", &LogitPart::layer},
      Member{"unit", &LogitPart::unit},
      Member{"value", &LogitPart::value},
      Member{"spread", &LogitPart::spread})
      .def_prop_ro(
          "kind", [](const LogitPart& self) { return name(self.kind); })
      .def_prop_ro("name", &LogitPart::name);
  nb::class_<LogitAttribution>(m, "LogitAttribution")
      .def_ro("parts", &LogitAttribution::parts)
      .def_ro("accumulated", &LogitAttribution::accumulated)
      .def_ro("sum", &LogitAttribution::sum)
      .def_ro("model", &LogitAttribution::model);
  bind_options<LogitAttributionOptions>(
      m,
      "LogitAttributionOptions",
      {.prompts = no_prompts, .metric = {}},
      {{"prompts", prompts(&LogitAttributionOptions::prompts)},
       {"metric", field(&LogitAttributionOptions::metric)},
       {"unit",
        worded(
            &LogitAttributionOptions::unit,
            "unit",
            spec::parse_unit,
            spec::name)}});
  m.def("logit_attribution", &run<LogitAttributionOptions, &logit_attribution>);
}

void bind_heads(nb::module_& m) {
  bind_options<RepeatedTokens>(
      m,
      "RepeatedTokens",
      {},
      {{"period", field(&RepeatedTokens::period)},
       {"repeats", field(&RepeatedTokens::repeats)},
       {"sequences", field(&RepeatedTokens::sequences)},
       {"seed", field(&RepeatedTokens::seed)}});
  m.def(
      "repeated_tokens",
      [](const Model& model, const Bound<RepeatedTokens>& options) {
        return repeated_tokens(model.model, options.value);
      });
  bind_options<HeadOptions>(
      m,
      "HeadOptions",
      {},
      {{"measure",
        worded(
            &HeadOptions::measure, "measure", spec::parse_head_measure, name)},
       {"exclude_first", field(&HeadOptions::exclude_first)},
       {"exclude_current", field(&HeadOptions::exclude_current)}});
  m.def(
      "head_scores",
      [](const Model& model,
         const Ids& prompts,
         const Bound<HeadOptions>& options) {
        const auto inputs = inputs_of(prompts);
        const auto own = options.value;
        HeadScores found;
        {
          nb::gil_scoped_release no_gil;
          found = head_scores(model.model, inputs, own);
        }
        std::vector<std::pair<std::string, std::vector<std::vector<float>>>>
            all;
        for (const auto kind : head_kinds)
          all.emplace_back(name(kind), grid_of(found[kind]));
        return all;
      });
  const Field<AblationOptions> tokens = {
      [](AblationOptions& self, nb::handle value) {
        self.tokens = nb::cast<const Bound<RepeatedTokens>&>(value).value;
      }};
  bind_options<AblationOptions>(
      m,
      "AblationOptions",
      {},
      {{"tokens", tokens},
       {"heads", field(&AblationOptions::heads)},
       {"value",
        worded(
            &AblationOptions::value,
            "value",
            spec::parse_head_ablation,
            spec::name)},
       {"draws", field(&AblationOptions::draws)}});
  using Trial = InductionAblation::Trial;
  bind_result(m, "Head", Member{"", &Head::layer}, Member{"", &Head::head});
  bind_result(
      m,
      "Trial",
      Member{"heads", &Trial::heads},
      Member{"loss", &Trial::loss},
      Member{"removed", &Trial::removed})
      .def_prop_ro("heads", [](const Trial& self) {
        std::vector<std::pair<int, int>> all;
        for (const auto& head : self.heads)
          all.emplace_back(head.layer, head.head);
        return all;
      });
  bind_result(
      m,
      "InductionAblation",
      Member{"first", &InductionAblation::first},
      Member{"repeated", &InductionAblation::repeated},
      Member{"best", &InductionAblation::best},
      Member{"random", &InductionAblation::random});
  m.def("induction_ablation", &run<AblationOptions, &induction_ablation>);
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
  bind_result(
      m,
      "Check",
      Member{"name", &Check::name},
      Member{"error", &Check::error},
      Member{"bound", &Check::bound},
      Member{"compared", &Check::compared},
      Member{"where", &Check::where})
      .def_prop_ro("passed", &Check::passed)
      .def("__repr__", [](const Check& self) {
        return self.name + (self.passed() ? ": passed" : ": FAILED");
      });
  m.def("verify", [](const Model& model, const Told& progress) {
    const auto told = progress_of(progress);
    nb::gil_scoped_release no_gil;
    return verify(model.model, {.progress = told});
  });
  bind_options<CollectOptions>(
      m,
      "CollectOptions",
      {},
      {{"positions",
        worded(
            &CollectOptions::positions,
            "positions",
            spec::parse_positions,
            spec::name)},
       {"batch_size", field(&CollectOptions::batch_size)},
       {"edits", edits(&CollectOptions::edits)}});
  m.def(
      "collect",
      [](const Model& model,
         const Ids& prompts,
         const std::vector<std::string>& sites,
         const Bound<CollectOptions>& options) {
        const auto inputs = inputs_of(prompts);
        const auto own = options.value;
        std::optional<ActivationCache> found;
        {
          nb::gil_scoped_release no_gil;
          found = collect_activations(model.model, inputs, sites, own);
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
