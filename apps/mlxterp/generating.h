// apps/mlxterp/generating.h: what is continued and how, for every verb that
// generates text.

#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/generate/generate.h"
#include "mlxterp/text/chat.h"

namespace mlxterp::cli {

/** PROMPT or --ids, --chat, --system, --special, --max-tokens, how tokens are
 * drawn, --stop and --no-cache. */
struct GenerateArguments {
  std::vector<std::string> prompts, ids, stop;
  std::optional<std::string> system;
  bool special = true, chat = false, no_cache = false;
  int max_tokens = 100;
  SamplingChoice sampling;
  const CLI::App* app = nullptr;  ///< The verb, which outlives this.

  void add_to(CLI::App& verb);
  /** Throws usage for what can be checked without the model. */
  void check() const;
};

/** The same with a model. */
struct Continued {
  std::vector<ChatPrompt> chats;  ///< Of each prompt of a --chat, else none.
  Inputs::Rows rows;              ///< The ids of each prompt.
  GenerateOptions options;        ///< Without edits and sites.
  std::vector<std::string> from_model;  ///< As ResolvedSampling has it.
};

/** Says on stderr what came from generation_config.json. */
Continued continued(
    const GenerateArguments& arguments, const InterpretableModel& model);

/** A text for stdout: on a terminal its control characters do nothing. */
std::string shown(std::string_view text);

/** To stdout, at once. Throws environment where it is full. */
void write(std::string_view text);

/** "12 tokens, finish: stop". */
std::string said(const GeneratedText& text);

/** The labels of each text's tokens. */
std::vector<std::vector<std::string>> labels_of(
    const InterpretableModel& model, const std::vector<GeneratedText>& texts);

}  // namespace mlxterp::cli
