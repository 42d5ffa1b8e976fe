#include "generating.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "arguments.h"
#include "mlxterp/report/names.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "progress.h"

namespace mlxterp::cli {

namespace {

// Each prompt as what a user said, by the model's own template. Control tokens
// that somebody typed are text, unless --special asks.
std::vector<ChatPrompt> chats_of(
    const GenerateArguments& arguments, const InterpretableModel& model) {
  std::vector<ChatPrompt> out;
  if (!arguments.chat) return out;
  ChatOptions options;
  options.add_generation_prompt = true;
  options.parse_special =
      arguments.special && arguments.app->count("--special") > 0;
  for (const auto& prompt : arguments.prompts) {
    std::vector<ChatMessage> messages;
    if (arguments.system) messages.push_back({"system", *arguments.system, ""});
    messages.push_back({"user", text_of(prompt), ""});
    out.push_back(model.tokenizer().apply_chat_template(messages, options));
  }
  return out;
}

Inputs::Rows rows_of(
    const GenerateArguments& arguments,
    const InterpretableModel& model,
    const std::vector<ChatPrompt>& chats) {
  if (!arguments.ids.empty())
    return {spec::parse_numbers(arguments.ids, "--ids")};
  Inputs::Rows rows;
  for (const auto& chat : chats)
    rows.push_back(chat.ids);
  if (arguments.chat) return rows;
  for (const auto& prompt : arguments.prompts)
    rows.push_back(encode(model, prompt, arguments.special));
  return rows;
}

}  // namespace

void GenerateArguments::add_to(CLI::App& verb) {
  app = &verb;
  verb.add_option(
      "PROMPT", prompts, "Texts to continue; - reads one from stdin");
  add_list(verb, "--ids", ids, "Token ids instead of PROMPT: 504,414,46682");
  verb.add_flag(
      "--chat",
      chat,
      "PROMPT is what a user says: write it by the model's chat template, and "
      "the answer's beginning behind it");
  verb.add_option("--system", system, "What stands before it in a --chat");
  add_special(verb, special);
  verb.add_option("--max-tokens", max_tokens, "How many tokens at most")
      ->capture_default_str();
  auto& by = sampling;
  verb.add_option(
      "--temperature",
      by.temperature,
      "Draw the next token; without it the likeliest is taken");
  verb.add_option("--top-k", by.top_k, "Draw from the K likeliest tokens");
  verb.add_option(
      "--top-p",
      by.top_p,
      "Draw from the likeliest tokens that make up this probability");
  verb.add_option(
      "--min-p",
      by.min_p,
      "Draw from tokens at least so likely beside the likeliest");
  verb.add_option(
      "--repetition-penalty",
      by.repetition_penalty,
      "Above 1: tokens that were there before become less likely");
  verb.add_option("--seed", by.seed, "Of the draws; the default is 0");
  add_list(verb, "--stop", stop, "A text that ends the answer");
  verb.add_flag(
      "--no-cache", no_cache, "Run all positions again for every token");
}

void GenerateArguments::check() const {
  if (prompts.empty() == ids.empty())
    usage(
        ids.empty() ? "no PROMPT; give one, or --ids"
                    : "PROMPT and --ids: give one, not both");
  if (chat && !ids.empty())
    usage(
        "--chat writes what PROMPT says by a template; with --ids give all "
        "ids");
  if (system && !chat)
    usage("--system is a part of a conversation; give --chat, too");
  mlxterp::check(resolve(sampling, {}).sampling);  // before any weights
}

Continued continued(
    const GenerateArguments& arguments, const InterpretableModel& model) {
  const auto resolved = resolve(arguments.sampling, model.generation_config());
  for (const auto& name : model.generation_config().unusable)
    warn(fmt::format(
        "generation_config.json: {} is no value to sample by; left out", name));
  if (!resolved.from_model.empty())
    note(fmt::format(
        "from generation_config.json: {}",
        fmt::join(resolved.from_model, ", ")));
  Continued out;
  out.chats = chats_of(arguments, model);
  out.rows = rows_of(arguments, model, out.chats);
  out.options.max_tokens = arguments.max_tokens;
  out.options.sampling = resolved.sampling;
  out.options.stop = arguments.stop;
  out.options.cache = !arguments.no_cache;
  out.from_model = resolved.from_model;
  return out;
}

std::string shown(std::string_view text) {
  return isatty(STDOUT_FILENO) ? view::escape(text) : std::string(text);
}

void write(std::string_view text) {
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (written != text.size() || std::fflush(stdout) != 0)
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot write the text: {}", std::strerror(errno)));
}

std::string said(const GeneratedText& text) {
  return fmt::format(
      "{} tokens, finish: {}", text.tokens.size(), name_of(text.finish));
}

std::vector<std::vector<std::string>> labels_of(
    const InterpretableModel& model, const std::vector<GeneratedText>& texts) {
  std::vector<std::vector<std::string>> out;
  for (const auto& text : texts)
    out.push_back(report::labels(model, text.ids()));
  return out;
}

}  // namespace mlxterp::cli
