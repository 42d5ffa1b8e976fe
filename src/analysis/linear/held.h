// analysis/linear/held.h: what a rule holds while a pass is differentiated.

#pragma once

#include <map>
#include <optional>
#include <vector>

#include "mlxterp/analysis/jacobian_lens.h"

namespace mlxterp {

/** The sites of a model at which a rule changes derivatives. Immutable. */
class HeldSites {
 public:
  /** Throws usage where the model runs elsewhere, or where the rule says
   * nothing of one of its layers: relevance of experts, relevance and frozen of
   * mixers that are no plain attention. Of hold unknown_name, and usage for
   * what lies in no layer or is the stream itself. */
  HeldSites(const InterpretableModel& model, LinearRule rule);

  const LinearRule& rule() const { return rule_; }

  enum class Part : char { none, held, pre, pre_linear, post };
  Part at(SiteId site) const { return parts_[static_cast<size_t>(site)]; }
  /** The MLP whose `post` it is. */
  const nn::MLP& mlp(SiteId post) const { return *mlps_.at(post); }
  nn::Activation activation() const { return activation_; }

 private:
  void hold_norms(const InterpretableModel& model);
  void add(const DecoderLayer& layer, int number);
  // What a rule of the user's own names.
  void add(const InterpretableModel& model, const std::string& name);

  LinearRule rule_;
  nn::Activation activation_;
  std::vector<Part> parts_;  // by site
  std::map<SiteId, const nn::MLP*> mlps_;
};

/** Leaves every value as it is, and holds derivatives as a rule says. Of one
 * pass. */
class HeldObserver final : public Observer {
 public:
  explicit HeldObserver(const HeldSites& held) : held_(held) {}

  mlx::core::array at(SiteId site, mlx::core::array value) override;
  bool edits(SiteId site) const override;
  void offer(SiteId, std::function<mlx::core::array()>) override {}

 private:
  mlx::core::array relevant(SiteId site, const mlx::core::array& post) const;

  const HeldSites& held_;
  std::optional<mlx::core::array> pre_, pre_linear_;
};

}  // namespace mlxterp
