// mlxterp generate: text, while the model is edited and read.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/report/generate.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/spec/turn.h"
#include "mlxterp/spec/when.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> prompts, ids, stop, save;
  std::optional<std::string> system;
  bool special = true, chat = false, no_cache = false, force = false;
  const CLI::App* app = nullptr;  // the verb, which outlives this
  int max_tokens = 100;
  SamplingChoice sampling;
  std::string when = "all";
  std::optional<std::string> output;
};

// Each prompt as what a user said, by the model's own template. Control tokens
// that somebody typed are text, unless --special asks.
std::vector<ChatPrompt> chats_of(
    const Arguments& arguments, const InterpretableModel& model) {
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
    const Arguments& arguments,
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

// --edit, each at its time. Turns have names where there is one conversation.
std::vector<Edit> edits_of(
    const Arguments& arguments,
    const When& when,
    const std::vector<ChatPrompt>& chats) {
  auto options = edit_options();
  if (chats.size() == 1)
    options.turn = [&](std::string_view turn) {
      return spec::positions_of_turn(chats[0], turn, "--edit");
    };
  auto edits = spec::parse_edits(arguments.model.edits, options);
  if (when != When::all())
    for (auto& edit : edits)
      edit.apply = during(when, edit.apply);
  return edits;
}

// On a terminal control characters of a text must do nothing.
std::string shown(std::string_view text) {
  return isatty(STDOUT_FILENO) ? view::escape(text) : std::string(text);
}

void write(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string said(const GeneratedText& text) {
  return fmt::format(
      "{} tokens, finish: {}", text.tokens.size(), name_of(text.finish));
}

void say_how_long(const Generator& generator) {
  size_t tokens = 0, prompt = 0;
  for (const auto& text : generator.texts()) {
    tokens += text.tokens.size();
    prompt += text.prompt.size();
  }
  const auto after_first = tokens - generator.texts().size();
  auto line = fmt::format(
      "prompt: {} tokens in {:.2f} s", prompt, generator.prefill_seconds());
  if (generator.decode_seconds() > 0)
    line += fmt::format(
        "; then {:.1f} tokens/s",
        static_cast<double>(after_first) / generator.decode_seconds());
  note(line);
}

void run(const Arguments& arguments) {
  if (arguments.prompts.empty() == arguments.ids.empty())
    usage(
        arguments.ids.empty() ? "no PROMPT; give one, or --ids"
                              : "PROMPT and --ids: give one, not both");
  arguments.model.check();
  if (arguments.output) {
    if (arguments.save.empty()) usage("-o without --save: nothing to write");
    check_output(*arguments.output, arguments.force);
  }
  const auto when = spec::parse_when(arguments.when, "--when");
  if (when != When::all() && arguments.model.edits.empty())
    usage("--when says when edits act; give one with --edit");
  if (arguments.chat && !arguments.ids.empty())
    usage(
        "--chat writes what PROMPT says by a template; with --ids give all "
        "ids");
  if (arguments.system && !arguments.chat)
    usage("--system is a part of a conversation; give --chat, too");
  if (!arguments.chat) static_cast<void>(edits_of(arguments, when, {}));
  check(resolve(arguments.sampling, {}).sampling);  // before any weights
  const auto model = arguments.model.load_unedited();
  const auto resolved = resolve(arguments.sampling, model.generation_config());
  for (const auto& name : model.generation_config().unusable)
    warn(fmt::format(
        "generation_config.json: {} is no value to sample by; left out", name));
  if (!resolved.from_model.empty())
    note(fmt::format(
        "from generation_config.json: {}",
        fmt::join(resolved.from_model, ", ")));

  const auto chats = chats_of(arguments, model);
  const bool json = arguments.model.json;
  const bool several = arguments.prompts.size() > 1;
  GenerateOptions options;
  options.max_tokens = arguments.max_tokens;
  options.sampling = resolved.sampling;
  options.stop = arguments.stop;
  options.edits = edits_of(arguments, when, chats);
  options.save = spec::parse_list(arguments.save, "--save");
  options.cache = !arguments.no_cache;
  if (!json && !several)
    options.on_token = [](size_t,
                          const GeneratedToken&,
                          std::string_view text) { write(shown(text)); };
  Generator generator(model, rows_of(arguments, model, chats), options);
  const Uninterrupted kept;  // Ctrl-C: what there is so far is the answer
  while (!kept.asked() && generator.step()) {
  }

  report::GenerateReport report{
      .model = arguments.model.model,
      .edits = arguments.model.edits,
      .when = spec::text_of(when),
      .sampling = resolved.sampling,
      .from_model = resolved.from_model,
      .texts = generator.texts(),
      .output = arguments.output,
      .prefill_seconds = generator.prefill_seconds(),
      .decode_seconds = generator.decode_seconds()};
  for (const auto& text : report.texts)
    report.labels.push_back(report::labels(model, text.ids()));
  const auto saved = generator.saved();
  for (const auto& [name, value] : saved)
    report.saved.push_back(report::statistics(name, value));
  const auto write_saved = [&] {
    if (arguments.output)
      write_tensors(
          *arguments.output,
          saved.entries(),
          {{"model", arguments.model.model},
           {"lengths", saved.lengths()},
           {"edits", arguments.model.edits},
           {"when", report.when}},
          arguments.force);
  };
  if (json) {
    print(report::to_json(report) + "\n");
    write_saved();
    return;
  }
  if (several)
    for (size_t i = 0; i < report.texts.size(); ++i)
      write(fmt::format(
          "{}[{}] {}{}\n",
          i ? "\n" : "",
          i,
          shown(arguments.prompts[i]),
          shown(report.texts[i].text)));
  else
    write("\n");
  if (!model.has_tokenizer())
    for (const auto& text : report.texts)
      write(fmt::format("{}\n", fmt::join(text.ids(), ",")));
  for (const auto& text : report.texts)
    note(said(text));
  say_how_long(generator);
  write_saved();
}

}  // namespace

Run add_generate(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description(
      "Continue texts token by token, while values are edited and read");
  arguments->model.add_run_to(app);
  app.add_option(
      "PROMPT",
      arguments->prompts,
      "Texts to continue; - reads one from stdin");
  add_list(
      app,
      "--ids",
      arguments->ids,
      "Token ids instead of PROMPT: 504,414,46682");
  arguments->app = &app;
  app.add_flag(
      "--chat",
      arguments->chat,
      "PROMPT is what a user says: write it by the model's chat template, and "
      "the answer's beginning behind it");
  app.add_option(
      "--system", arguments->system, "What stands before it in a --chat");
  add_special(app, arguments->special);
  app.add_option(
         "--max-tokens", arguments->max_tokens, "How many tokens at most")
      ->capture_default_str();
  auto& by = arguments->sampling;
  app.add_option(
      "--temperature",
      by.temperature,
      "Draw the next token; without it the likeliest is taken");
  app.add_option("--top-k", by.top_k, "Draw from the K likeliest tokens");
  app.add_option(
      "--top-p",
      by.top_p,
      "Draw from the likeliest tokens that make up this probability");
  app.add_option(
      "--min-p",
      by.min_p,
      "Draw from tokens at least so likely beside the likeliest");
  app.add_option(
      "--repetition-penalty",
      by.repetition_penalty,
      "Above 1: tokens that were there before become less likely");
  app.add_option("--seed", by.seed, "Of the draws; the default is 0");
  add_list(app, "--stop", arguments->stop, "A text that ends the answer");
  app.add_option(
         "--when",
         arguments->when,
         "When edits act: prompt, generated, all, step:3, steps:2..5; step 0 "
         "is "
         "the prompt, step k the k-th generated token")
      ->capture_default_str();
  add_list(
      app,
      "--save",
      arguments->save,
      "Sites to save at every position: 'layers.*.resid_post'");
  app.add_flag(
      "--no-cache",
      arguments->no_cache,
      "Run all positions again for every token");
  app.add_option(
      "-o,--output", arguments->output, "Write the saved sites as safetensors");
  app.add_flag("--force", arguments->force, "Replace the file if it exists");
  app.footer(
      "Filters act in this order: repetition penalty, top-k, top-p, min-p,\n"
      "temperature. `mlxterp trace --help` lists the edits.\n\nExample:\n  "
      "mlxterp generate demo 'The capital of France is' --max-tokens 12 \\\n   "
      " "
      "--edit 'layers.12.mlp_out=scale(0)' --when generated\n\nIn a --chat "
      "turns are positions, too: at_positions(@user:-1, EDIT).");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
