// tests/analysis/held_model.h: a whole model, differentiated with edits that
// put back what a rule holds.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/attribute.h"
#include "tests/families.h"
#include "tests/said.h"

namespace mlxterp::test {

namespace mx = mlx::core;

inline const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
inline const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

inline const std::vector<LinearRule> every_rule = {
    LinearRule::relevance,
    LinearRule::frozen,
    linear_rule("hold(mlp.post, ln_final.scale)"),
    linear_rule("relevance+hold(attn.pattern)")};

inline AttributeOptions options_of(
    std::vector<std::string> sites,
    LinearRule rule,
    AttributionMethod method = AttributionMethod::atp) {
  return {
      .clean = clean,
      .corrupt = corrupt,
      .sites = std::move(sites),
      .by = {Axis::layer, Axis::position},
      .metric = logit_diff(4, 9),
      .method = method,
      .rule = std::move(rule)};
}

inline std::string error_of(
    const InterpretableModel& model, const AttributeOptions& options) {
  return error_of([&] { attribute(model, options); });
}

inline std::vector<std::string> named(
    const InterpretableModel& model, const std::string& pattern) {
  std::vector<std::string> out;
  for (const auto site : model.sites().match(pattern))
    out.push_back(model.sites()[site].name);
  return out;
}

inline std::vector<std::string> in_layers(
    const InterpretableModel& model, const std::string& site) {
  if (!model.sites().contains("layers.*." + site)) return {};
  return named(model, "layers.*." + site);
}

using Measure = std::function<mx::array(const mx::array& logits)>;

inline mx::array difference_at_end(const mx::array& logits) {
  const auto last = mx::take(logits, logits.shape(1) - 1, 1);
  return mx::subtract(mx::take(last, 4, -1), mx::take(last, 9, -1));
}

/** A whole model, in which edits put back what a rule holds. */
class Held {
 public:
  Held(
      const InterpretableModel& model,
      const LinearRule& rule,
      std::vector<int> ids = corrupt,
      std::vector<Edit> before = {},
      Measure measure = difference_at_end)
      : model_(model),
        ids_(std::move(ids)),
        before_(std::move(before)),
        measure_(std::move(measure)) {
    std::set<std::string> held;
    for (const auto& site : rule.sites)
      for (auto& name : site.starts_with("ln_final") ? std::vector{site}
                                                     : in_layers(model, site))
        held.insert(std::move(name));
    if (rule.kind == LinearRule::frozen)
      for (auto& name : in_layers(model, "attn.pattern"))
        held.insert(std::move(name));
    if (rule.kind == LinearRule::frozen || rule.kind == LinearRule::relevance)
      for (size_t i = 0; i < model.sites().size(); ++i) {
        const auto& name = model.sites()[static_cast<SiteId>(i)].name;
        if (name.ends_with(".scale") && !name.starts_with("embed"))
          held.insert(name);
      }
    names_.assign(held.begin(), held.end());
    if (rule.kind == LinearRule::relevance)
      for (const auto* it : {"mlp.pre", "mlp.pre_linear", "mlp.post"})
        for (auto& name : in_layers(model, it))
          mlps_.push_back(std::move(name));
    auto save = names_;
    save.insert(save.end(), mlps_.begin(), mlps_.end());
    values_.emplace(model.run(ids_, {.save = save, .edits = before_}));
  }

  /** The gradient of the metric at each of `names`, where a layer is dropped
   * with all that it writes held. */
  std::vector<mx::array> gradients(
      const std::vector<std::string>& names, int dropped = -1) const {
    const auto run = model_.run(ids_, {.save = names, .edits = before_});
    std::vector<mx::array> zeros;
    for (const auto& name : names)
      zeros.push_back(mx::zeros(run[name].shape(), mx::float32));
    const auto metric = [&](const std::vector<mx::array>& added) {
      std::map<std::string, mx::array> pre;
      auto edits = before_;
      for (const auto& name : mlps_)
        if (name.ends_with(".post"))
          edits.push_back({name, product(name, pre)});
      for (const auto& name : names_)
        edits.push_back({name, replace_with((*values_)[name])});
      for (size_t i = 0; i < names.size(); ++i)
        edits.push_back({names[i], [&added, i](const mx::array& x) {
                           return mx::add(x, mx::astype(added[i], x.dtype()));
                         }});
      for (const auto& name : mlps_)
        if (!name.ends_with(".post"))
          edits.push_back({name, [&pre, name](const mx::array& x) {
                             pre.insert_or_assign(name, x);
                             return x;
                           }});
      for (const auto* site : {"attn_out", "mlp_out", "ple_out"}) {
        const auto name = fmt::format("layers.{}.{}", dropped, site);
        if (dropped >= 0 && model_.sites().contains(name))
          edits.push_back(
              {name, [](const mx::array& x) { return mx::stop_gradient(x); }});
      }
      const auto trace = model_.trace(ids_, std::move(edits));
      return std::vector{
          mx::reshape(measure_(mx::astype(trace.output(), mx::float32)), {})};
    };
    auto found = mx::vjp(metric, zeros, {mx::array(1.0f)}).second;
    mx::eval(found);
    return found;
  }

 private:
  // Of an MLP's two factors each times what it was multiplied with, and half.
  Intervention product(
      const std::string& post,
      const std::map<std::string, mx::array>& pre) const {
    const auto of = [&](const char* site) {
      return post.substr(0, post.size() - 4) + site;
    };
    return [this, post, &pre, gate = of("pre"), up = of("pre_linear")](
               const mx::array&) {
      const auto through = [&](const std::string& name) {
        return mx::multiply(
            pre.at(name), mx::divide((*values_)[post], (*values_)[name]));
      };
      if (!pre.contains(up)) return through(gate);
      return mx::multiply(mx::add(through(gate), through(up)), mx::array(0.5f));
    };
  }

  const InterpretableModel& model_;
  std::vector<int> ids_;
  std::vector<Edit> before_;
  Measure measure_;
  std::vector<std::string> names_, mlps_;
  std::optional<ActivationCache> values_;
};

// Of each position, summed over the rest.
inline std::vector<double> by_position(
    const mx::array& x, const std::string& name) {
  auto sums = name.ends_with("pattern") ? mx::sum(x, {0, 1, 3}) : x;
  if (sums.ndim() > 1) {
    std::vector<int> rest{0};
    for (int i = 2; i < static_cast<int>(x.ndim()); ++i)
      rest.push_back(i);
    sums = mx::sum(x, rest);
  }
  sums = mx::contiguous(sums);
  sums.eval();
  return {sums.data<float>(), sums.data<float>() + sums.size()};
}

// As it is trained; a random bound makes a step at zero, and a factor that the
// last bit of a value decides.
inline InterpretableModel loaded(const std::string& variant) {
  const auto decoder = load_decoder(
      Checkpoint::open(families_root / variant), {.dtype = mx::float32});
  for (const auto& [path, weight] : decoder->mutable_parameters())
    if (path.ends_with("act_fn.eps"))
      *weight = mx::full(weight->shape(), -1e-6f);
  return InterpretableModel(
      decoder, std::nullopt, family_of(config_text(variant)).renames);
}

}  // namespace mlxterp::test
