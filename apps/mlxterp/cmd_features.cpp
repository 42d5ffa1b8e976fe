// mlxterp features: what the features of an SAE say of a prompt and of a text.

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <memory>

#include "arguments.h"
#include "mlxterp/report/features.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> features;
  FeatureOptions options;
  FeatureContextOptions contexts;
  std::optional<std::string> text;
};

constexpr size_t label_width = 14;

std::string clipped(const std::string& label) {
  const auto shown = view::visible(label);
  return view::display_width(shown) <= label_width
             ? shown
             : view::fit(shown, label_width);
}

std::string tokens_text(
    const InterpretableModel& model, const std::vector<FeatureToken>& tokens) {
  std::string out;
  for (const auto& token : tokens)
    out += fmt::format(
        "{}'{}'",
        out.empty() ? "" : " ",
        clipped(report::label(model, token.id)));
  return out;
}

std::string number(float x) {
  return std::isfinite(x) ? fmt::format("{:.4g}", x) : "NaN";
}

// Of each position its features, and of each of these what it promotes.
std::string reading_text(
    const InterpretableModel& model,
    const FeatureReading& it,
    const view::Terminal& terminal) {
  using enum view::Align;
  std::map<int, std::string> promoted;
  for (const auto& of : it.logits)
    promoted[of.feature] = tokens_text(model, of.promoted);
  const bool counted = !it.positions.empty() && it.positions[0].active >= 0;
  std::vector<view::Table::Column> columns = {{"pos", right}, {"token"}};
  if (counted) columns.push_back({"L0", right});
  columns.insert(columns.end(), {{"feature", right}, {"activation", right}});
  if (!promoted.empty()) columns.push_back({"promotes"});
  view::Table table(columns);
  for (size_t p = 0; p < it.positions.size(); ++p) {
    const auto& position = it.positions[p];
    const auto rows = std::max<size_t>(1, position.top.size());
    for (size_t i = 0; i < rows; ++i) {
      std::vector<std::string> cells = {
          i == 0 ? std::to_string(p) : "",
          i == 0 ? clipped(report::label(model, it.ids[p])) : ""};
      if (counted)
        cells.push_back(i == 0 ? std::to_string(position.active) : "");
      if (i < position.top.size()) {
        const auto& [feature, value] = position.top[i];
        cells.push_back(std::to_string(feature));
        cells.push_back(number(value));
        if (!promoted.empty()) cells.push_back(promoted[feature]);
      } else {
        cells.resize(columns.size());
      }
      table.add(std::move(cells));
    }
  }
  return table.text(terminal);
}

// A context with its token in brackets, newlines and all made visible.
std::string context_text(
    const InterpretableModel& model, const FeatureContexts::Context& context) {
  const auto labels = report::labels(model, context.ids);
  std::string out;
  for (size_t i = 0; i < labels.size(); ++i)
    out += static_cast<int>(i) == context.at ? fmt::format("[{}]", labels[i])
                                             : labels[i];
  return out;
}

std::string contexts_text(
    const InterpretableModel& model,
    const FeatureText& it,
    const view::Terminal& terminal) {
  using enum view::Align;
  std::string text;
  for (const auto& of : it.features) {
    text += fmt::format(
        "\nfeature {}: active at {} of {} positions ({:.3g}%)\n",
        of.feature,
        of.active,
        it.tokens,
        100.0 * static_cast<double>(of.active) /
            static_cast<double>(std::max<int64_t>(1, it.tokens)));
    view::Table table({{"activation", right}, {"context"}});
    for (const auto& context : of.top)
      table.add({number(context.value), context_text(model, context)});
    if (!of.top.empty()) text += table.text(terminal);
  }
  return text;
}

