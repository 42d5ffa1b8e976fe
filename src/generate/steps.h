// generate/steps.h: prompts on their way, step by step.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "generate/runner.h"
#include "generate/text_stream.h"
#include "mlxterp/generate/generate.h"

namespace mlxterp {

/** One prompt on its way. */
struct Row {
  std::vector<int> ids;  ///< The prompt, and what was generated.
  int prompt = 0;        ///< Its positions.
  int total = 0;         ///< Positions there will be at most.
  int steps = 0;         ///< Tokens there will be at most.
  uint64_t seed = 0;
  nn::KvCache cache = {};
  int ran = 0;      ///< Positions that ran, or are on their way.
  int settled = 0;  ///< Of those, what belongs to the text and is in `saved`.
  int reused = 0;   ///< Of those, what an earlier generation left.
  std::vector<std::vector<mlx::core::array>> saved =
      {};  ///< By site, in order.

  int length() const { return static_cast<int>(ids.size()); }
};

/** A step on its way: what each row's next token will be. */
struct Step {
  std::vector<size_t> rows = {};
  mlx::core::array tokens = mlx::core::array(0);     ///< int32 [row]
  mlx::core::array log_probs = mlx::core::array(0);  ///< float32 [row]
  std::vector<std::unique_ptr<TraceContext>> contexts = {};
  std::vector<mlx::core::array> kept = {};  ///< What is to be evaluated.
  /** A value of a row and of a saved site. Of a step that was laid out ahead: a
   * row that has ended by then does not get it. */
  struct Held {
    size_t row, site;
    mlx::core::array value;
  };
  bool early = false;  ///< Laid out before the tokens of the last were known.
  std::vector<Held> held = {};
  /** As long as a row will be with it. */
  struct End {
    size_t row;
    int positions;
  };
  std::vector<End> ends = {};
};

/** Lays out steps; evaluates no more than the parts of a prompt that run before
 * its last. `model` has the edits of `options`; both outlive it. */
class Steps {
 public:
  Steps(
      const InterpretableModel& model,
      const GenerateOptions& options,
      const Inputs::Rows& ids);

  /** Step 0, of all rows. */
  Step prefill();
  /** The next position of some rows. Where `before` is given, its tokens are
   * not known yet. */
  Step go_on(std::vector<size_t> some, const Step* before = nullptr);

  /** Whether a step may be laid out before the tokens of the last are known,
   * and of a row. */
  bool ahead() const;
  bool ahead(const Row& row) const { return same_angles(row.ran, row.ran + 1); }

  /** Gives a row what a step ran, of one that was laid out ahead its values. */
  void settle(const Step& step, size_t row);

  /** Leaves what a row's cache holds for later generations. */
  void leave(const Row& row) const;

  std::vector<Row>& rows() { return rows_; }
  const std::vector<Row>& rows() const { return rows_; }
  const std::vector<SiteId>& saved() const { return runner_.saved(); }
  int launched() const { return launched_; }
  /** Which edits changed a value. */
  const Standing::Acted& acted() const { return acted_; }
  int axis_of(SiteId site) const {
    return model_.sites()[site].layout == Layout::scores ? 2 : 1;
  }

 private:
  Row row_of(size_t i, const std::vector<int>& ids) const;
  bool reuses() const;
  /** Starts `seen_` from the prompts. */
  void see_prompts(int vocab);
  nn::KvCache empty_cache() const;
  /** What a prompt goes on from, wherever that is kept. */
  nn::KvCache cache_of(size_t i) const;
  /** Lets these go on from one cache of all where they may and it pays, and
   * others from their own. */
  void join(const std::vector<size_t>& some, bool may);
  bool same_angles(int length, int other) const {
    const auto* decoder = runner_.decoder();
    return !decoder || decoder->config().same_angles(length, other);
  }
  bool same_angles(const std::vector<PromptStretch>& parts) const;

  /** Positions of a row up to `to`, from where it stands, or from the first
   * where nothing may be kept. */
  PromptStretch stretch(
      size_t i, int to, const mlx::core::array* lazy = nullptr);
  /** Logits of the last positions; lazy. */
  mlx::core::array pass(
      const std::vector<PromptStretch>& parts,
      Step& step,
      bool logits = true,
      JointCache* joint = nullptr);
  void keep_saved(
      const Ran& ran, const std::vector<PromptStretch>& parts, Step& step);

  int chunk_of(const Row& row) const;
  /** Runs a row's prompt up to a position, in chunks, and evaluates it. */
  void run_to(size_t i, int to, Step& step);
  void finish_chunk(Step& step) const;
  /** Rows that are equal up to `from` and may go on so run that once. */
  void share(const std::vector<size_t>& group, int from, Step& step);
  int same_beginning(const std::vector<size_t>& group, int from) const;

  void choose(Step& step, std::vector<mlx::core::array> rows_of_logits);
  void see(const Step& step);

  const InterpretableModel& model_;
  const GenerateOptions& options_;
  Runner runner_;
  bool cached_;  // whether positions that ran are kept
  std::vector<Row> rows_;
  std::optional<JointCache> joint_;
  /** Which tokens each prompt holds, bool [prompt, vocab]; where there is a
   * penalty. */
  std::optional<mlx::core::array> seen_;
  int launched_ = 0;
  Standing::Acted acted_;
};

}  // namespace mlxterp
