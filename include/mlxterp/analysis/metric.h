// mlxterp/analysis/metric.h: what is measured of a run, one number.

#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** A token, by its id or by text that is exactly that token. */
class Token {
 public:
  // NOLINTBEGIN(google-explicit-constructor): each of these is a token
  Token(int id) : value_(id) {}
  Token(std::string text) : value_(std::move(text)) {}
  Token(const char* text) : value_(std::string(text)) {}
  // NOLINTEND(google-explicit-constructor)

  /** Throws unknown_name where the text is not one token, out_of_range. */
  int id(const InterpretableModel& model) const;

  const std::variant<int, std::string>& value() const { return value_; }

 private:
  std::variant<int, std::string> value_;
};

/** One token for all prompts, or one for each. */
class Tokens {
 public:
  // NOLINTBEGIN(google-explicit-constructor)
  Tokens(Token one) : tokens_{std::move(one)} {}
  Tokens(int id) : Tokens(Token(id)) {}
  Tokens(const char* text) : Tokens(Token(text)) {}
  Tokens(std::string text) : Tokens(Token(std::move(text))) {}
  Tokens(std::vector<Token> each) : tokens_(std::move(each)) {}
  // NOLINTEND(google-explicit-constructor)
  Tokens(std::initializer_list<Token> each) : tokens_(each) {}

  size_t size() const { return tokens_.size(); }
  /** Of one prompt of `prompts`. Throws usage where the numbers differ. */
  const Token& of(size_t prompt, size_t prompts) const;

  const std::vector<Token>& each() const { return tokens_; }

 private:
  std::vector<Token> tokens_;
};

/**
 * What is measured of a run: a function from its logits to one number, in
 * float32. Read at one position, by default the last; loss and custom_of_run
 * at all positions. A value, made by the functions below.
 */
struct Metric {
  enum class Kind {
    none,  ///< No metric was chosen; an error.
    logit,
    logit_diff,
    probability,
    log_probability,
    rank,
    kl_divergence,
    loss,
    custom,
  };
  Kind kind = Kind::none;
  std::string name;  ///< For people: "logit_diff( Mary, John)".
  Tokens token = 0;
  Tokens foil = 0;  ///< logit_diff only: the token that is subtracted.
  /** Negative ones count from the end of the prompt. */
  int position = -1;
  /** Logits [row, vocab], float32, to values [row]; lazy. */
  using Function = std::function<mlx::core::array(const mlx::core::array&)>;
  /** Custom only. */
  Function function = {};
  /** Custom only, instead: one for each prompt. */
  std::vector<Function> each = {};
  /** Custom only: it is given one run at a time, the logits of all its
   * positions, [pos, vocab], and returns one number. */
  bool whole_run = false;
};

/** The token's logit. */
Metric logit(Tokens token);
/** The token's logit minus the foil's (Wang et al., 2022). */
Metric logit_diff(Tokens token, Tokens foil);
/** The token's probability, 0 to 1. */
Metric probability(Tokens token);
/** Its natural logarithm. */
Metric log_probability(Tokens token);
/** How many tokens are ahead of it: 0 for the winner. */
Metric rank(Tokens token);
/** From the clean run's prediction to this run's, in nats. */
Metric kl_divergence();
/** Mean cross-entropy of the prompt's own next tokens, in nats. */
Metric loss();
/** A function of your own: logits [row, vocab], float32, to values [row]. */
Metric custom(
    std::string name,
    std::function<mlx::core::array(const mlx::core::array& logits)> function);
/** The same with a function for each prompt. */
Metric custom(std::string name, std::vector<Metric::Function> each);
/** A function of your own over all positions: the logits of one run, [pos,
 * vocab], float32, to one number. A sweep calls it once for each cell. */
Metric custom_of_run(std::string name, Metric::Function function);

/** The metric of logits [1, pos, vocab]; evaluates. Throws usage for a metric
 * that needs more than one position of one run: kl_divergence, loss and
 * custom_of_run. */
float measure(
    const InterpretableModel& model,
    const Metric& metric,
    const mlx::core::array& logits);
/** Of one prompt of several, where each has its own tokens. */
float measure(
    const InterpretableModel& model,
    const Metric& metric,
    const mlx::core::array& logits,
    size_t prompt,
    size_t prompts);

}  // namespace mlxterp