std::string text_of(
    const InterpretableModel& model, const report::FeatureReport& report) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  const auto& it = report.reading;
  auto text = reading_text(model, it, terminal);
  const auto where =
      it.sites.reads == it.sites.writes
          ? it.sites.writes
          : fmt::format("{}, read at {}", it.sites.writes, it.sites.reads);
  text += fmt::format("\n{} features of {}", it.d_sae, where);
  if (it.fit && std::isfinite(it.fit->explained_variance))
    text += fmt::format(
        "; they explain {:.1f}% of its variance\nbehind the first position, "
        "with {:.1f} active",
        100 * it.fit->explained_variance,
        it.fit->l0);
  text += "\n";
  if (report.contexts) text += contexts_text(model, *report.contexts, terminal);
  return text;
}

// Those read of the prompt, or named.
std::vector<int> features_of(const FeatureReading& reading) {
  std::vector<int> out;
  std::map<int, bool> seen;
  for (const auto& position : reading.positions)
    for (const auto& [feature, value] : position.top)
      if (!std::exchange(seen[feature], true)) out.push_back(feature);
  return out;
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.model.check();
  if (arguments.model.saes.size() != 1)
    usage(
        arguments.model.saes.empty()
            ? "no --sae: whose features?"
            : "--sae: features are read of one SAE at a time");
  auto options = arguments.options;
  options.features = spec::parse_numbers(arguments.features, "--feature");
  if (options.top < 1) usage("--top must be at least 1");
  if (options.tokens < 0) usage("--tokens must be at least 0");
  arguments.model.check_edits();
  const auto saes = arguments.model.load_saes();
  const auto& [sae, file, site, name] = saes[0];
  options.site = site;
  options.name = name;
  const auto plain = arguments.model.load_plain();
  // Checked in any case; it stands in the model where something is edited.
  const auto standing = arguments.model.attached(plain, saes);
  const auto model =
      arguments.model.edits.empty() ? plain : arguments.model.edited(standing);
  const auto ids = arguments.prompt.tokens(model);
  show_progress("Running the model");
  report::FeatureReport report{
      .model = arguments.model.model,
      .sae = arguments.model.saes[0],
      .edits = arguments.model.edits,
      .reading = read_features(model, sae, ids, options)};
  end_progress();
  if (arguments.text) {
    auto contexts = arguments.contexts;
    contexts.features = features_of(report.reading);
    contexts.site = site;
    contexts.progress = progress();
    contexts.warn = warn;
    contexts.length =
        std::min(contexts.length, model.decoder().config().context);
    report.text = arguments.text;
    if (contexts.features.empty())
      warn("no feature is active in the prompt, so none is sought in the text");
    else
      report.contexts = feature_contexts(model, sae, *arguments.text, contexts);
    end_progress();
  }
  print(
      arguments.model.json
          ? arguments.model.answer(report::to_json(model, report))
          : text_of(model, report));
}

}  // namespace

Run add_features(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Features of a sparse autoencoder or transcoder: which are active in a "
      "prompt, what they promote, and where in a text they are");
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  app.add_option("--top", a.options.top, "Number of features a position")
      ->capture_default_str();
  add_list(
      app,
      "--feature",
      a.features,
      "Only these features, at every position: 120,7..9");
  app.add_option(
         "--tokens", a.options.tokens, "Number of tokens a feature promotes")
      ->capture_default_str();
  app.add_option(
      "--text",
      a.text,
      "A text file, a JSONL file or a folder of these: where in it the "
      "features shown are most active");
  app.add_option("--contexts", a.contexts.top, "Number of contexts a feature")
      ->capture_default_str();
  app.add_option(
         "--length", a.contexts.length, "Tokens of a window of the text")
      ->capture_default_str();
  app.add_option(
      "--text-tokens", a.contexts.tokens, "Read so many tokens of it only");
  app.footer(
      "Example:\n  mlxterp features google/gemma-2-2b 'The Eiffel Tower is in' "
      "\\\n    --sae google/gemma-scope-2b-pt-res/layer_20/width_16k/"
      "average_l0_71\n\nFeatures of other verbs' runs: --sae FILE and the "
      "sites SITE.sae.acts, as in\n  mlxterp trace MODEL PROMPT --sae FILE \\\n"
      "    --edit 'layers.12.resid_post.sae.acts=on_neurons(3, zero_out)'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
