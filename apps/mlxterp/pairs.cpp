#include "pairs.h"

#include <fmt/format.h>

#include "metric.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"

namespace mlxterp::cli {

namespace {

Inputs::Rows prompts(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    const std::vector<std::string>& ids,
    bool special) {
  Inputs::Rows rows;
  for (const auto& text : texts)
    rows.push_back(model.tokenizer().encode(text, {.parse_special = special}));
  for (const auto& list : ids)
    rows.push_back(whole_numbers({list}, "--clean-ids and --corrupt-ids"));
  return rows;
}

std::vector<std::pair<int, int>> parse_aligned(
    const std::vector<std::string>& texts) {
  std::vector<std::pair<int, int>> pairs;
  for (const auto& text : split_lists(texts)) {
    const auto colon = text.find(':');
    if (colon == std::string::npos)
      usage(fmt::format(
          "--align '{}' is not CLEAN:CORRUPT, two positions",
          view::escape(text)));
    const auto clean = whole_numbers({text.substr(0, colon)}, "--align");
    const auto corrupt = whole_numbers({text.substr(colon + 1)}, "--align");
    if (clean.size() != corrupt.size())
      usage(fmt::format(
          "--align '{}': {} positions and {}",
          view::escape(text),
          clean.size(),
          corrupt.size()));
    for (size_t i = 0; i < clean.size(); ++i)
      pairs.emplace_back(clean[i], corrupt[i]);
  }
  return pairs;
}

}  // namespace

void PairArguments::add_to(CLI::App& app) {
  add_list(app, "--clean", clean, "The clean prompt; again for more pairs");
  add_list(app, "--corrupt", corrupt, "The corrupted prompt of the pair");
  add_list(app, "--clean-ids", clean_ids, "Token ids in place of --clean");
  add_list(app, "--corrupt-ids", corrupt_ids, "and of --corrupt");
  app.add_flag("--special", special, "Read control tokens in prompts");
  add_list(app, "--by", by, "Axes: layer, pos, head, neuron")
      ->default_str("layer,pos");
  add_list(app, "--metric", metrics, metric_help);
  app.add_option(
         "--direction",
         direction,
         "denoise: clean values into the corrupted run; noise: the "
         "other way")
      ->capture_default_str();
  app.add_flag("--raw", raw, "The metric itself, not its share of the way");
  add_list(app, "--layers", layers, "Only these: 0,5,10..20,-1");
  add_list(app, "--positions", positions, "Only these positions");
  add_list(app, "--heads", heads, "Only these heads");
  add_list(app, "--neurons", neurons, "Only these neurons");
  add_list(
      app,
      "--align",
      aligned,
      "CLEAN:CORRUPT positions that stand for each other, 0..5:1..6");
}

void PairArguments::check_absent() const {
  if (!clean.empty() || !clean_ids.empty() || !corrupt.empty() ||
      !corrupt_ids.empty() || !metrics.empty())
    usage("--task brings prompts and a metric; leave yours out");
}

void PairArguments::check_present() const {
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
        "{} clean and {} corrupted prompts; give as many of each",
        n_clean,
        n_corrupt));
  if (metrics.empty()) usage("no --metric: what is to be measured?");
}

void PairArguments::check(bool elsewhere) const {
  elsewhere ? check_absent() : check_present();
  if (direction != "denoise" && direction != "noise")
    usage(fmt::format(
        "--direction '{}' is neither denoise nor noise",
        view::escape(direction)));
  parse_axes(by);
  parse_aligned(aligned);
}

PatchOptions PairArguments::options(const InterpretableModel& model) const {
  return {
      .clean = prompts(model, clean, clean_ids, special),
      .corrupt = prompts(model, corrupt, corrupt_ids, special),
      .by = parse_axes(by),
      .metric = metrics.empty() ? Metric{} : parse_metric(model, metrics),
      .direction = noise() ? Direction::noise : Direction::denoise,
      .layers = whole_numbers(layers, "--layers"),
      .positions = whole_numbers(positions, "--positions"),
      .heads = whole_numbers(heads, "--heads"),
      .neurons = whole_numbers(neurons, "--neurons"),
      .aligned = parse_aligned(aligned),
      .progress = progress(),
  };
}

std::string PairArguments::about(
    const std::string& sites, const Sweep& sweep) const {
  const char* from = noise() ? "corrupted" : "clean";
  const char* to = noise() ? "clean" : "corrupted";
  return fmt::format(
      "{} of {}, patched from the {} run into the {} one. {}",
      metrics.front(),
      sites,
      from,
      to,
      raw ? fmt::format(
                "Clean {:+.4f}, corrupted {:+.4f}.", sweep.clean, sweep.corrupt)
          : fmt::format(
                "In percent: 0 leaves the {} run as it is, 100 makes it say "
                "what the {} one says.",
                to,
                from));
}

Json PairArguments::json(
    const InterpretableModel& model,
    const std::string& model_name,
    const Sweep& sweep) const {
  Json out;
  out["model"] = model_name;
  out["direction"] = direction;
  out["tokens"] = Json::array();
  const auto names = labels(model, sweep.ids);
  for (size_t i = 0; i < names.size(); ++i)
    out["tokens"].push_back({{"id", sweep.ids[i]}, {"text", names[i]}});
  out["metric"] = {
      {"name", metrics.front()},
      {"clean", number(sweep.clean)},
      {"corrupt", number(sweep.corrupt)}};
  out["pairs"] = sweep.pairs;
  out["raw"] = raw;
  return out;
}

}  // namespace mlxterp::cli
