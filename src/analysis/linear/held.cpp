#include "analysis/linear/held.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

struct Named {
  LinearRule::Kind kind;
  const char* name;
};
constexpr Named names[] = {
    {LinearRule::full, "full"},
    {LinearRule::relevance, "relevance"},
    {LinearRule::frozen, "frozen"}};
constexpr std::string_view hold = "hold(";

// Between commas that stand outside of braces, without spaces around.
std::vector<std::string> listed(std::string_view text) {
  std::vector<std::string> out(1);
  int depth = 0;
  for (const char c : text) {
    depth += (c == '{') - (c == '}');
    if (c == ',' && depth == 0)
      out.emplace_back();
    else if (c != ' ')
      out.back() += c;
  }
  return out;
}

const Decoder& needed(const InterpretableModel& model) {
  const auto* decoder = decoder_of(model);
  if (!decoder)
    fail(
        ErrorKind::usage,
        "[jacobian_lens] the model runs elsewhere, and its layers cannot be "
        "differentiated one by one; load it with InterpretableModel::load");
  return *decoder;
}

}  // namespace

std::string name(const LinearRule& rule) {
  if (rule.kind == LinearRule::hold)
    return fmt::format("{}{})", hold, fmt::join(rule.sites, ", "));
  return std::ranges::find(names, rule.kind, &Named::kind)->name;
}

LinearRule linear_rule(std::string_view text) {
  for (const auto& it : names)
    if (text == it.name) return it.kind;
  if (text.starts_with(hold) && text.ends_with(')')) {
    LinearRule out(LinearRule::hold);
    out.sites = listed(text.substr(hold.size(), text.size() - hold.size() - 1));
    if (std::ranges::none_of(out.sites, &std::string::empty)) return out;
  }
  fail(
      ErrorKind::usage,
      "[linear_rule] there is no rule '{}'; use full, relevance, frozen, or "
      "hold(SITE, ...), such as hold(attn.pattern, ln1.scale)",
      printable(text));
}

HeldSites::HeldSites(const InterpretableModel& model, LinearRule rule)
    : rule_(std::move(rule)),
      activation_(needed(model).config().activation),
      parts_(model.sites().size(), Part::none) {
  if (rule_ == LinearRule::full) return;
  if (rule_.kind == LinearRule::hold) {
    for (const auto& site : rule_.sites)
      add(model, site);
    return;
  }
  hold_norms(model);
  const auto& layers = model.decoder().layers;
  for (size_t i = 0; i < layers.size(); ++i)
    add(*layers[i], static_cast<int>(i));
}

void HeldSites::hold_norms(const InterpretableModel& model) {
  for (const auto& [path, module] : model.named_modules())
    if (path.starts_with("layers.") && dynamic_cast<const nn::Norm*>(module))
      parts_[static_cast<size_t>(model.sites().find(path + ".scale"))] =
          Part::held;
}

void HeldSites::add(const InterpretableModel& model, const std::string& name) {
  const auto& sites = model.sites();
  const auto named = [&] {
    try {
      return sites.match("layers.*." + name);
    } catch (const Error&) {
      if (sites.lookup(name).empty() && !name.starts_with("layers.")) throw;
      return sites.match(name);
    }
  };
  for (const auto site : named()) {
    const auto& it = sites[site];
    if (it.layer < 0 || it.relative().starts_with("resid_"))
      fail(
          ErrorKind::usage,
          "[jacobian_lens] the rule '{}' holds '{}', {}; hold what lies "
          "inside of layers, such as attn.pattern, ln1.scale or mlp.post",
          printable(mlxterp::name(rule_)),
          it.name,
          it.layer < 0 ? "which no layer has"
                       : "behind which nothing would be left");
    // Recurrences take it up only where an edit changes its value.
    if (it.relative().ends_with(".state"))
      fail(
          ErrorKind::usage,
          "[jacobian_lens] the rule '{}' holds '{}', but the next state does "
          "not come through it; hold what states are made of",
          printable(mlxterp::name(rule_)),
          it.name);
    parts_[static_cast<size_t>(site)] = Part::held;
  }
}

void HeldSites::add(const DecoderLayer& layer, int number) {
  const auto* attention = layer.attention();
  const auto refuse = [&](std::string_view what) {
    fail(
        ErrorKind::usage,
        "[jacobian_lens] the rule '{}' says nothing of layer {}'s {}; use "
        "full",
        mlxterp::name(rule_),
        number,
        what);
  };
  if (!attention) refuse(layer.mixer->name());
  if (attention->gate_proj) refuse("gate behind attention");
  if (rule_ == LinearRule::frozen) {
    parts_[static_cast<size_t>(attention->pattern_site())] = Part::held;
    return;
  }
  if (layer.moe) refuse("experts");
  if (!layer.mlp) return;
  const auto& mlp = *layer.mlp;
  const auto mark = [&](SiteId site, Part part) {
    parts_[static_cast<size_t>(site)] = part;
  };
  const auto up = mlp.up_proj.output_site();
  mark(mlp.gate_proj ? mlp.gate_proj->output_site() : up, Part::pre);
  if (mlp.gate_proj) mark(up, Part::pre_linear);
  mark(mlp.down_proj.input_site(), Part::post);
  mlps_.emplace(mlp.down_proj.input_site(), &mlp);
}

bool HeldObserver::edits(SiteId site) const {
  const auto part = held_.at(site);
  return part == HeldSites::Part::held || part == HeldSites::Part::post;
}

mx::array HeldObserver::at(SiteId site, mx::array value) {
  using Part = HeldSites::Part;
  switch (held_.at(site)) {
    case Part::none:
      break;
    case Part::held:
      return mx::stop_gradient(value);
    case Part::pre:
      pre_ = value;
      break;
    case Part::pre_linear:
      pre_linear_ = value;
      break;
    case Part::post:
      return relevant(site, value);
  }
  return value;
}

// The value, and zeros whose derivatives are the rule's.
mx::array HeldObserver::relevant(SiteId site, const mx::array& post) const {
  const auto& mlp = held_.mlp(site);
  const auto zero = [](const mx::array& x) {
    return mx::subtract(x, mx::stop_gradient(x));
  };
  const auto& a = *pre_;
  Pass plain;
  const auto act = mx::stop_gradient(
      mlp.act_fn ? (*mlp.act_fn)(a, plain)
                 : nn::activate(held_.activation(), a));
  const auto held = mx::stop_gradient(a);
  const mx::array none(0.0f, a.dtype());
  const auto nothing = mx::equal(held, none);
  const auto factor = mx::where(
      nothing,
      none,
      mx::divide(act, mx::where(nothing, mx::array(1.0f, a.dtype()), held)));
  auto change = mx::multiply(factor, zero(a));
  if (mlp.gate_proj) {
    const auto& b = *pre_linear_;
    change = mx::multiply(
        mx::add(
            mx::multiply(change, mx::stop_gradient(b)),
            mx::multiply(act, zero(b))),
        mx::array(0.5f, a.dtype()));
  }
  return mx::add(mx::stop_gradient(post), change);
}

}  // namespace mlxterp
