#include "analysis/linear/held.h"

#include <algorithm>
#include <string>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

const Decoder& needed(const InterpretableModel& model, const char* who) {
  const auto* decoder = decoder_of(model);
  if (!decoder)
    fail(
        ErrorKind::usage,
        "[{}] the model runs elsewhere, and its layers cannot be "
        "differentiated one by one; load it with InterpretableModel::load",
        who);
  return *decoder;
}

// Whether something makes another value of a site's.
bool changed(const InterpretableModel& model, SiteId site) {
  const auto* overlay = model.overlay();
  if (!overlay || !overlay->edits(site)) return false;
  return std::ranges::any_of(overlay->at(site), [](const auto& step) {
    const auto* module = std::get_if<Overlay::Attached>(&step);
    return !module || module->mode != AttachOptions::Mode::read;
  });
}

}  // namespace

HeldSites::HeldSites(
    const InterpretableModel& model,
    LinearRule rule,
    const char* who,
    bool from_logits)
    : rule_(std::move(rule)),
      who_(who),
      from_logits_(from_logits),
      activation_(needed(model, who).config().activation),
      held_(model.sites().size(), false),
      parts_(model.sites().size(), Part::none) {
  if (!any()) return;
  for (const auto& site : rule_.sites)
    add(model, site);
  if (rule_.kind == LinearRule::hold) return;
  hold_norms(model);
  const int layers = model.decoder().config().n_layers;
  for (int i = 0; i < layers; ++i)
    add(model, i);
}

void HeldSites::hold_norms(const InterpretableModel& model) {
  for (const auto& [path, module] : model.named_modules())
    if ((path.starts_with("layers.") || path == "ln_final") &&
        dynamic_cast<const nn::Norm*>(module))
      hold(model.sites().find(path + ".scale"));
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
    const bool of_head = from_logits_ && it.name.starts_with("ln_final.");
    if (it.layer < 0 ? !of_head : it.relative().starts_with("resid_"))
      fail(
          ErrorKind::usage,
          "[{}] the rule '{}' holds '{}', {}; hold what lies inside of "
          "layers, such as attn.pattern, ln1.scale or mlp.post",
          who_,
          printable(mlxterp::name(rule_)),
          it.name,
          it.layer < 0 ? "which no layer has"
                       : "behind which nothing would be left");
    // Recurrences take it up only where an edit changes its value.
    if (it.relative().ends_with(".state"))
      fail(
          ErrorKind::usage,
          "[{}] the rule '{}' holds '{}', but the next state does not come "
          "through it; hold what states are made of",
          who_,
          printable(mlxterp::name(rule_)),
          it.name);
    hold(site);
  }
}

void HeldSites::add(const InterpretableModel& model, int number) {
  const auto& layer = *model.decoder().layers[static_cast<size_t>(number)];
  const auto* attention = layer.attention();
  const auto refuse = [&](std::string_view what) {
    fail(
        ErrorKind::usage,
        "[{}] the rule '{}' says nothing of layer {}'s {}; use full, or "
        "hold(SITE, ...)",
        who_,
        mlxterp::name(rule_),
        number,
        what);
  };
  if (!attention) refuse(layer.mixer->name());
  if (attention->gate_proj) refuse("gate behind attention");
  if (rule_.kind == LinearRule::frozen) {
    hold(attention->pattern_site());
    return;
  }
  if (layer.moe) refuse("experts");
  if (!layer.mlp) return;
  const auto& mlp = *layer.mlp;
  auto inside = std::vector{mlp.down_proj.input_site()};
  if (mlp.act_fn)
    inside.insert(
        inside.end(), {mlp.act_fn->input_site(), mlp.act_fn->output_site()});
  for (const auto site : inside)
    if (changed(model, site))
      fail(
          ErrorKind::usage,
          "[{}] the rule '{}' says what an activation's derivative is, and "
          "not that of what stands at '{}'; take that away, or use another "
          "rule",
          who_,
          mlxterp::name(rule_),
          model.sites()[site].name);
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
  return held_.holds(site) || held_.at(site) == HeldSites::Part::post ||
         (inner_ && inner_->edits(site));
}

void HeldObserver::offer(SiteId site, std::function<mx::array()> make) {
  if (inner_) inner_->offer(site, std::move(make));
}

mx::array HeldObserver::at(SiteId site, mx::array value) {
  using Part = HeldSites::Part;
  const auto part = held_.at(site);
  if (held_.holds(site))
    value = mx::stop_gradient(value);
  else if (part == Part::post)
    value = relevant(site, value);
  if (inner_) value = inner_->at(site, std::move(value));
  // Behind what is differentiated by, which acts through the activation.
  if (part == Part::pre) pre_ = value;
  if (part == Part::pre_linear) pre_linear_ = value;
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
