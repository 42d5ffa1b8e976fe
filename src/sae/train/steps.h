// sae/train/steps.h: what trainers share: rates, scales, their state.

#pragma once

#include <chrono>
#include <span>
#include <string>

#include "mlx/array.h"
#include "mlxterp/sae/train.h"
#include "sae/train/adam.h"
#include "sae/train/losses.h"

namespace mlxterp::sae_train {

inline constexpr const char* who = "train_sae";
/** Of SAELens' moving average. */
inline constexpr double threshold_weight = 0.01;

class Stopwatch {
 public:
  /** Seconds since the last time. */
  double lap();

 private:
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
};

/** Of Adam in the step `at`, from 0 on. */
AdamOptions adam_options(const SaeTrainOptions& options, int64_t at);
/** The penalty's coefficient in it. */
double sparsity_at(const SaeTrainOptions& options, int64_t at);
/** What gradients are multiplied by, so that their common norm is `clip` at
 * most. Evaluates. */
float clip_factor(const Tensors& gradients, double clip);

/** What rows [n, d] are multiplied by. Evaluates. Throws bad_data where they
 * are not finite or all 0; `what` names them. */
double scale_of(
    const mlx::core::array& x, SaeInputScale scale, const char* what);

/** Evaluates them; the times of choice, loops and products. */
void evaluate(const Slopes& slopes, Stopwatch& watch, SaeTimes& times);

/** A moving average of the least activation that was kept, after one more
 * step. */
double threshold_after(double threshold, const Slopes& slopes);

/** What a step saw, of slopes that are evaluated; `in` are the rows read.
 * Throws bad_data, naming the step `at`, where the loss is not finite. */
SaeStep seen(const Slopes& slopes, const mlx::core::array& in, int64_t at);

/** Counts rows since each feature fired. */
void count_rows(
    const mlx::core::array& fired, int rows, std::vector<int64_t>& since);

/** Those that have not fired for so many rows, ascending. */
std::vector<int> dead_of(std::span<const int64_t> since, int64_t dead_after);

/** Parameters and moments under the names that `part_of_state` reads. */
void add_state(
    const Tensors& parameters,
    const Tensors& first,
    const Tensors& second,
    SaeTrainer::Tensors& to);
void restore_state(
    const SaeTrainer::Tensors& state,
    Tensors& parameters,
    Tensors& first,
    Tensors& second);
/** The other parts: rows since features fired, and numbers, by their bits. */
void add_counts(
    std::span<const int64_t> since,
    std::span<const double> numbers,
    SaeTrainer::Tensors& to);
/** Throws bad_data, also for numbers that are not finite or below 0. */
void restore_counts(
    const SaeTrainer::Tensors& state,
    std::span<int64_t> since,
    std::span<double> numbers);

/** Replaces those that are named. Throws usage for a name or shape there is
 * not. */
void replace(const Tensors& given, Tensors& parameters);

}  // namespace mlxterp::sae_train
