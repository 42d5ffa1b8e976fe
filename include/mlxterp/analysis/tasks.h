// mlxterp/analysis/tasks.h: tasks with generated prompts: pairs of a clean and
// a corrupted prompt, and a metric for them.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** A task's name and source. */
struct TaskInfo {
  const char* name;
  const char* about;  ///< A sentence, with the paper.
};

/**
 * ioi           Wang et al., 2022: "When Mary and John went to the store, John
 *               gave a drink to" " Mary"; half of the pairs name Mary first
 *               (ABBA), half John (BABA). Corrupted: the second John is Mary.
 * greater-than  Hanna et al., 2023: "The war lasted from the year 1743 to the
 *               year 17": years that are later. Corrupted: 1703. Read as
 *               probability of later less that of earlier ones; of the tens
 *               digit where digits are tokens.
 * induction     Olsson et al., 2022: random tokens, then their beginning again.
 *               Corrupted: what came next the first time is another token.
 * agreement     Linzen et al., 2016: "The keys near the table" " are".
 *               Corrupted: the other number of the subject.
 * facts         Meng et al., 2022: "The capital of France is" " Paris".
 *               Corrupted: another subject of the same relation.
 */
std::span<const TaskInfo> task_list();

/** Pairs and a metric, to be used with patch() as they are. A value. */
struct Task {
  struct Pair {
    /** As text, empty where the prompts are random tokens. */
    std::string clean, corrupt;
    std::vector<int> clean_ids, corrupt_ids;  ///< Equally long.
    /** What the clean prompt calls for, and what the corrupted one does or what
     * competes. Of greater-than: the tokens that count for and against. */
    std::vector<int> answers, foils;
  };
  std::string name;
  std::vector<Pair> pairs;

  Inputs clean() const;
  Inputs corrupt() const;
  /** With each pair's own tokens: the logit difference of answer and foil, or
   * of several the difference of their probabilities. */
  Metric metric() const;
};

struct TaskOptions {
  int pairs = 8;
  uint64_t seed = 0;
};

/**
 * Draws pairs, the same for a seed on every machine. Of every pair the prompts
 * are equally long and the answers are one token each behind them; all pairs of
 * a task have one length, so that sweeps over positions can be averaged. Throws
 * unknown_name with the tasks there are, and usage where the tokenizer does not
 * allow so many pairs.
 */
Task make_task(
    const InterpretableModel& model,
    std::string_view name,
    const TaskOptions& options = {});

/** The metric of every pair. */
struct TaskScores {
  std::vector<float> clean, corrupt;
  float clean_mean = 0, corrupt_mean = 0;
  float accuracy = 0;  ///< The fraction of clean prompts above zero.
};

/** How well the model does; one pass a prompt, evaluates. */
TaskScores score(const InterpretableModel& model, const Task& task);

}  // namespace mlxterp
