// mlxterp generate: text, while the model is edited and read.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <set>

#include "arguments.h"
#include "generating.h"
#include "interrupt.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/report/generate.h"
#include "mlxterp/report/probe.h"
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
  GenerateArguments text;
  std::vector<std::string> save, probes;
  bool force = false;
  std::string when = "all";
  std::optional<std::string> output;
};

// --edit, each at its time. Turns have names where there is one conversation.
std::vector<Edit> edits_of(
    const Arguments& arguments,
    const When& when,
    const std::vector<ChatPrompt>& chats,
    const InterpretableModel* model = nullptr) {
  auto options = edit_options(model);
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

std::vector<report::ShownProbe> probes_of(const Arguments& arguments) {
  std::vector<report::ShownProbe> out;
  for (const auto& file : arguments.probes)
    out.push_back({.file = file, .probe = Probe::load(file)});
  return out;
}

// A row for each token, a column or two for each probe.
std::string probes_text(
    const report::GenerateReport& report, size_t i, bool numbered) {
  using enum view::Align;
  std::vector<view::Table::Column> columns = {{"token"}};
  for (const auto& it : report.probes) {
    const bool logistic = it.probe.kind == ProbeKind::logistic;
    columns.push_back({logistic ? "log-odds" : "value", right});
    if (logistic) columns.push_back({it.probe.classes[1], right});
  }
  view::Table table(columns);
  for (size_t k = 0; k < report.labels[i].size(); ++k) {
    std::vector<std::string> row = {view::visible(report.labels[i][k])};
    for (const auto& it : report.probes) {
      const bool ran = k < it.values[i].size();
      const float value = ran ? it.values[i][k] : 0;
      row.push_back(ran ? fmt::format("{:+.3f}", value) : "-");
      if (it.probe.kind == ProbeKind::logistic)
        row.push_back(
            ran ? view::percent(static_cast<float>(report::probability(value)))
                : "-");
    }
    table.add(std::move(row));
  }
  return (numbered ? fmt::format("\n[{}]\n", i) : "\n") +
         table.text(view::terminal(STDOUT_FILENO));
}

void run(const Arguments& arguments) {
  arguments.text.check();
  arguments.model.check();
  if (arguments.output) {
    if (arguments.save.empty()) usage("-o without --save: nothing to write");
    check_output(*arguments.output, arguments.force);
  }
  const auto when = spec::parse_when(arguments.when, "--when");
  if (when != When::all() && arguments.model.edits.empty())
    usage("--when says when edits act; give one with --edit");
  if (!arguments.text.chat) static_cast<void>(edits_of(arguments, when, {}));
  auto probes = probes_of(arguments);
  const auto model = arguments.model.load_unedited();
  for (const auto& it : probes)
    it.probe.check_fits(model, warn);
  auto [chats, rows, options, from_model] = continued(arguments.text, model);
  const bool json = arguments.model.json;
  const bool several = arguments.text.prompts.size() > 1;
  options.edits = edits_of(arguments, when, chats, &model);
  options.save = spec::parse_list(arguments.save, "--save");
  // What was asked for is kept apart from what probes read.
  std::set<std::string> asked;
  for (const auto& pattern : options.save)
    for (const auto site : model.sites().match(pattern))
      asked.insert(model.sites()[site].name);
  for (const auto& it : probes)
    options.save.push_back(it.probe.site);
  if (!json && !several)
    options.on_token = [](size_t,
                          const GeneratedToken&,
                          std::string_view text) { write(shown(text)); };
  Generator generator(model, rows, options);
  const Uninterrupted kept;  // Ctrl-C: what there is so far is the answer
  while (!kept.asked() && generator.step()) {
  }
  if (!kept.asked())
    for (const size_t i : generator.idle())
      warn(fmt::format(
          "the edit '{}' changed nothing: no position that it is for was run; "
          "see its positions and --when",
          i < arguments.model.edits.size() ? arguments.model.edits[i]
                                           : options.edits[i].site));

  report::GenerateReport report{
      .model = arguments.model.model,
      .edits = arguments.model.edits,
      .when = spec::text_of(when),
      .sampling = options.sampling,
      .from_model = from_model,
      .texts = generator.texts(),
      .output = arguments.output,
      .prefill_seconds = generator.prefill_seconds(),
      .decode_seconds = generator.decode_seconds()};
  report.labels = labels_of(model, report.texts);
  const auto all = generator.saved();
  for (auto& it : probes)
    it.values = probe_values(generator, it.probe);
  report.probes = std::move(probes);
  Tensors saved;
  for (const auto& [name, value] : all)
    if (asked.contains(name)) {
      report.saved.push_back(report::statistics(name, value));
      saved.emplace_back(name, value);
    }
  const auto write_saved = [&] {
    if (arguments.output)
      write_tensors(
          *arguments.output,
          saved,
          {{"model", arguments.model.model},
           {"lengths", all.lengths()},
           {"edits", arguments.model.edits},
           {"when", report.when}},
          arguments.force);
  };
  if (json) {
    print(arguments.model.answer(report::to_json(report)));
    write_saved();
    return;
  }
  if (several)
    for (size_t i = 0; i < report.texts.size(); ++i)
      write(fmt::format(
          "{}[{}] {}{}\n",
          i ? "\n" : "",
          i,
          shown(arguments.text.prompts[i]),
          shown(report.texts[i].text)));
  else
    write("\n");
  if (!model.has_tokenizer())
    for (const auto& text : report.texts)
      write(fmt::format("{}\n", fmt::join(text.ids(), ",")));
  if (!report.probes.empty())
    for (size_t i = 0; i < report.texts.size(); ++i)
      write(probes_text(report, i, several));
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
  arguments->text.add_to(app);
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
  add_list(
      app,
      "--probe",
      arguments->probes,
      "A file that `probe train` wrote: what the probe says at each token; "
      "repeat for more");
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
