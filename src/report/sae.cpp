#include "mlxterp/report/sae.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "report/json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

Spread spread(const mx::array& values) {
  const auto least = mx::min(values), mean = mx::mean(values),
             most = mx::max(values);
  mx::eval(least, mean, most);
  return {least.item<float>(), mean.item<float>(), most.item<float>()};
}

Json json_of(const Spread& it) {
  return {
      {"min", number(it.least)},
      {"mean", number(it.mean)},
      {"max", number(it.most)}};
}

Json or_null(const std::optional<double>& value) {
  return value ? number(*value) : Json(nullptr);
}

}  // namespace

SaeInfo sae_info(std::string name, Sae sae) {
  SaeInfo out{.name = std::move(name), .sae = std::move(sae)};
  const auto& it = out.sae;
  const auto rows = mx::reshape(it.W_dec, {it.d_sae(), -1});
  out.decoder_norm = spread(mx::sqrt(mx::sum(mx::square(rows), -1)));
  if (it.threshold) out.threshold = spread(*it.threshold);
  return out;
}

SaeInfo sae_info(std::string name, const SaeSet& set) {
  auto out = sae_info(std::move(name), set.layer(0));
  out.set = set;
  return out;
}

size_t parameters(const Sae& sae) {
  size_t n =
      sae.W_enc.size() + sae.b_enc.size() + sae.W_dec.size() + sae.b_dec.size();
  if (sae.threshold) n += sae.threshold->size();
  if (sae.W_skip) n += sae.W_skip->size();
  return n;
}

std::string to_json(const SaeInfo& info) {
  const auto& sae = info.sae;
  const auto& source = sae.source;
  Json out;
  out["sae"] = info.name;
  out["set"] = nullptr;
  if (const auto& set = info.set)
    out["set"] = {
        {"path", set->path().string()},
        {"layers", set->layers()},
        {"model", set->model()},
        {"hook_in", set->hook_in()},
        {"hook_out", set->hook_out()},
        {"scan", set->scan()}};
  out["file"] = source.file;
  out["format"] = source.format;
  out["architecture"] = source.architecture;
  out["kind"] = name_of(sae.kind);
  out["activation"] = name_of(sae.activation);
  out["k"] = sae.k > 0 ? Json(sae.k) : Json(nullptr);
  out["d_in"] = sae.d_in();
  out["d_sae"] = sae.d_sae();
  out["d_out"] = sae.d_out();
  out["targets"] = sae.targets();
  out["subtract_b_dec"] = sae.subtract_b_dec;
  out["norm"] = name_of(sae.norm);
  out["undo_norm"] = sae.undo_norm;
  out["skip"] = sae.W_skip.has_value();
  out["model"] = source.model;
  out["hook_in"] = source.hook_in;
  out["hook_out"] = source.hook_out;
  out["site_in"] = source.site_in;
  out["site_out"] = source.site_out;
  out["layer"] = source.layer >= 0 ? Json(source.layer) : Json(nullptr);
  out["l0"] = or_null(source.l0);
  out["parameters"] = parameters(sae);
  out["decoder_norm"] = json_of(info.decoder_norm);
  out["threshold"] = info.threshold ? json_of(*info.threshold) : Json(nullptr);
  return text_of(out);
}

std::string to_json(const SaeEncodeReport& report) {
  const auto& sae = report.encoder;
  const auto& fit = report.fit;
  Json out;
  out["sae"] = report.sae;
  out["input"] = report.input;
  out["output"] = report.output;
  out["rows"] = fit.rows;
  out["d_in"] = sae.d_in();
  out["d_sae"] = sae.d_sae();
  out["d_out"] = sae.d_out();
  out["explained_variance"] =
      report.compared ? number(fit.explained_variance) : Json(nullptr);
  out["fvu"] = report.compared ? number(fit.fvu) : Json(nullptr);
  out["l0"] = number(fit.l0);
  out["file_l0"] = or_null(sae.source.l0);
  out["silent"] = report.silent;
  out["warnings"] = report.warnings;
  return text_of(out);
}

std::string to_json(const SaeConvertReport& report) {
  Json out;
  out["sources"] = report.sources;
  out["output"] = report.output;
  out["layout"] = report.layout;
  out["layers"] = report.layers;
  return text_of(out);
}

std::string with_saes(std::string json, const std::vector<std::string>& saes) {
  if (saes.empty()) return json;
  auto all = Json::parse(json);
  all["saes"] = saes;
  return text_of(all);
}

}  // namespace mlxterp::report
