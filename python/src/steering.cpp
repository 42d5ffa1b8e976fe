// Steering vectors: training, measuring, applying, files.

#include "mlxterp/analysis/steering.h"
#include "bind.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/steer_sweep.h"
#include "mlxterp/report/steering.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/view/heatmap.h"

namespace mlxterp::python {

namespace {

using Directions = std::map<int, mx::array>;
using Norms = std::map<int, float>;

// Raises where warnings are errors.
void warn_user(std::string_view sentence) {
  if (PyErr_WarnEx(PyExc_UserWarning, std::string(sentence).c_str(), 1) < 0)
    throw nb::python_error();
}

SteeringVector made(
    const Directions& directions,
    const Norms& norms,
    const std::string& operation,
    const std::string& method,
    const std::string& model_type) {
  SteeringVector out;
  for (const auto& [layer, direction] : directions) {
    SteeringVector::Layer it{layer, mx::astype(direction, mx::float32)};
    if (const auto found = norms.find(layer); found != norms.end())
      it.residual_norm = found->second;
    out.layers.push_back(std::move(it));
  }
  out.operation = spec::parse_steering_operation(operation);
  out.method = method;
  out.model_type = model_type;
  out.check();
  return out;
}

Directions directions_of(const SteeringVector& self) {
  Directions out;
  for (const auto& it : self.layers)
    out.insert_or_assign(it.layer, it.direction);
  return out;
}

Norms norms_of(const SteeringVector& self) {
  Norms out;
  for (const auto& it : self.layers)
    out[it.layer] = it.residual_norm;
  return out;
}

using State = std::tuple<
    Directions,
    Norms,
    std::string,
    std::string,
    std::string,
    std::string,
    int,
    std::string,
    size_t,
    std::vector<int>>;

void bind_vector(nb::module_& m) {
  nb::class_<SteeringVector>(
      m,
      "SteeringVector",
      "A direction [d_model] for each of some layers, at layers.N.resid_post.")
      .def(
          "__init__",
          [](SteeringVector* self,
             const Directions& directions,
             const Norms& norms,
             const std::string& operation,
             const std::string& method,
             const std::string& model_type) {
            new (self) SteeringVector(
                made(directions, norms, operation, method, model_type));
          },
          nb::arg("directions"),
          nb::arg("residual_norms") = Norms(),
          nb::arg("operation") = "add",
          nb::arg("method") = "",
          nb::arg("model_type") = "")
      .def_prop_ro(
          "layers",
          [](const SteeringVector& self) {
            std::vector<int> out;
            for (const auto& it : self.layers)
              out.push_back(it.layer);
            return out;
          })
      .def_prop_ro("directions", &directions_of, "By layer, float32 [d_model].")
      .def_prop_ro(
          "residual_norms",
          &norms_of,
          "By layer, the residual stream's mean length, in which strengths "
          "count; NaN: not known.")
      .def_prop_ro("d_model", &SteeringVector::d_model)
      .def_prop_ro(
          "operation",
          [](const SteeringVector& self) { return name(self.operation); },
          "What it is meant for: add, project_out, clamp or ablate.")
      .def_ro("method", &SteeringVector::method)
      .def_ro("model", &SteeringVector::model)
      .def_ro("model_type", &SteeringVector::model_type)
      .def_ro("model_layers", &SteeringVector::model_layers)
      .def_ro("tokenizer", &SteeringVector::tokenizer)
      .def_ro("pairs", &SteeringVector::pairs)
      .def_ro("positions", &SteeringVector::positions)
      .def(
          "__getitem__",
          [](const SteeringVector& self, int layer) {
            return self.at(layer).direction;
          })
      .def(
          "of_layers",
          &SteeringVector::of_layers,
          nb::arg("layers"),
          "These layers alone; negative ones count from the model's end.")
      .def(
          "of_strength",
          &SteeringVector::of_strength,
          nb::arg("strength"),
          "With directions as long as that share of the residual stream.")
      .def(
          "save",
          [](const SteeringVector& self,
             const std::string& path,
             bool overwrite) { self.save(checked_path(path), overwrite); },
          nb::arg("path"),
          nb::arg("overwrite") = false,
          "As safetensors.")
      .def_static(
          "load",
          [](const std::string& path) {
            return SteeringVector::load(checked_path(path));
          },
          nb::arg("path"))
      .def(
          "save_gguf",
          [](const SteeringVector& self,
             const std::string& path,
             bool overwrite) {
            self.save_gguf(checked_path(path), warn_user, overwrite);
          },
          nb::arg("path"),
          nb::arg("overwrite") = false,
          "As llama.cpp and repeng read it; without layer 0, of which they "
          "know nothing.")
      .def_static(
          "load_gguf",
          [](const std::string& path, const std::string& numbers) {
            return SteeringVector::load_gguf(
                checked_path(path), spec::parse_gguf_layers(numbers));
          },
          nb::arg("path"),
          nb::arg("gguf_layers") = "repeng",
          "A GGUF control vector; of llama.cpp's own generator say "
          "\"cvector-generator\", whose direction.N was measured a layer "
          "earlier.")
      .def(
          "__getstate__",
          [](const SteeringVector& self) -> State {
            return {
                directions_of(self),
                norms_of(self),
                name(self.operation),
                self.method,
                self.model,
                self.model_type,
                self.model_layers,
                self.tokenizer,
                self.pairs,
                self.positions};
          })
      .def(
          "__setstate__",
          [](SteeringVector& self, const State& state) {
            const auto& [directions, norms, operation, method, model, type, layers, tokenizer, pairs, positions] =
                state;
            auto own = made(directions, norms, operation, method, type);
            own.model = model;
            own.model_layers = layers;
            own.tokenizer = tokenizer;
            own.pairs = pairs;
            own.positions = positions;
            new (&self) SteeringVector(std::move(own));
          })
      .def("__repr__", [](nb::handle self) {
        return nb::str(
                   "SteeringVector(layers={}, d_model={}, method={!r}, "
                   "operation={!r})")
            .format(
                self.attr("layers"),
                self.attr("d_model"),
                self.attr("method"),
                self.attr("operation"));
      });
  m.def(
      "with_norms",
      [](const SteeringVector& vector, const Model& model, const Ids& prompts) {
        const auto inputs = inputs_of(prompts);
        nb::gil_scoped_release no_gil;
        return with_norms(vector, model.model, inputs);
      },
      nb::arg("vector"),
      nb::arg("model"),
      nb::arg("prompts"));
  m.def("read_steering_pairs", [](const std::string& path) {
    const auto pairs = read_steering_pairs(checked_path(path));
    return std::pair(pairs.positive, pairs.negative);
  });
  m.attr("neutral_text") = neutral_text;
}

void bind_training(nb::module_& m) {
  bind_result(
      m,
      "DirectionQuality",
      Member{"layer", &DirectionQuality::layer},
      Member{"norm", &DirectionQuality::norm},
      Member{"residual_norm", &DirectionQuality::residual_norm},
      Member{"cosine", &DirectionQuality::cosine},
      Member{"auc", &DirectionQuality::auc},
      Member{"d_prime", &DirectionQuality::d_prime});
  bind_result(
      m,
      "SteeringTraining",
      Member{"vector", &SteeringTraining::vector},
      Member{"layers", &SteeringTraining::layers});
  bind_options<SteerTrainOptions>(
      m,
      "SteerTrainOptions",
      {.positive = no_prompts, .negative = no_prompts},
      {{"positive", prompts(&SteerTrainOptions::positive)},
       {"negative", prompts(&SteerTrainOptions::negative)},
       {"method",
        worded(
            &SteerTrainOptions::method,
            "method",
            spec::parse_steering_method,
            name)},
       {"layers", field(&SteerTrainOptions::layers)},
       {"positions", field(&SteerTrainOptions::positions)},
       {"operation",
        worded(
            &SteerTrainOptions::operation,
            "operation",
            spec::parse_steering_operation,
            name)},
       {"batch_size", field(&SteerTrainOptions::batch_size)}});
  m.def(
      "steer_train",
      [](const Model& model, const Bound<SteerTrainOptions>& options) {
        auto own = options.value;
        own.model = model.path;
        nb::gil_scoped_release no_gil;
        return steer_train(model.model, own);
      });
  m.def(
      "steer",
      [](const Model& model,
         const SteeringVector& vector,
         float strength,
         const std::string& operation,
         const std::vector<int>& layers,
         bool any_model) {
        SteerOptions options;
        options.operation = spec::parse_steering_operation(operation);
        options.strength = strength;
        options.layers = layers;
        options.any_model = any_model;
        const auto found = steer(model.model, vector, options);
        std::vector<std::pair<std::string, Intervention>> edits;
        for (const auto& edit : found.edits)
          edits.emplace_back(edit.site, edit.apply);
        return std::pair(edits, found.told);
      });
}

void bind_sweep(nb::module_& m) {
  bind_result(
      m,
      "SteerResponse",
      Member{"layer", &SteerResponse::layer},
      Member{"residual_norm", &SteerResponse::residual_norm},
      Member{"slope", &SteerResponse::slope},
      Member{"low", &SteerResponse::low},
      Member{"high", &SteerResponse::high},
      Member{"contrary", &SteerResponse::contrary},
      Member{"random", &SteerResponse::random});
  bind_result(
      m,
      "SteeringSweep",
      Member{"layers", &SteeringSweep::layers},
      Member{"strengths", &SteeringSweep::strengths},
      Member{"prompts", &SteeringSweep::prompts},
      Member{"unsteered", &SteeringSweep::unsteered},
      Member{"metric", &SteeringSweep::metric},
      Member{"slopes", &SteeringSweep::slopes},
      Member{"random_slopes", &SteeringSweep::random_slopes},
      Member{"perplexity", &SteeringSweep::perplexity},
      Member{"kl", &SteeringSweep::kl},
      Member{"neutral_perplexity", &SteeringSweep::neutral_perplexity},
      Member{"neutral_tokens", &SteeringSweep::neutral_tokens},
      Member{"rows", &SteeringSweep::rows})
      .def("change", &SteeringSweep::change);
  bind_options<SteerSweepOptions>(
      m,
      "SteerSweepOptions",
      {.prompts = no_prompts, .metric = {}},
      {{"prompts", prompts(&SteerSweepOptions::prompts)},
       {"metric", field(&SteerSweepOptions::metric)},
       {"layers", field(&SteerSweepOptions::layers)},
       {"strengths", field(&SteerSweepOptions::strengths)},
       {"positions", field(&SteerSweepOptions::positions)},
       {"neutral", prompts(&SteerSweepOptions::neutral)},
       {"random", field(&SteerSweepOptions::random)},
       {"seed", field(&SteerSweepOptions::seed)},
       {"resamples", field(&SteerSweepOptions::resamples)},
       {"any_model", field(&SteerSweepOptions::any_model)},
       {"one_pass_per_cell", field(&SteerSweepOptions::one_pass_per_cell)}});
  m.def(
      "steer_sweep",
      [](const Model& model,
         const SteeringVector& vector,
         const Bound<SteerSweepOptions>& options) {
        const auto own = options.value;
        nb::gil_scoped_release no_gil;
        return steer_sweep(model.model, vector, own);
      });
  using report::SteerReport;
  nb::class_<SteerReport>(m, "SteerReport")
      .def(
          "to_json",
          [](const SteerReport& self) { return report::to_json(self); })
      .def("to_html", [](const SteerReport& self) {
        return view::heatmap_page(report::heatmap(self));
      });
  m.def(
      "report",
      [](const Model& model,
         const Bound<SteerSweepOptions>& options,
         const SteeringSweep& sweep) {
        SteerReport out;
        out.model = model.path;
        out.metric = options.value.metric.name;
        out.random = options.value.random;
        out.seed = options.value.seed;
        out.sweep = sweep;
        return out;
      });
}

}  // namespace

void bind_steering(nb::module_& m) {
  m.def(
      "project_out",
      &project_out,
      nb::arg("directions"),
      "Without what lies in the space of `directions`, [feature] or [n, "
      "feature].");
  m.def(
      "clamp_along",
      &clamp_along,
      nb::arg("direction"),
      nb::arg("value"),
      "With its coordinate along the unit vector of `direction`, [feature], "
      "set "
      "to `value`.");
  bind_vector(m);
  bind_training(m);
  bind_sweep(m);
}

}  // namespace mlxterp::python
