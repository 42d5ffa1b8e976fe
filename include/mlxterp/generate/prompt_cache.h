// mlxterp/generate/prompt_cache.h: beginnings of prompts that need not run
// again.

#pragma once

#include <memory>
#include <vector>

#include "mlxterp/nn/kv_cache.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/**
 * What earlier generations left, for later ones that begin alike: the same chat
 * a turn later, the same instructions before another question. A beginning is
 * known by its tokens, the model's weights, and the very edits and attached
 * modules that were active: another edit, though it may do the same, begins
 * anew. So does one whose effect depends on where a prompt ends, and whoever
 * saves values, which must be seen.
 *
 * A handle on shared state; of one thread at a time.
 */
class PromptCache {
 public:
  /** Keeps so many beginnings, those used last. */
  explicit PromptCache(size_t most = 8);

  size_t size() const;
  void clear();

  /** Whether generations of that handle may use one at all. */
  static bool serves(const InterpretableModel& model);

  /** The longest beginning of `ids` that is known, at most `most` positions;
   * empty: none. */
  nn::KvCache find(
      const InterpretableModel& model, const std::vector<int>& ids, int most);

  /** Keeps what a cache holds of `ids`. */
  void keep(
      const InterpretableModel& model,
      std::vector<int> ids,
      const nn::KvCache& cache);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace mlxterp
