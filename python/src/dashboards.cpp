// Feature dashboards: what is gathered of a text, and its files.

#include "bind.h"
#include "mlxterp/report/dashboard.h"
#include "mlxterp/spec/sae.h"
#include "mlxterp/view/dashboard.h"
#include "sae.h"

namespace mlxterp::python {

namespace {

void bind_results(nb::module_& m) {
  using Example = FeatureExample;
  bind_result<Example>(
      m,
      "FeatureExample",
      Member{"value", &Example::value},
      Member{"ids", &Example::ids},
      Member{"acts", &Example::acts},
      Member{"at", &Example::at},
      Member{"document", &Example::document},
      Member{"window", &Example::window},
      Member{"position", &Example::position});
  bind_result<FeatureHistogram>(
      m,
      "FeatureHistogram",
      Member{"low", &FeatureHistogram::from},
      Member{"width", &FeatureHistogram::width},
      Member{"counts", &FeatureHistogram::counts});
  using D = FeatureDashboard;
  bind_result<D::Interval>(
      m,
      "FeatureInterval",
      Member{"low", &D::Interval::from},
      Member{"high", &D::Interval::to},
      Member{"positions", &D::Interval::positions},
      Member{"examples", &D::Interval::examples});
  bind_result<D::Similar>(
      m,
      "SimilarFeature",
      Member{"feature", &D::Similar::feature},
      Member{"cosine", &D::Similar::cosine});
  bind_result<D::Correlated>(
      m,
      "CorrelatedFeature",
      Member{"feature", &D::Correlated::feature},
      Member{"pearson", &D::Correlated::pearson},
      Member{"cosine", &D::Correlated::cosine},
      Member{"both", &D::Correlated::both});
  bind_result<D>(
      m,
      "FeatureDashboard",
      Member{"feature", &D::feature},
      Member{"active", &D::active},
      Member{"largest", &D::largest},
      Member{"mean", &D::mean},
      Member{"activations", &D::activations},
      Member{"top", &D::top},
      Member{"intervals", &D::intervals},
      Member{"promoted", &D::promoted},
      Member{"suppressed", &D::suppressed},
      Member{"logits", &D::logits},
      Member{"similar", &D::similar},
      Member{"correlated", &D::correlated});
  using All = FeatureDashboards;
  bind_result<All>(
      m,
      "FeatureDashboards",
      Member{"sites", &All::sites},
      Member{"d_sae", &All::d_sae},
      Member{"length", &All::length},
      Member{"tokens", &All::tokens},
      Member{"windows", &All::windows},
      Member{"seed", &All::seed},
      Member{"features", &All::features});
}

report::DashboardReport report_of(
    const Model& model,
    const FeatureDashboards& found,
    const std::string& sae,
    const std::string& text) {
  return {.model = model.path, .sae = sae, .text = text, .result = found};
}

view::TokenLabels labels_of(const Model& model) {
  return [&](const std::vector<int>& ids) {
    return report::labels(model.model, ids);
  };
}

}  // namespace

void bind_dashboards(nb::module_& m) {
  bind_results(m);
  using O = DashboardOptions;
  bind_options<O>(
      m,
      "DashboardOptions",
      {},
      {{"features", field(&O::features)},
       {"top", field(&O::top)},
       {"intervals", field(&O::intervals)},
       {"per_interval", field(&O::per_interval)},
       {"before", field(&O::before)},
       {"after", field(&O::after)},
       {"bins", field(&O::bins)},
       {"tokens_shown", field(&O::tokens_shown)},
       {"neighbours", field(&O::neighbours)},
       {"length", field(&O::length)},
       {"batch_size", field(&O::batch_size)},
       {"tokens", field(&O::tokens)},
       {"seed", field(&O::seed)},
       {"site", field(&O::site)},
       {"reads", field(&O::reads)}});
  m.def(
      "parse_features",
      [](const std::vector<std::string>& texts, const Sae& sae, uint64_t seed) {
        return spec::parse_features(texts, sae, seed);
      });
  m.def(
      "feature_dashboards",
      [](const Model& model,
         const Sae& sae,
         const std::optional<Ids>& prompts,
         const std::string& text,
         const Bound<O>& options) {
        const auto own = options.value;
        std::optional<Inputs> inputs;
        if (prompts) inputs = inputs_of(*prompts);
        nb::gil_scoped_release no_gil;
        return inputs ? feature_dashboards(model.model, sae, *inputs, own)
                      : feature_dashboards_of_text(
                            model.model, sae, checked_path(text), own);
      },
      nb::arg("model"),
      nb::arg("sae"),
      nb::arg("prompts").none(),
      nb::arg("text"),
      nb::arg("options"));
  m.def(
      "dashboards_json",
      [](const Model& model,
         const FeatureDashboards& found,
         const std::string& sae,
         const std::string& text) {
        return report::to_json(model.model, report_of(model, found, sae, text));
      });
  m.def(
      "dashboards_page",
      [](const Model& model,
         const FeatureDashboards& found,
         const std::string& sae,
         const std::string& text) {
        return view::dashboards_page(
            report_of(model, found, sae, text), labels_of(model), "");
      });
  m.def(
      "dashboards_pages",
      [](const Model& model,
         const FeatureDashboards& found,
         const std::string& sae,
         const std::string& text) {
        return view::dashboards_folder(
            report_of(model, found, sae, text), labels_of(model), "");
      });
  m.def(
      "write_neuronpedia",
      [](const Model& model,
         const FeatureDashboards& found,
         const std::string& sae,
         const std::string& text,
         const std::string& folder,
         const std::map<std::string, std::string>& names,
         bool overwrite) {
        const auto named = [&](const char* name) {
          const auto it = names.find(name);
          return it == names.end() ? "" : it->second;
        };
        return report::write_neuronpedia(
                   model.model,
                   report_of(model, found, sae, text),
                   checked_path(folder),
                   {.model = named("model"),
                    .source_set = named("source_set"),
                    .release = named("release"),
                    .creator = named("creator"),
                    .creator_id = named("creator_id")},
                   overwrite)
            .string();
      });
}

}  // namespace mlxterp::python
