// mlxterp/generate/generate.h: text, token by token, with every value of every
// pass open to be read and edited.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/generate/prompt_cache.h"
#include "mlxterp/generate/sampling.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** One that was generated. */
struct GeneratedToken {
  int id = 0;
  /** Natural logarithm of its probability, before any filter of sampling. */
  float log_prob = 0;
};

/** Why a text ended. */
enum class Finish {
  unfinished,
  length,       ///< max_tokens, or the model's context.
  stop,         ///< A text of GenerateOptions::stop.
  end_of_text,  ///< A token that ends a text, which is the last token.
};
std::string_view name_of(Finish finish);

/** What one prompt was continued with. */
struct GeneratedText {
  std::vector<int> prompt;
  std::vector<GeneratedToken> tokens;
  /** What they say, without control tokens and without the text that stopped
   * it; whole characters only. Empty where the model has no tokenizer. */
  std::string text;
  Finish finish = Finish::unfinished;
  int reused = 0;  ///< Positions of the prompt that did not run again.

  std::vector<int> ids() const;  ///< Of the tokens.
};

struct GenerateOptions {
  int max_tokens = 100;
  Sampling sampling = {};
  /** Of each prompt; empty: sampling.seed for each. */
  std::vector<uint64_t> seeds = {};
  std::vector<std::string> stop = {};
  /** Whether a token that ends a text does. */
  bool ends = true;
  /** Such tokens beside those that the model and its tokenizer name. */
  std::vector<int> end_ids = {};
  /** In the order they act, behind the handle's. Where they act is said in
   * positions and steps: at_positions, during, on_prompts. */
  std::vector<Edit> edits = {};
  /** Sites or patterns whose values are kept, of every position that runs. */
  std::vector<std::string> save = {};
  /** The tokens that each prompt goes on with, whatever the model would say and
   * whatever they mean; as many as there are, whatever max_tokens says. Empty:
   * its own. */
  Inputs::Rows forced = {};
  /** Off: every step runs all positions again, as it does of a module that is
   * no Decoder. */
  bool cache = true;
  /** Positions of a prompt that run at once. A function of one's own may look
   * at all of a prompt (Intervention::Reach): then all do. */
  int chunk = 512;
  /** Prompts that begin with so many equal tokens run them once. */
  int shared_prefix = 16;
  /** Begins where earlier generations left off, and leaves its own. */
  std::optional<PromptCache> reuse = {};
  /** After each token: which prompt's, and what text it completes, which may
   * be none. What it throws ends the generation. */
  std::function<void(
      size_t prompt, const GeneratedToken& token, std::string_view text)>
      on_token = {};
  /** As in RunOptions. */
  std::function<void()> between = {};
};

/**
 * Prompts of any lengths, continued step by step: step 0 runs the prompts and
 * takes a first token for each, step k runs the k-th token and takes the next.
 * Rows do not depend on each other or on their order: each has its cache, its
 * seed and its positions. A value of one thread.
 *
 *     Generator generator(model, "The capital of France is", {.max_tokens =
 * 5}); while (generator.step()) {} generator.texts()[0].text;  // " Paris. ..."
 */
class Generator {
 public:
  /** Throws usage for options that contradict each other, unknown_name, and as
   * InterpretableModel::token_ids. Runs nothing yet. */
  Generator(
      const InterpretableModel& model,
      const Inputs& prompts,
      GenerateOptions options = {});
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;
  ~Generator();

  /** Runs one step. False: every text has ended, and nothing ran. What it
   * throws leaves what was generated so far; no other step can follow, which is
   * a usage error. */
  bool step();

  /** How many steps ran. */
  int steps() const;

  const std::vector<GeneratedText>& texts() const;

  /** The values of one site in the last step: [prompt, pos, ...], the prompts
   * that took part, shorter ones padded behind their end. Throws unknown_name
   * where it is not saved. */
  mlx::core::array value(std::string_view site) const;

  /** Everything saved so far, one value a site: [prompt, pos, ...], of every
   * position that ran, padded with zeros behind the end of shorter rows (see
   * lengths). The last token of a text was not run. Of scores and patterns,
   * sources behind a destination are masked as in any pass. */
  ActivationCache saved() const;

  /** Which of the options' edits, by number, changed no value in any step:
   * those for positions or steps that the texts did not reach. */
  std::vector<size_t> idle() const;

  /** The same of the last edits of the handle and the options, in the order
   * they were made, by their sites or patterns. */
  std::vector<size_t> idle(const std::vector<std::string>& last) const;

  double prefill_seconds() const;
  double decode_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/** What generate makes. */
struct Generation {
  std::vector<GeneratedText> texts;
  ActivationCache saved;
  double prefill_seconds = 0, decode_seconds = 0;
};

/** Runs a Generator to its end. */
Generation generate(
    const InterpretableModel& model,
    const Inputs& prompts,
    const GenerateOptions& options = {});

}  // namespace mlxterp
