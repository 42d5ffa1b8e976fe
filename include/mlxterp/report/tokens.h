// mlxterp/report/tokens.h: what a tokenizer makes of texts, as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/report/names.h"
#include "mlxterp/text/tokenizer.h"

namespace mlxterp::report {

/** A text and its tokens. */
struct TokenizedText {
  std::string text = {};
  std::vector<NamedToken> tokens = {};
  std::vector<bool> special = {};  ///< Of each: whether it is a control token.
};

/** What the tokenizer adds around a text counts too. Throws as encode(). */
TokenizedText tokenized(
    const Tokenizer& tokenizer,
    std::string text,
    const EncodeOptions& options = {});

/** The answer of `mlxterp tokens` (docs/json.md). */
std::string to_json(
    const std::string& model, const std::vector<TokenizedText>& texts);

}  // namespace mlxterp::report
