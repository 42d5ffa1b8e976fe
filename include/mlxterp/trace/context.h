// mlxterp/trace/context.h: what one trace knows: the edits to make, the
// values seen, the values to keep.

#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mlxterp/nn/pass.h"
#include "mlxterp/trace/activation_cache.h"
#include "mlxterp/trace/intervention.h"
#include "mlxterp/trace/site_catalog.h"

namespace mlxterp {

/** A value kept beyond the trace it was saved in. A cheap handle. */
class Saved {
 public:
  /** Nothing saved yet. */
  Saved() = default;

  /** The value: lazy while its trace is open, evaluated after it. Throws what
   * went wrong when the trace ended, or usage where nothing was saved. */
  const mlx::core::array& value() const;

  /** The canonical name of its site. */
  const std::string& name() const;

 private:
  friend class TraceContext;
  struct State {
    SiteId site;
    std::string name;
    mlx::core::array value;
    std::exception_ptr error;
  };
  explicit Saved(std::shared_ptr<State> state) : state_(std::move(state)) {}

  const State& state() const;

  std::shared_ptr<State> state_;
};

/**
 * Watches one pass: applies the edits in declared order and keeps lazy handles
 * on the values that are wanted; an edited value of integers is evaluated.
 * Belongs to the thread that made it.
 */
class TraceContext final : public Observer {
 public:
  /** Every site is wanted, as in `trace()`: what to save is decided later. */
  struct Everything {};

  TraceContext(
      std::shared_ptr<const SiteCatalog> sites,
      std::vector<Edit> edits,
      std::vector<int> lengths,
      Everything);

  /** `offset`: positions that a cache holds already. */
  TraceContext(
      std::shared_ptr<const SiteCatalog> sites,
      std::vector<Edit> edits,
      std::vector<int> lengths,
      const std::vector<SiteId>& wanted,
      int offset = 0);

  TraceContext(const TraceContext&) = delete;
  TraceContext& operator=(const TraceContext&) = delete;
  TraceContext(TraceContext&&) = default;
  TraceContext& operator=(TraceContext&&) = default;
  ~TraceContext() override = default;

  mlx::core::array at(SiteId site, mlx::core::array value) override;
  bool edits(SiteId site) const override;
  void offer(SiteId site, std::function<mlx::core::array()> make) override;
  void edited(
      SiteId site,
      const mlx::core::array& before,
      const mlx::core::array& after) override;

  /** What tells check() of NaN and infinities; to be evaluated with the pass.
   */
  std::vector<mlx::core::array> guards() const;

  /** After the pass: throws usage where an edited site was never reached. */
  void check_reached() const;

  /** Throws usage on a thread that is not its own. */
  void check_thread() const;

  /** The lazy value of a site. Throws unknown_name, and usage where the pass
   * never reached it or the trace has ended. */
  mlx::core::array value(std::string_view site);

  /** Keeps a site's value. */
  Saved save(std::string_view site);
  void save(SiteId site);

  /** Drops every value that was not saved, then evaluates what was, and
   * `kept`, together with the checks of the edits in one go. Throws where an
   * edit made a NaN, naming its site; what was saved then throws the same.
   * `between`: as in RunOptions. */
  void finish(
      std::vector<mlx::core::array> kept = {},
      const std::function<void()>& between = {});

  /** Evaluates the NaN checks of the edits alone, and drops nothing. Throws as
   * finish does. */
  void check() const;

  /** Ends without evaluating: reading a saved value then throws `error`. */
  void abandon(const std::exception_ptr& error);

  /** Everything saved; finishes first. */
  ActivationCache saved();

  const std::shared_ptr<const SiteCatalog>& sites() const { return sites_; }
  const std::vector<int>& lengths() const { return lengths_; }

  /** The traces that this thread is inside of. */
  static void push(TraceContext& context);
  static void pop(TraceContext& context);
  /** The innermost, or nullptr. */
  static TraceContext* current();

 private:
  /** Whether an edited value holds a NaN or an infinity that is new. Of a small
   * one it tells only whether there is any; what it is, is then found from what
   * was looked at: that takes 15 more ops, which is most of a small edit. */
  struct Guard {
    SiteId site;
    mlx::core::array fault;
    struct Edited {
      std::optional<mlx::core::array> before;  ///< If `after` is made of it.
      mlx::core::array after;
    };
    std::optional<Edited> looked_at = {};
  };
  using Guards = std::vector<Guard>;
  enum Flag : unsigned char { wanted = 1, changed = 2, reached = 4 };

  bool is(SiteId site, Flag flag) const {
    return site >= 0 && flags_[static_cast<size_t>(site)] & flag;
  }
  const mlx::core::array& handle(SiteId site);
  mlx::core::array fault(SiteId site, const Guard::Edited& edited) const;
  void check_guards(const Guards& guards) const;

  std::shared_ptr<const SiteCatalog> sites_;
  std::vector<Edit> edits_;
  std::vector<int> lengths_;
  int offset_ = 0;
  std::vector<unsigned char> flags_;
  std::unordered_map<SiteId, std::vector<const Intervention*>> edits_at_;
  std::vector<std::optional<mlx::core::array>> values_;
  /** In the order of the pass; each is taken once. */
  std::vector<std::pair<SiteId, std::function<mlx::core::array()>>> offers_;
  /** One for each edited site. */
  Guards guards_;
  std::vector<std::shared_ptr<Saved::State>> saved_;
  bool ended_ = false;
  std::thread::id thread_ = std::this_thread::get_id();
  /** Dies with this, wherever that is. */
  std::shared_ptr<void> life_ = std::make_shared<char>();
};

}  // namespace mlxterp
