#include "jacobian.h"

#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/jacobian_space.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/lens_edits.h"
#include "mlxterp/analysis/local_lens.h"
#include "rules.h"

namespace mlxterp::python {

namespace {

void bind_source(nb::module_& m) {
  nb::class_<JacobianSource>(m, "JacobianSource")
      .def_ro("model", &JacobianSource::model)
      .def_ro("weights", &JacobianSource::weights)
      .def_ro("tokenizer", &JacobianSource::tokenizer)
      .def_ro("corpus", &JacobianSource::corpus)
      .def_ro("model_layers", &JacobianSource::model_layers)
      .def_ro("target_layer", &JacobianSource::target_layer)
      .def_ro("length", &JacobianSource::length)
      .def_ro("skip", &JacobianSource::skip)
      .def_ro("prompts", &JacobianSource::prompts)
      .def_ro("converged", &JacobianSource::converged)
      .def_prop_ro(
          "rule", [](const JacobianSource& self) { return name(self.rule); });
}

void bind_local(nb::module_& m) {
  nb::class_<LocalLens>(m, "LocalLens")
      .def_ro("layers", &LocalLens::layers)
      .def_ro("tokens", &LocalLens::tokens)
      .def_ro("ids", &LocalLens::ids)
      .def_ro("skip", &LocalLens::skip)
      .def_ro("directions", &LocalLens::directions)
      .def_ro("cosines", &LocalLens::cosines)
      .def_ro("source", &LocalLens::source)
      .def(
          "save",
          [](const LocalLens& self, const std::string& path, bool overwrite) {
            self.save(checked_path(path), overwrite);
          });
  m.def(
      "local_lens",
      [](const Model& model,
         const Ids& prompt,
         const std::vector<int>& tokens,
         const Bound<JacobianOptions>& options,
         const JacobianLens* lens) {
        const auto inputs = inputs_of(prompt);
        const LocalLensOptions own{
            .layers = options.value.layers,
            .skip = options.value.skip,
            .rule = options.value.rule,
            .lens = lens};
        nb::gil_scoped_release no_gil;
        return local_lens(
            model.model, model.model.token_ids(inputs)[0], tokens, own);
      },
      nb::arg("model"),
      nb::arg("prompt"),
      nb::arg("tokens"),
      nb::arg("options"),
      nb::arg("lens").none());
}

void bind_space(nb::module_& m) {
  nb::class_<SparseCode>(m, "SparseCode")
      .def_ro("tokens", &SparseCode::tokens)
      .def_ro("coefficients", &SparseCode::coefficients)
      .def_ro("explained", &SparseCode::explained);
  nb::class_<JacobianSpace>(m, "JacobianSpace")
      .def_ro("ids", &JacobianSpace::ids)
      .def_ro("layers", &JacobianSpace::layers)
      .def_ro("positions", &JacobianSpace::positions)
      .def_ro("codes", &JacobianSpace::codes)
      .def_ro("controls", &JacobianSpace::controls)
      .def_ro("occupancy", &JacobianSpace::occupancy);
  m.def(
      "sparse_codes",
      [](const Model& model,
         const JacobianLens& lens,
         int layer,
         const mlx::core::array& h,
         int k,
         const std::string& method) {
        const SparseOptions own{.k = k, .method = sparse_method(method)};
        nb::gil_scoped_release no_gil;
        return sparse_codes(model.model, lens, layer, h, own);
      });
  m.def(
      "jacobian_space",
      [](const Model& model,
         const JacobianLens& lens,
         const Ids& prompt,
         const std::vector<int>& layers,
         const std::vector<int>& positions,
         int k,
         const std::string& method,
         int controls,
         uint64_t seed) {
        const auto inputs = inputs_of(prompt);
        const SpaceOptions own{
            .layers = layers,
            .positions = positions,
            .sparse = {.k = k, .method = sparse_method(method)},
            .controls = controls,
            .seed = seed};
        nb::gil_scoped_release no_gil;
        return jacobian_space(model.model, lens, inputs, own);
      });
}

void bind_edits(nb::module_& m) {
  m.def(
      "lens_steer", &lens_steer, nb::arg("vector"), nb::arg("strength") = 4.0f);
  m.def("lens_ablate", &lens_ablate, nb::arg("vectors"));
  m.def(
      "lens_swap",
      &lens_swap,
      nb::arg("source"),
      nb::arg("target"),
      nb::arg("strength") = 1.0f);
  m.def(
      "lens_clamp",
      &lens_clamp,
      nb::arg("source"),
      nb::arg("target"),
      nb::arg("clean"),
      nb::arg("strength") = 1.0f);
  m.def(
      "lens_coordinates",
      &lens_coordinates,
      nb::arg("h"),
      nb::arg("source"),
      nb::arg("target"));
}

}  // namespace

void bind_jacobian(nb::module_& m) {
  bind_source(m);
  nb::class_<JacobianLens>(m, "JacobianLens")
      .def_ro("layers", &JacobianLens::layers)
      .def_ro("matrices", &JacobianLens::matrices)
      .def_ro("source", &JacobianLens::source)
      .def_prop_ro("d_model", &JacobianLens::d_model)
      .def("at", &JacobianLens::at)
      .def("__call__", &JacobianLens::operator())
      .def(
          "directions",
          [](const JacobianLens& self,
             const Model& model,
             const std::vector<int>& tokens,
             int layer) { return self.directions(model.model, tokens, layer); })
      .def(
          "check_fits",
          [](const JacobianLens& self, const Model& model, bool any_model) {
            self.check_fits(model.model, any_model);
          })
      .def(
          "save",
          [](const JacobianLens& self,
             const std::string& path,
             bool overwrite) { self.save(checked_path(path), overwrite); })
      .def_static("load", [](const std::string& path) {
        return JacobianLens::load(checked_path(path));
      });
  m.def("merge_jacobian_lenses", &merge);
  bind_options<JacobianOptions>(
      m,
      "JacobianOptions",
      {},
      {{"layers", field(&JacobianOptions::layers)},
       {"skip", field(&JacobianOptions::skip)},
       {"rule", rule_field(&JacobianOptions::rule)},
       {"tolerance", field(&JacobianOptions::tolerance)},
       {"least", field(&JacobianOptions::least)},
       {"resume", field(&JacobianOptions::resume)},
       {"checkpoint", {[](JacobianOptions& self, nb::handle value) {
          self.checkpoint = checked_path(nb::cast<std::string>(value));
        }}},
       {"name", field(&JacobianOptions::model)}});
  m.def(
      "lens_prompts",
      [](const Model& model, const std::string& text, int length, int least) {
        return lens_prompts(model.model, checked_text(text), length, least);
      });
  m.def(
      "fit_jacobian_lens",
      [](const Model& model,
         const std::vector<std::vector<int>>& prompts,
         const Bound<JacobianOptions>& options) {
        const auto own = options.value;
        JacobianFit fit;
        {
          nb::gil_scoped_release no_gil;
          fit = fit_jacobian_lens(model.model, prompts, own);
        }
        return nb::make_tuple(std::move(fit.lens), std::move(fit.changes));
      });
  m.def(
      "lens_directions",
      [](const Model& model,
         const std::vector<int>& tokens,
         const std::vector<std::vector<int>>& prompts,
         const Bound<JacobianOptions>& options) {
        const auto own = options.value;
        LensDirections found;
        {
          nb::gil_scoped_release no_gil;
          found = lens_directions(model.model, tokens, prompts, own);
        }
        return nb::make_tuple(
            std::move(found.layers), std::move(found.directions));
      });
  // Beside `logit_lens`, whose options hold no lens.
  m.def(
      "jacobian_readout",
      [](const Model& model,
         const Ids& prompt,
         const Bound<LensOptions>& options,
         const JacobianLens& lens) {
        const auto inputs = inputs_of(prompt);
        auto own = options.value;
        own.jacobian = &lens;
        nb::gil_scoped_release no_gil;
        return logit_lens(model.model, inputs, own);
      });
  bind_local(m);
  bind_space(m);
  bind_edits(m);
}

}  // namespace mlxterp::python
