// mlxterp/nn/pass.h: what one forward pass carries from module to module.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/nn/kv_cache.h"
#include "mlxterp/nn/packed_batch.h"
#include "mlxterp/nn/site.h"

namespace mlxterp {

/** What watches and edits a pass. One pass calls it from one thread. */
class Observer {
 public:
  virtual ~Observer() = default;

  /** Sees a value and returns it, or its replacement. */
  virtual mlx::core::array at(SiteId site, mlx::core::array value) = 0;

  /** Whether `at` might replace the site's value. */
  virtual bool edits(SiteId site) const = 0;

  /** A value the pass itself does not need: made only where it is asked for.
   */
  virtual void offer(SiteId site, std::function<mlx::core::array()> make) = 0;

  /** Called before `at` with what an edit of the model's handle made of a
   * value. */
  virtual void edited(
      SiteId,
      const mlx::core::array& /*before*/,
      const mlx::core::array& /*after*/) {}
};

/** What travels beside the residual stream: values that one part makes and
 * later layers read, by name, row for row with it: [batch, pos, ...]. */
using Carried = std::map<std::string, mlx::core::array>;

/** The one of that name. Throws usage where no earlier part made it: a layer
 * that reads it cannot run alone. */
const mlx::core::array& find(const Carried& carried, const std::string& name);

/**
 * Everything one forward pass carries, handed down explicitly. Models are
 * const while they run, so passes may run on several threads at once; one pass
 * belongs to one thread.
 */
class Pass {
 public:
  /** A plain pass: nobody watches, and every tap costs one branch. */
  Pass() = default;

  /** What is given must outlive the pass. With a cache, the pass goes on
   * behind the positions it holds, and adds its own to it. */
  explicit Pass(Observer& observer, nn::KvCache* cache = nullptr)
      : observer_(&observer),
        cache_(cache),
        cache_offset_(cache ? cache->positions() : 0) {}
  explicit Pass(nn::KvCache& cache)
      : cache_(&cache), cache_offset_(cache.positions()) {}

  /** A pass over the rows of several sequences, [1, row, d]. Where `last` is
   * given, int32 [n], layers go on with those rows alone behind their
   * attention: nothing else of them is asked for. */
  Pass(
      Observer& observer,
      std::shared_ptr<const nn::PackedBatch> packed,
      std::optional<mlx::core::array> last = std::nullopt)
      : observer_(&observer),
        packed_(std::move(packed)),
        last_(std::move(last)) {}

  /** What can be observed or not (null), and goes on behind what a cache holds,
   * or behind those of packed sequences. */
  Pass(
      Observer* observer,
      nn::KvCache* cache,
      std::shared_ptr<const nn::PackedBatch> packed = nullptr)
      : observer_(observer),
        cache_(cache),
        cache_offset_(cache ? cache->positions() : 0),
        packed_(std::move(packed)) {}

  /** From here on layers go on with these rows alone, as with `last`. */
  void keep(mlx::core::array last) { last_ = std::move(last); }

  bool observed() const { return observer_ != nullptr; }

  /** Absent: the rows are those of a batch. */
  const std::shared_ptr<const nn::PackedBatch>& packed() const {
    return packed_;
  }

  /** The rows of [1, row, ...] that a layer goes on with. */
  mlx::core::array gather_output_rows(const mlx::core::array& x) const;

  /** `mix(x)` of rows that lie as this pass's do, for a mixer that works on
   * [batch, pos, ...] from position 0 on: of a packed pass on whole sequences,
   * each with what it continues, of which its own rows are left. */
  using Arrays = std::vector<mlx::core::array>;
  Arrays on_sequences(
      Arrays x, const std::function<Arrays(const Arrays&)>& mix) const;

  /** Whoever goes on with some rows of the residual stream goes on with the
   * same rows of these. */
  Carried& carried() { return carried_; }

  /** Absent: every position there is belongs to this pass. */
  nn::KvCache* cache() const { return cache_; }
  /** How many positions the cache held when the pass began: the number of this
   * pass's first one. */
  int cache_offset() const { return cache_offset_; }

  /** Passes a value through a site: the value, or its edited replacement. */
  mlx::core::array tap(SiteId site, mlx::core::array value) {
    if (observer_) return observer_->at(site, std::move(value));
    return value;
  }

  /** Whether a site may be edited, so that a fused path must be opened. */
  bool edits(SiteId site) const { return observer_ && observer_->edits(site); }

  /** Offers a value that the pass does not need itself; `make` builds it, lazy,
   * where somebody asks. */
  template <typename Make>
  void offer(SiteId site, Make&& make) {
    if (observer_) observer_->offer(site, std::forward<Make>(make));
  }

 private:
  Observer* observer_ = nullptr;
  nn::KvCache* cache_ = nullptr;
  int cache_offset_ = 0;
  std::shared_ptr<const nn::PackedBatch> packed_;
  std::optional<mlx::core::array> last_;
  Carried carried_;
};

}  // namespace mlxterp
