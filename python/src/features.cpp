// Features of sparse autoencoders and transcoders as sites, what they say and
// how good these are.

#include "mlxterp/sae/features.h"
#include "bind.h"
#include "mlxterp/sae/attach.h"
#include "mlxterp/sae/evaluate.h"
#include "mlxterp/spec/sae.h"

namespace mlxterp::python {

namespace {

void bind_results(nb::module_& m) {
  bind_result<FeatureToken>(
      m,
      "FeatureToken",
      Member{"id", &FeatureToken::id},
      Member{"logit", &FeatureToken::logit});
  bind_result<FeatureLogits>(
      m,
      "FeatureLogits",
      Member{"feature", &FeatureLogits::feature},
      Member{"promoted", &FeatureLogits::promoted},
      Member{"suppressed", &FeatureLogits::suppressed});
  using Activation = FeatureReading::Activation;
  bind_result<Activation>(
      m,
      "FeatureActivation",
      Member{"feature", &Activation::feature},
      Member{"value", &Activation::value});
  using Position = FeatureReading::Position;
  bind_result<Position>(
      m,
      "FeaturePosition",
      Member{"top", &Position::top},
      Member{"active", &Position::active});
  bind_result<SaeSites>(
      m,
      "SaeSites",
      Member{"reads", &SaeSites::reads},
      Member{"writes", &SaeSites::writes});
  bind_result<SaeFit>(
      m,
      "SaeFit",
      Member{"rows", &SaeFit::rows},
      Member{"explained_variance", &SaeFit::explained_variance},
      Member{"fvu", &SaeFit::fvu},
      Member{"l0", &SaeFit::l0});
  bind_result<FeatureReading>(
      m,
      "FeatureReading",
      Member{"sites", &FeatureReading::sites},
      Member{"d_sae", &FeatureReading::d_sae},
      Member{"ids", &FeatureReading::ids},
      Member{"positions", &FeatureReading::positions},
      Member{"logits", &FeatureReading::logits},
      Member{"fit", &FeatureReading::fit});
  using Context = FeatureContexts::Context;
  bind_result<Context>(
      m,
      "FeatureContext",
      Member{"value", &Context::value},
      Member{"ids", &Context::ids},
      Member{"at", &Context::at},
      Member{"document", &Context::document},
      Member{"position", &Context::position});
  bind_result<FeatureContexts>(
      m,
      "FeatureContexts",
      Member{"feature", &FeatureContexts::feature},
      Member{"top", &FeatureContexts::top},
      Member{"active", &FeatureContexts::active});
  bind_result<FeatureText>(
      m,
      "FeatureText",
      Member{"features", &FeatureText::features},
      Member{"tokens", &FeatureText::tokens},
      Member{"windows", &FeatureText::windows});
  using Part = FeatureAttribution::Part;
  bind_result<Part>(
      m,
      "FeaturePart",
      Member{"feature", &Part::feature},
      Member{"activation", &Part::activation},
      Member{"value", &Part::value});
  bind_result<FeatureAttribution>(
      m,
      "FeatureAttribution",
      Member{"sites", &FeatureAttribution::sites},
      Member{"parts", &FeatureAttribution::parts},
      Member{"bias", &FeatureAttribution::bias},
      Member{"error", &FeatureAttribution::error},
      Member{"total", &FeatureAttribution::total});
  using Bin = SaeEvaluation::Bin;
  bind_result<Bin>(
      m,
      "DensityBin",
      Member{"low", &Bin::from},
      Member{"high", &Bin::to},
      Member{"features", &Bin::features});
  using E = SaeEvaluation;
  bind_result<E>(
      m,
      "SaeEvaluation",
      Member{"sites", &E::sites},
      Member{"tokens", &E::tokens},
      Member{"windows", &E::windows},
      Member{"predicted", &E::predicted},
      Member{"explained_variance", &E::explained_variance},
      Member{"fvu", &E::fvu},
      Member{"mse", &E::mse},
      Member{"cosine", &E::cosine},
      Member{"l2_in", &E::l2_in},
      Member{"l2_out", &E::l2_out},
      Member{"l2_ratio", &E::l2_ratio},
      Member{"relative_bias", &E::relative_bias},
      Member{"l0", &E::l0},
      Member{"l1", &E::l1},
      Member{"ce", &E::ce},
      Member{"ce_sae", &E::ce_sae},
      Member{"ce_zero", &E::ce_zero},
      Member{"kl_sae", &E::kl_sae},
      Member{"kl_zero", &E::kl_zero},
      Member{"ce_score", &E::ce_score},
      Member{"kl_score", &E::kl_score},
      Member{"active", &E::active},
      Member{"dead", &E::dead},
      Member{"density", &E::density});
}

}  // namespace

void bind_features(nb::module_& m) {
  m.def(
      "sae_of",
      [](const mx::array& W_enc,
         const mx::array& b_enc,
         const mx::array& W_dec,
         const mx::array& b_dec,
         const std::optional<mx::array>& threshold,
         const std::optional<mx::array>& W_skip,
         const std::string& activation,
         int k,
         const std::string& site,
         const std::string& reads) {
        Sae out{
            .W_enc = W_enc,
            .b_enc = b_enc,
            .W_dec = W_dec,
            .b_dec = b_dec,
            .threshold = threshold,
            .W_skip = W_skip,
            .k = k};
        const auto word = !activation.empty() ? activation
                          : threshold         ? "jump_relu"
                          : k > 0             ? "topk"
                                              : "relu";
        out.activation = spec::parse_sae_activation(word, "activation");
        const bool other = W_enc.ndim() == 2 && W_dec.ndim() == 2 &&
                           W_enc.shape(0) != W_dec.shape(1);
        if (W_skip || other || (!reads.empty() && reads != site))
          out.kind = SaeKind::transcoder;
        out.source.site_out = site;
        out.source.site_in = reads.empty() ? site : reads;
        check(out);
        return out;
      },
      nb::arg("W_enc"),
      nb::arg("b_enc"),
      nb::arg("W_dec"),
      nb::arg("b_dec"),
      nb::arg("threshold").none(),
      nb::arg("W_skip").none(),
      nb::arg("activation"),
      nb::arg("k"),
      nb::arg("site"),
      nb::arg("reads"));
  bind_results(m);
  m.def(
      "attach_sae",
      [](const Model& self,
         const Sae& sae,
         const std::string& mode,
         const std::string& name,
         const std::string& site,
         const std::string& reads,
         const std::optional<Ids>& check_on) {
        SaeAttachOptions options{
            .mode = spec::parse_attach_mode(mode, "mode"),
            .name = name,
            .site = site,
            .reads = reads};
        if (check_on) options.check_on = inputs_of(*check_on);
        const auto attached = [&] {
          nb::gil_scoped_release no_gil;
          return attach_sae(self.model, sae, options);
        }();
        return Model{
            attached, self.path, self.model_type, self.modules, self.updated};
      },
      nb::arg("model"),
      nb::arg("sae"),
      nb::arg("mode"),
      nb::arg("name"),
      nb::arg("site"),
      nb::arg("reads"),
      nb::arg("check_on").none());
  m.def(
      "sae_sites",
      [](const Model& model,
         const Sae& sae,
         const std::string& site,
         const std::string& reads) {
        return sae_sites(model.model, sae, site, reads);
      });
  bind_options<FeatureOptions>(
      m,
      "FeatureOptions",
      {},
      {{"top", field(&FeatureOptions::top)},
       {"features", field(&FeatureOptions::features)},
       {"tokens", field(&FeatureOptions::tokens)},
       {"site", field(&FeatureOptions::site)},
       {"reads", field(&FeatureOptions::reads)},
       {"name", field(&FeatureOptions::name)}});
  m.def(
      "read_features",
      [](const Model& model,
         const Sae& sae,
         const Ids& prompt,
         const Bound<FeatureOptions>& options) {
        const auto own = options.value;
        const auto inputs = inputs_of(prompt);
        nb::gil_scoped_release no_gil;
        return read_features(model.model, sae, inputs, own);
      });
  bind_options<FeatureContextOptions>(
      m,
      "FeatureContextOptions",
      {},
      {{"features", field(&FeatureContextOptions::features)},
       {"top", field(&FeatureContextOptions::top)},
       {"before", field(&FeatureContextOptions::before)},
       {"after", field(&FeatureContextOptions::after)},
       {"length", field(&FeatureContextOptions::length)},
       {"batch_size", field(&FeatureContextOptions::batch_size)},
       {"tokens", field(&FeatureContextOptions::tokens)},
       {"site", field(&FeatureContextOptions::site)},
       {"reads", field(&FeatureContextOptions::reads)}});
  m.def(
      "feature_contexts",
      [](const Model& model,
         const Sae& sae,
         const std::string& text,
         const Bound<FeatureContextOptions>& options) {
        const auto own = options.value;
        nb::gil_scoped_release no_gil;
        return feature_contexts(model.model, sae, checked_path(text), own);
      });
  m.def(
      "feature_logits",
      [](const Model& model,
         const Sae& sae,
         const std::vector<int>& features,
         int top,
         const SaeSites& sites) {
        nb::gil_scoped_release no_gil;
        return feature_logits(model.model, sae, features, top, sites);
      });
  m.def(
      "feature_attribution",
      [](const Model& model,
         const Sae& sae,
         const Ids& prompt,
         const Metric& metric,
         const SaeSites& sites) {
        const auto inputs = inputs_of(prompt);
        const auto own = metric;
        nb::gil_scoped_release no_gil;
        return feature_attribution(model.model, sae, inputs, own, sites);
      });
  m.def(
      "feature_direction",
      [](const Model& model,
         const Sae& sae,
         int feature,
         const SaeSites& sites) {
        nb::gil_scoped_release no_gil;
        return feature_direction(model.model, sae, feature, sites);
      });
  bind_options<SaeEvalOptions>(
      m,
      "SaeEvalOptions",
      {},
      {{"length", field(&SaeEvalOptions::length)},
       {"tokens", field(&SaeEvalOptions::tokens)},
       {"first", field(&SaeEvalOptions::first)},
       {"site", field(&SaeEvalOptions::site)},
       {"reads", field(&SaeEvalOptions::reads)}});
  m.def(
      "evaluate_sae",
      [](const Model& model,
         const Sae& sae,
         const std::optional<Ids>& prompts,
         const std::string& text,
         const Bound<SaeEvalOptions>& options) {
        const auto own = options.value;
        std::optional<Inputs> inputs;
        if (prompts) inputs = inputs_of(*prompts);
        nb::gil_scoped_release no_gil;
        return inputs ? evaluate_sae(model.model, sae, *inputs, own)
                      : evaluate_sae_on_text(
                            model.model, sae, checked_path(text), own);
      },
      nb::arg("model"),
      nb::arg("sae"),
      nb::arg("prompts").none(),
      nb::arg("text"),
      nb::arg("options"));
}

}  // namespace mlxterp::python
