// analysis/linear/held.h: what a rule holds while a pass is differentiated.

#pragma once

#include <map>
#include <optional>
#include <vector>

#include "mlxterp/analysis/linear_rule.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** The sites of a model at which a rule changes derivatives. Immutable. */
class HeldSites {
 public:
  /** `who` stands in errors, a literal: "jacobian_lens". `from_logits`: what
   * is differentiated ends behind the norm before the unembedding, whose sites
   * may be held too. Throws usage where the model runs elsewhere, or where the
   * rule says nothing of one of its layers: relevance of experts and of edits
   * between an activation and what reads it, relevance and frozen of mixers
   * that are no plain attention. Of hold unknown_name, and usage for what lies
   * in no layer or is the stream itself. */
  HeldSites(
      const InterpretableModel& model,
      LinearRule rule,
      const char* who = "jacobian_lens",
      bool from_logits = false);

  const LinearRule& rule() const { return rule_; }
  /** Whether there is a difference to the gradient. */
  bool any() const { return rule_.kind != LinearRule::full; }

  bool holds(SiteId site) const { return held_[static_cast<size_t>(site)]; }
  /** Of relevance, in an MLP. */
  enum class Part : char { none, pre, pre_linear, post };
  Part at(SiteId site) const { return parts_[static_cast<size_t>(site)]; }
  /** The MLP whose `post` it is. */
  const nn::MLP& mlp(SiteId post) const { return *mlps_.at(post); }
  nn::Activation activation() const { return activation_; }

 private:
  void hold_norms(const InterpretableModel& model);
  // What a rule says of a layer.
  void add(const InterpretableModel& model, int number);
  // What a rule of the user's own names.
  void add(const InterpretableModel& model, const std::string& name);
  void hold(SiteId site) { held_[static_cast<size_t>(site)] = true; }

  LinearRule rule_;
  const char* who_;
  bool from_logits_;
  nn::Activation activation_;
  std::vector<bool> held_;   // by site
  std::vector<Part> parts_;  // by site
  std::map<SiteId, const nn::MLP*> mlps_;
};

/** Leaves every value as it is, and holds derivatives as a rule says; then
 * shows it to `inner`, where there is one. What that adds to a held value is
 * differentiated: a gradient by a held site is the one through what follows. Of
 * one pass. */
class HeldObserver final : public Observer {
 public:
  /** Both outlive it. */
  explicit HeldObserver(const HeldSites& held, Observer* inner = nullptr)
      : held_(held), inner_(inner) {}

  mlx::core::array at(SiteId site, mlx::core::array value) override;
  bool edits(SiteId site) const override;
  void offer(SiteId site, std::function<mlx::core::array()> make) override;

 private:
  mlx::core::array relevant(SiteId site, const mlx::core::array& post) const;

  const HeldSites& held_;
  Observer* inner_;
  std::optional<mlx::core::array> pre_, pre_linear_;
};

}  // namespace mlxterp
