// trace/overlay.h: what a handle adds to every pass of its model: standing
// edits and attached modules.

#pragma once

#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "mlxterp/nn/pass.h"
#include "mlxterp/trace/attach.h"
#include "mlxterp/trace/intervention.h"
#include "mlxterp/trace/site_catalog.h"

namespace mlxterp {

/** The edit's value in place of `value`. Throws usage where it has another
 * shape or dtype. Integers are evaluated, since modules look at indices. */
mlx::core::array apply_edit(
    const Intervention& edit,
    const mlx::core::array& value,
    const SiteView& at,
    bool* acted = nullptr);

/** Immutable, shared by handles; by site, in the order of declaration. */
class Overlay {
 public:
  using Reach = Intervention::Reach;

  struct Attached {
    std::shared_ptr<const nn::Module> module;
    AttachOptions::Mode mode;
    SiteId first;  ///< Its own first site, in the extended catalog.
    SiteId error;  ///< -1: none.
    SiteId reads;  ///< -1: the site it is attached to.
    SiteId sites;  ///< How many it has, the error among them.
    Reach reach;
  };
  using Step = std::variant<Intervention, Attached>;

  /** With what `base` holds (null: nothing) and one thing more. */
  Overlay(const Overlay* base, const SiteCatalog& sites, const Edit& edit);
  Overlay(const Overlay* base, SiteId site, Attached attached);

  bool edits(SiteId site) const { return steps_.contains(site); }
  const std::vector<Step>& at(SiteId site) const { return steps_.at(site); }
  const std::unordered_map<SiteId, std::vector<Step>>& steps() const {
    return steps_;
  }

  /** Whether a module elsewhere reads this site's value. */
  bool reads(SiteId site) const { return reads_.contains(site); }

  /** The furthest of any step. */
  Reach reach() const { return reach_; }

 private:
  std::unordered_map<SiteId, std::vector<Step>> steps_;
  std::set<SiteId> reads_;
  Reach reach_ = Reach::value;
};

/** How the rows of a pass lie: a batch, or packed sequences. */
struct PassRows {
  std::vector<int> lengths = {};  ///< Real positions of each row of a batch.
  int offset = 0;                 ///< Positions that a cache holds.
  std::vector<PackedRows> packed = {};
  /** The packed rows that go on behind the last attention. */
  std::vector<PackedRows> kept = {};
  int step = 0;   ///< Of generation.
  int batch = 0;  ///< How many prompts are generated from; 0: it is not.
};

/** Makes what stands, then shows the value to the caller's own observer. One
 * pass, one thread. `overlay`, `sites` and `inner` outlive it. */
class Standing final : public Observer {
 public:
  Standing(
      const Overlay& overlay,
      const SiteCatalog& sites,
      Observer* inner,
      PassRows rows)
      : overlay_(overlay),
        sites_(sites),
        inner_(inner),
        rows_(std::move(rows)) {}

  /** After the pass: throws usage where a site with something was not reached.
   */
  void check_reached() const;

  /** Which steps of which sites gave another value than they were given. */
  using Acted = std::set<std::pair<SiteId, size_t>>;
  const Acted& acted() const { return acted_; }

  mlx::core::array at(SiteId site, mlx::core::array value) override;
  bool edits(SiteId site) const override {
    return overlay_.edits(site) || (inner_ && inner_->edits(site));
  }
  void offer(SiteId site, std::function<mlx::core::array()> make) override {
    if (overlay_.reads(site)) read_.insert_or_assign(site, make());
    if (inner_) inner_->offer(site, std::move(make));
  }

 private:
  mlx::core::array stepped(
      const Overlay::Step& step,
      SiteId site,
      const mlx::core::array& value,
      bool& acted);
  mlx::core::array through(
      const Overlay::Attached& it, SiteId site, const mlx::core::array& value);
  // What it reads where it is attached to `value`.
  const mlx::core::array& read_by(
      const Overlay::Attached& it,
      SiteId site,
      const mlx::core::array& value) const;
  bool edits_within(const Overlay::Attached& it) const;
  SiteView view(SiteId site, const mlx::core::array& value);

  const Overlay& overlay_;
  const SiteCatalog& sites_;
  Observer* inner_;
  PassRows rows_;
  std::set<SiteId> reached_;
  Acted acted_;
  std::unordered_map<SiteId, mlx::core::array> read_;
  std::vector<PackedRows> scores_;  // of the sequence whose scores are seen
  std::vector<PackedRows> one_;     // the sequence seen by itself
};

}  // namespace mlxterp
