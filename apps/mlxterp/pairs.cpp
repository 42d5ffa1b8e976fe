#include "pairs.h"

#include <fmt/format.h>

#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "progress.h"

namespace mlxterp::cli {

namespace {

Inputs::Rows rows_of(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    const std::vector<std::string>& ids,
    bool special) {
  Inputs::Rows rows;
  for (const auto& text : texts)
    rows.push_back(encode(model, text, special));
  for (const auto& list : ids)
    rows.push_back(spec::parse_numbers({list}, "--clean-ids, --corrupt-ids"));
  return rows;
}

void check_lengths(const Inputs::Rows& clean, const Inputs::Rows& corrupt) {
  for (size_t i = 0; i < clean.size(); ++i)
    if (clean[i].size() != corrupt[i].size())
      usage(fmt::format(
          "pair {}: the clean prompt has {} tokens, the corrupted one {}; make "
          "them equally long, or give a position map with --align",
          i,
          clean[i].size(),
          corrupt[i].size()));
}

}  // namespace

void PromptPairs::add_to(CLI::App& app) {
  add_list(app, "--clean", clean, "The clean prompt; repeat for more pairs");
  add_list(app, "--corrupt", corrupt, "The corrupted prompt of each pair");
  add_list(app, "--clean-ids", clean_ids, "Token ids instead of --clean");
  add_list(app, "--corrupt-ids", corrupt_ids, "Token ids instead of --corrupt");
  add_special(app, special);
}

bool PromptPairs::empty() const {
  return clean.empty() && clean_ids.empty() && corrupt.empty() &&
         corrupt_ids.empty();
}

void PromptPairs::check() const {
  const auto count = [](const auto& texts, const auto& ids, const char* what) {
    if (texts.empty() && ids.empty())
      usage(fmt::format("no --{0}; give one, or --{0}-ids", what));
    if (!texts.empty() && !ids.empty())
      usage(fmt::format("--{0} and --{0}-ids: give one, not both", what));
    return texts.size() + ids.size();
  };
  const auto n_clean = count(clean, clean_ids, "clean");
  const auto n_corrupt = count(corrupt, corrupt_ids, "corrupt");
  if (n_clean != n_corrupt)
    usage(fmt::format(
        "{} clean and {} corrupted prompts; give the same number of each",
        n_clean,
        n_corrupt));
}

std::pair<Inputs::Rows, Inputs::Rows> PromptPairs::tokens(
    const InterpretableModel& model, bool mapped) const {
  std::pair out{
      rows_of(model, clean, clean_ids, special),
      rows_of(model, corrupt, corrupt_ids, special)};
  if (!mapped) check_lengths(out.first, out.second);
  return out;
}

void PairArguments::add_to(CLI::App& app) {
  prompts.add_to(app);
  add_list(app, "--by", by, "Axes: layer, pos, head, neuron")
      ->default_str("layer,pos");
  add_list(app, "--metric", metrics, spec::metric_grammar);
  app.add_option(
         "--direction",
         direction,
         "denoise: clean values into the corrupted run; noise: "
         "corrupted values into the clean run")
      ->capture_default_str();
  choice.add_layers(app);
  choice.add_positions(app);
  choice.add_heads(app);
  choice.add_neurons(app);
  add_list(
      app,
      "--align",
      aligned,
      "Position map for prompts of different lengths, CLEAN:CORRUPT, such as "
      "0..5:1..6");
}

void PairArguments::check(bool elsewhere) const {
  if (!elsewhere) prompts.check();
  if (!elsewhere && metrics.empty()) usage(no_metric);
  spec::parse_direction(direction, "--direction");
  spec::parse_axes(by, "--by");
  spec::parse_position_map(aligned, "--align");
  choice.parse();
}

PatchOptions PairArguments::options(
    const InterpretableModel& model, std::vector<std::string>& warnings) const {
  const auto map = spec::parse_position_map(aligned, "--align");
  const auto [clean, corrupt] = prompts.tokens(model, !map.empty());
  const auto [layers, positions, heads, neurons] = choice.parse();
  // Member by member: GCC 12 crashes where one of a braced list throws.
  PatchOptions out{.clean = clean, .corrupt = corrupt};
  out.by = spec::parse_axes(by, "--by");
  if (!metrics.empty())
    out.metric =
        spec::parse_metric(model, metrics, metric_options(warnings, clean));
  out.direction = spec::parse_direction(direction, "--direction");
  out.layers = layers;
  out.positions = positions;
  out.heads = heads;
  out.neurons = neurons;
  out.position_map = map;
  out.progress = progress();
  return out;
}

}  // namespace mlxterp::cli
