// generate/runner.h: one pass over the next positions of some prompts.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "mlxterp/nn/kv_cache.h"
#include "mlxterp/trace/context.h"
#include "mlxterp/trace/model.h"
#include "trace/overlay.h"

namespace mlxterp {

/** What runs of one prompt. */
struct PromptStretch {
  int index = 0;   ///< Of the prompt.
  int prompt = 0;  ///< Its positions.
  int total = 0;   ///< Positions there will be at most.
  int first = 0;   ///< The first that runs.
  int length = 0;
  mlx::core::array ids;          ///< [1, length] int32; may be lazy.
  nn::KvCache* cache = nullptr;  ///< Null: they begin at 0, nothing is kept.
};

/** What several prompts go on from together, by one position each. */
struct JointCache {
  std::vector<size_t> rows;  ///< Of which prompts.
  nn::KvCache cache;         ///< [row, ...]
  std::vector<int> padding;  ///< Empty places in front of each one's own.
};

/** What a pass made, lazy. */
struct Ran {
  /** Of each stretch's last position, float32 [stretch, vocab]; absent where
   * nobody asked. */
  std::optional<mlx::core::array> logits;
  /** Of each site that is saved, each stretch's part, [1, pos, ...]. */
  std::vector<std::vector<mlx::core::array>> saved;
  /** Knows what edits made; null where there are none. */
  std::unique_ptr<TraceContext> context;
  Standing::Acted acted = {};
};

/** What a model's layers and edits allow, and its passes. Immutable; the model
 * outlives it. */
class Runner {
 public:
  Runner(const InterpretableModel& model, std::vector<SiteId> saved, int batch);

  /** The Decoder inside; null: a module that runs whole sequences, one at a
   * time, and keeps no cache. */
  const Decoder* decoder() const { return decoder_; }
  /** Whether stretches may share a pass. */
  bool together() const { return together_; }
  /** Whether what runs at once makes no difference. */
  bool by_position() const { return by_position_; }
  /** Whether windows may forget. */
  bool forgets() const { return !scores_; }
  const std::vector<SiteId>& saved() const { return saved_; }

  /** Whether they may go on from one cache of all. */
  bool joins() const { return joins_; }

  /** `joint`: what the parts, a position each, go on from instead of caches of
   * their own. */
  Ran run(
      const std::vector<PromptStretch>& parts,
      int step,
      bool with_logits,
      JointCache* joint = nullptr) const;

 private:
  /** Logits of each stretch's last position, in the model's dtype. */
  std::optional<mlx::core::array> logits_of(
      const mlx::core::array& ids,
      const std::vector<int>& last,
      Pass& pass,
      bool wanted) const;
  mlx::core::array logits_of_module(
      const mlx::core::array& ids, Pass& pass) const;
  mlx::core::array part(
      const mlx::core::array& value, int row, const PromptStretch& it) const;

  const InterpretableModel& model_;
  const Decoder* decoder_;
  std::vector<SiteId> saved_;
  int batch_;
  bool together_ = true, by_position_ = true, scores_ = false;
  bool joins_ = true;
  bool head_ = false;  // somebody looks at what follows the last mixer
};

}  // namespace mlxterp
