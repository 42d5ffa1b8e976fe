// mlxterp/generate/sampling.h: from logits to the next token.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/generation_config.h"

namespace mlxterp {

/**
 * How the next token is chosen. The filters act in llama.cpp's order:
 * repetition penalty, top-k, top-p, min-p, temperature; what is left is drawn
 * from. Temperature 0 takes the likeliest token.
 */
struct Sampling {
  float temperature = 0.0f;
  int top_k = 0;       ///< Only so many tokens; 0: all.
  float top_p = 1.0f;  ///< Only the likeliest that make up so much; 1: all.
  float min_p = 0.0f;  ///< Only those so likely beside the likeliest; 0: all.
  /** Tokens of the prompt and of what was generated lose by it; 1: nothing. */
  float repetition_penalty = 1.0f;
  uint64_t seed = 0;

  friend bool operator==(const Sampling&, const Sampling&) = default;
};

/** What somebody chose of it; absent: nothing. */
struct SamplingChoice {
  std::optional<float> temperature = {}, top_p = {}, min_p = {},
                       repetition_penalty = {};
  std::optional<int> top_k = {};
  std::optional<uint64_t> seed = {};
};

struct ResolvedSampling {
  Sampling sampling = {};
  std::vector<std::string> from_model = {};  ///< Fields that its makers gave.
};

/** What was chosen; where there is a temperature above 0, the rest is what the
 * model's makers say. Without one the likeliest token is taken. Throws usage as
 * check does. */
ResolvedSampling resolve(
    const SamplingChoice& choice, const GenerationConfig& model);

/** Throws usage where a number is out of range, or chooses among samples where
 * nothing is sampled. */
void check(const Sampling& sampling);

/** @name Filters of logits [row, vocab], float32, lazy; each is a function of
 * its arguments alone. What is left out becomes -inf. @{ */

/** Where `seen` (bool, as logits) logits above 0 are divided by the penalty,
 * others multiplied (Keskar et al., 2019). */
mlx::core::array penalized(
    const mlx::core::array& logits,
    const mlx::core::array& seen,
    float penalty);
/** The k likeliest, and those that are as likely as the last of them. */
mlx::core::array keep_top_k(const mlx::core::array& logits, int k);
/** The smallest set of likeliest tokens whose probabilities reach p (Holtzman
 * et al., 2019). */
mlx::core::array keep_top_p(const mlx::core::array& logits, float p);
/** Those whose probability is at least p times the largest (Nguyen et al.,
 * 2024). */
mlx::core::array keep_min_p(const mlx::core::array& logits, float p);
/** @} */

/** The next token of each row, int32 [row]; row i is drawn by the key that
 * `seeds[i]` and `step` make, so it does not depend on the others. `seen`: as
 * in penalized, read where there is a penalty. */
mlx::core::array sample(
    const mlx::core::array& logits,
    const std::optional<mlx::core::array>& seen,
    const Sampling& sampling,
    const std::vector<uint64_t>& seeds,
    int step);

}  // namespace mlxterp
