#include <set>

#include "analysis/any_model.h"
#include "analysis/random.h"
#include "core/fail.h"
#include "mlxterp/analysis/heads.h"

namespace mlxterp {

Inputs::Rows repeated_tokens(
    const InterpretableModel& model, const RepeatedTokens& options) {
  int vocab = vocabulary(model);
  std::vector<int> prefix;
  if (model.has_tokenizer()) {
    vocab = std::min(vocab, model.tokenizer().vocab_size());
    // Not what stands behind a text, such as an EOS.
    const auto bos = model.tokenizer().bos();
    const auto around = model.tokenizer().encode("");
    if (bos && !around.empty() && around[0] == *bos) prefix = {*bos};
  }
  const int first = vocab / 10, choice = vocab - 2 * first;
  if (options.period < 2 || options.repeats < 2 || options.sequences < 1)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} sequences of {} tokens {} times; give at least 1 "
        "sequence of 2 tokens, 2 times",
        options.sequences,
        options.period,
        options.repeats);
  if (options.period > choice)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} different tokens asked for, {} to draw from; "
        "make "
        "the period shorter",
        options.period,
        choice);
  const int context = context_length(model);
  const int64_t length = int64_t{options.period} * options.repeats +
                         static_cast<int64_t>(prefix.size());
  if (length > context)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} tokens {} times make {}, the model's context is "
        "{}; make the period shorter",
        options.period,
        options.repeats,
        length,
        context);
  Random random(options.seed);
  Inputs::Rows rows;
  for (int s = 0; s < options.sequences; ++s) {
    auto& row = rows.emplace_back(prefix);
    std::vector<int> period;
    std::set<int> taken;
    while (period.size() < static_cast<size_t>(options.period)) {
      const int id =
          first + static_cast<int>(random.below(static_cast<size_t>(choice)));
      if (taken.insert(id).second) period.push_back(id);
    }
    for (int r = 0; r < options.repeats; ++r)
      row.insert(row.end(), period.begin(), period.end());
  }
  return rows;
}

}  // namespace mlxterp
