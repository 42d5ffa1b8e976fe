#include <cmath>
#include <limits>
#include <vector>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/sae/attach.h"
#include "sae/rows.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr double clearly = 0.1;  // EV of a guess worth telling

// Rows of the two sites.
struct Values {
  mx::array x, target;
};

Values values_of(
    const InterpretableModel& model,
    const Inputs& prompts,
    const SaeSites& sites) {
  const auto run =
      collect_activations(model, prompts, {sites.reads, sites.writes});
  return {
      rows_behind_first(run, sites.reads),
      rows_behind_first(run, sites.writes)};
}

SaeFit fit_of(const Sae& sae, const Values& values) {
  SaeFitter fitter;
  const auto acts = encode(sae, values.x);
  if (sae.kind == SaeKind::cross_layer)
    fitter.add(values.target, values.target, acts);
  else
    fitter.add(values.target, decode(sae, acts, values.x), acts);
  return fitter.fit();
}

struct Guess {
  double explained = -std::numeric_limits<double>::infinity();
  std::string cause = {};
};

// The same sites `by` layers on; empty: there are none.
std::optional<SaeSites> moved(
    const InterpretableModel& model, const SaeSites& sites, int by) {
  SaeSites out;
  for (const auto& [from, to] :
       {std::pair(&sites.reads, &out.reads), {&sites.writes, &out.writes}}) {
    const auto& catalog = model.sites();
    const auto& site = catalog[catalog.find(*from)];
    *to = fmt::format("layers.{}.{}", site.layer + by, site.relative());
    if (site.layer < 0 || !catalog.contains(*to)) return std::nullopt;
    *to = catalog[catalog.find(*to)].name;
  }
  return out;
}

// What explains it best of all that goes wrong usually.
Guess best_guess(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeSites& sites) {
  Guess best;
  const auto consider = [&](const Sae& it, const Values& v, std::string cause) {
    if (v.x.shape(-1) != it.d_in() || v.target.shape(-1) != it.d_out()) return;
    const double explained = fit_of(it, v).explained_variance;
    if (explained > best.explained) best = {explained, std::move(cause)};
  };
  for (const int by : {-1, 1, -2, 2})
    if (const auto other = moved(model, sites, by))
      consider(
          sae,
          values_of(model, prompts, *other),
          fmt::format(
              "at '{}' it explains {{:.2f}}, so its layer is probably off by "
              "{}; name that site",
              other->writes,
              std::abs(by)));
  const auto& catalog = model.sites();
  const int layer = catalog[catalog.find(sites.reads)].layer;
  if (sae.kind == SaeKind::sae && layer >= 0)
    for (const auto* part :
         {"resid_pre",
          "resid_mid",
          "resid_post",
          "attn_out",
          "mlp_out",
          "ln1.normalized",
          "ln2.normalized",
          "mlp.input"}) {
      const auto name = fmt::format("layers.{}.{}", layer, part);
      if (!catalog.contains(name)) continue;
      const auto& other = catalog[catalog.find(name)].name;
      if (other == sites.reads) continue;
      consider(
          sae,
          values_of(model, prompts, {other, other}),
          fmt::format(
              "at '{}' it explains {{:.2f}}, so that is probably its site; "
              "name it",
              name));
    }
  if (sae.norm == SaeNorm::none) {
    const auto here = values_of(model, prompts, sites);
    const auto mean =
        mx::mean(mx::sqrt(mx::sum(mx::square(here.x), -1))).item<float>();
    const float scale = std::sqrt(static_cast<float>(sae.d_in())) / mean;
    if (std::isfinite(scale) && scale > 0)
      consider(
          fold_scale(sae, scale),
          here,
          fmt::format(
              "of inputs times {:.4g}, whose mean length is then sqrt(d), it "
              "explains {{:.2f}}, so it was probably trained on scaled "
              "activations; give that scale when it is loaded",
              scale));
  }
  return best;
}

}  // namespace

mx::array rows_behind_first(
    const ActivationCache& run, const std::string& site) {
  auto x = run[site];
  x = mx::reshape(mx::astype(x, mx::float32), {x.shape(0), -1});
  std::vector<int> kept;
  int at = 0;
  for (const int length : run.lengths()) {
    for (int i = length > 1 ? 1 : 0; i < length; ++i)
      kept.push_back(at + i);
    at += length;
  }
  return mx::take(
      x, mx::array(kept.data(), {static_cast<int>(kept.size())}, mx::int32), 0);
}

SaeFit sae_fit(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeSites& sites) {
  return fit_of(sae, values_of(model, prompts, sites));
}

void check_fit(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeSites& sites) {
  const auto fit = sae_fit(model, sae, prompts, sites);
  if (fit.rows < 2)
    fail(
        ErrorKind::usage,
        "[sae] whether it fits cannot be told from so few tokens; give 3 at "
        "least, better a paragraph");
  if (doubt(sae, fit).empty() && !std::isnan(fit.explained_variance)) return;
  auto found = fmt::format(
      "[sae] {} explains {:.2f} of the variance at '{}' ({} positions), with "
      "{:.1f} active features{}",
      sae.source.file.empty() ? "this SAE" : printable(sae.source.file),
      fit.explained_variance,
      sites.writes,
      fit.rows,
      fit.l0,
      sae.source.l0 ? fmt::format(" where its file says {:.1f}", *sae.source.l0)
                    : std::string());
  const auto best = best_guess(model, sae, prompts, sites);
  if (best.explained > std::max(clearly, fit.explained_variance))
    fail(
        ErrorKind::usage,
        "{}: {}",
        found,
        fmt::format(fmt::runtime(best.cause), best.explained));
  fail(
      ErrorKind::usage,
      "{}; no neighbouring site and no scale does better: was it trained on "
      "another model{}? Leave out the check to use it all the same",
      found,
      sae.source.model.empty()
          ? std::string()
          : fmt::format(" (its file says {})", printable(sae.source.model)));
}

}  // namespace mlxterp
