// analysis/wavefront/walk.h: cells on their way up the layers, their rows
// packed.

#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "analysis/wavefront/plan.h"
#include "analysis/wavefront/wavefront.h"
#include "mlxterp/nn/packed_batch.h"
#include "trace/carried_rows.h"
#include "trace/stepper.h"

namespace mlxterp {

// Rows of the pack that a site's value is replaced in, one layer.
struct Replacement {
  std::vector<int> rows, units;                     // unit -1: all
  std::vector<int> sources;                         // rows of the pack
  std::vector<int> given_rows, given_units, given;  // and of what is given
  struct Mixed {
    int row, unit, run, source, position;
    int cell;  // that travels, where its v is its own by now; -1: the run's
  };
  std::vector<Mixed> mixed;  // from the pattern of another run

  /** What is replaced in these rows, counted from the first of them. */
  Replacement within(int row, int count) const;
};

class Walk final : public Observer {
 public:
  Walk(const Wavefront& wave, const std::vector<int>& run_rows)
      : wave_(wave),
        decoder_(wave.model.decoder()),
        sites_(wave.model.sites()),
        run_rows_(run_rows) {
    const auto* overlay = wave.model.overlay();
    whole_ = overlay && overlay->reach() == Overlay::Reach::sequence;
    whole_head_ = whole_ && Stepper::edits_head(wave.model);
  }

  // Runs the cells of one chunk, which start at the first one's layer with the
  // runs' residual stream there. Of the stream at `next` a copy is left.
  void go(
      const std::vector<Plan>& plans,
      size_t begin,
      size_t end,
      int start,
      Stream& stream,
      int next,
      const std::function<void(int layer, size_t rows)>& done);

  // The metric's rows, in the order of metric_rows(), [1, row, d_model]; all
  // where every row is read.
  const mlx::core::array& out() const { return *out_; }

  // Whether the rows of out() are all that travelled.
  bool all_rows() const { return wave_.metric.every_position() || whole_head_; }

  // Whether what stands must see whole sequences to make logits of them.
  bool whole_head() const { return whole_head_; }

  // How the rows of a layer lie, for what stands.
  PassRows rows() const;

  // Of each run and then each cell that travels, the last row read.
  std::vector<int> metric_rows() const;

  const nn::PackedBatch& packed() const { return packed_; }
  /** Behind the runs, whose sequences the others are. */
  const std::vector<const Plan*>& travelling() const { return travelling_; }

  /** What was kept of the cells of the last go(). */
  std::vector<Wavefront::Kept>& kept() { return kept_; }

  mlx::core::array at(SiteId site, mlx::core::array value) override {
    // A module that must see whole sequences is given one after the other.
    if (whole_ && sites_[site].layout != Layout::scores &&
        value.shape(1) != packed_.rows())
      return at_sequence(site, std::move(value));
    if (const auto found = replace_.find(site); found != replace_.end())
      value = replaced(found->second, site, std::move(value));
    if (std::ranges::find(wave_.keep, site) != wave_.keep.end())
      keep(site, value);
    if (mixes_) see(site, value);
    return value;
  }

  bool edits(SiteId site) const override {
    return replace_.find(site) != replace_.end();
  }

  void offer(SiteId site, std::function<mlx::core::array()> make) override;

 private:
  // What a layer's attention read, for z made of another run's pattern.
  struct Seen {
    std::optional<mlx::core::array> rot_q, rot_k, v;
    /** Of each run, where something edits it. */
    std::vector<mlx::core::array> patterns;
  };

  // Of the layer, where it has any.
  const nn::Attention* attention() const;

  void see(SiteId site, const mlx::core::array& value);

  // Keys and values that the layer reads of an earlier one.
  void see_shared(const Carried& carried);

  int length_of(int run) const;

  int runs_end() const;

  int mapped(int position) const;

  // Adds the cells that begin at this layer. Those that begin at the same
  // position lie together, so that attention can take them as one batch.
  size_t join(
      const std::vector<Plan>& plans,
      size_t at,
      size_t end,
      int layer,
      Stream& stream);

  // Whether a change is made by taking other rows of the stream when the cell
  // begins, rather than by replacing values.
  bool taken(
      const Plan& plan, const Wavefront::Change& change, int layer) const;

  // Whether the ids are those of what enters the layer, as it comes.
  bool plain_stream(int layer, const std::vector<SiteId>& ids) const;

  // The value of the next of the sequences, [1, pos, ...].
  mlx::core::array at_sequence(SiteId site, mlx::core::array value);

  void keep(SiteId site, const mlx::core::array& value);

  // What is to be replaced at the sites of one layer.
  void plan(int layer);

  // Whether something is replaced behind attention, in rows that would not go
  // on.
  bool late() const;

  mlx::core::array at_stream(mlx::core::array x);

  // `value` [1, row, ...] with rows, or units of rows, of other values: rows of
  // itself, or of `values_of_runs`, [row, ...].
  mlx::core::array replaced(
      const Replacement& by,
      SiteId id,
      mlx::core::array value,
      const std::optional<mlx::core::array>& values_of_runs = {}) const;

  // z as it were if runs attended as others do: rows, and where each one asked
  // for is.
  std::pair<mlx::core::array, std::vector<int>> mixed(
      const std::vector<Replacement::Mixed>& asked) const;

  // [pos, head, d_head], of a run's v or a cell's own.
  mlx::core::array mix(int run, int source, int cell) const;

  const Wavefront& wave_;
  const Decoder& decoder_;
  const SiteCatalog& sites_;
  const std::vector<int>& run_rows_;
  nn::PackedBatch packed_;
  std::vector<const Plan*> travelling_;
  std::map<SiteId, Replacement> replace_;
  std::map<SiteId, size_t> given_;
  bool mixes_ = false;
  Seen seen_;
  std::map<SiteId, std::vector<mlx::core::array>> by_sequence_;
  bool whole_ = false;       // what stands must see whole sequences,
  bool whole_head_ = false;  // also behind the last layer
  std::vector<Wavefront::Kept> kept_;
  std::optional<mlx::core::array> out_;
  int layer_ = 0;
};

}  // namespace mlxterp
