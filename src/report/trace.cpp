#include "mlxterp/report/trace.h"

#include <cmath>
#include <limits>
#include <span>
#include <sstream>

#include "mlx/ops.h"
#include "mlxterp/analysis/lens.h"
#include "report/json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

mx::array plain(const mx::array& x) {
  auto out = mx::contiguous(mx::astype(x, mx::float32));
  out.eval();
  return out;
}

Json json_of(const Prediction& prediction) {
  Json out;
  out["finite"] = prediction.finite;
  out["top"] = Json::array();
  for (const auto& [token, probability, logit] : prediction.top) {
    auto entry = json_of(token);
    entry["probability"] = number(probability);
    entry["logit"] = number(logit);
    out["top"].push_back(std::move(entry));
  }
  out["track"] = Json::array();
  for (const auto& [token, probability, logit] : prediction.track) {
    auto entry = json_of(token);
    entry["probability"] = number(probability);
    out["track"].push_back(std::move(entry));
  }
  out["metrics"] = Json::object();
  for (const auto& [name, value] : prediction.metrics)
    out["metrics"][name] = number(value);
  return out;
}

}  // namespace

Json json_of(const std::vector<SiteStatistics>& saved) {
  auto out = Json::array();
  for (const auto& s : saved)
    out.push_back(
        {{"site", s.site},
         {"shape", s.shape},
         {"dtype", s.dtype},
         {"mean", number(s.mean)},
         {"std", number(s.std)},
         {"norm", number(s.norm)},
         {"min", number(s.min)},
         {"max", number(s.max)},
         {"not_finite", s.not_finite}});
  return out;
}

SiteStatistics statistics(std::string site, const mx::array& value) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  SiteStatistics s{.site = std::move(site)};
  s.shape.assign(value.shape().begin(), value.shape().end());
  s.dtype = dtype_name(value.dtype());
  s.min = s.max = nan;
  const auto x = plain(value);
  const std::span data(x.data<float>(), x.size());
  double sum = 0, squares = 0;
  for (const float v : data) {
    if (!std::isfinite(v)) {
      ++s.not_finite;
      continue;
    }
    sum += static_cast<double>(v);
    squares += static_cast<double>(v) * static_cast<double>(v);
    s.min = std::fmin(s.min, v);
    s.max = std::fmax(s.max, v);
  }
  const auto n =
      static_cast<double>(static_cast<int64_t>(data.size()) - s.not_finite);
  s.mean = sum / n;
  double spread = 0;
  for (const float v : data)
    if (std::isfinite(v))
      spread += std::pow(static_cast<double>(v) - s.mean, 2);
  s.std = std::sqrt(spread / n);
  s.norm = std::sqrt(squares);
  return s;
}

Prediction predict(
    const InterpretableModel& model,
    const mx::array& logits,
    const PredictOptions& options) {
  const int last = logits.shape(1) - 1, vocab = logits.shape(2);
  const auto row = plain(mx::slice(logits, {0, last, 0}, {1, last + 1, vocab}));
  const std::span data(row.data<float>(), row.size());
  const auto top = top_tokens(data, options.top);
  Prediction out;
  out.finite = top.ids.front() >= 0;
  for (size_t i = 0; i < top.ids.size() && top.ids[i] >= 0; ++i)
    out.top.push_back(
        {{top.ids[i], label(model, top.ids[i])},
         top.probabilities[i],
         top.logits[i]});
  for (const int id : options.track) {
    const float logit = data[static_cast<size_t>(id)];
    out.track.push_back(
        {{id, label(model, id)}, std::exp(logit - top.normalizer), logit});
  }
  for (const auto& metric : options.metrics)
    out.metrics.emplace_back(metric.name, measure(model, metric, logits));
  return out;
}

std::string to_json(const TraceReport& report) {
  Json out;
  out["model"] = report.model;
  out["tokens"] = json_of(report.tokens);
  out["edits"] = report.edits;
  out["warnings"] = report.warnings;
  out["saved"] = json_of(report.saved);
  out["output"] = report.output ? Json(*report.output) : Json();
  out["next"] = json_of(report.next);
  out["next_edited"] =
      report.next_edited ? json_of(*report.next_edited) : Json();
  return text_of(out);
}

std::string dtype_name(mx::Dtype dtype) {
  std::ostringstream name;
  name << dtype;
  return name.str();
}

}  // namespace mlxterp::report
