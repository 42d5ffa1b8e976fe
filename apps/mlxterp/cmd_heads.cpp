// mlxterp heads: where attention heads look, and what is lost without them.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "common.h"
#include "mlx/array.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/terminal.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  RepeatedTokens tokens;
  std::string measure = "mean", kind, ablation = "zero";
  bool exclude_first = false, exclude_current = false, weights = false;
  int top = 5, ablate = 0, draws = 5;
  SweepOutput output;
};

// A grid and what it is called.
struct Named {
  std::string name;
  HeadGrid grid;
};

constexpr const char* circuit_names[] = {"copying", "matching"};

HeadMeasure parse_measure(const std::string& text) {
  for (const auto measure :
       {HeadMeasure::mean, HeadMeasure::mul, HeadMeasure::abs})
    if (text == name(measure)) return measure;
  usage(fmt::format(
      "--measure '{}' is none of mean, mul, abs", view::escape(text)));
}

AblationOptions::Value parse_ablation(const std::string& text) {
  if (text == "zero") return AblationOptions::Value::zero;
  if (text == "mean") return AblationOptions::Value::mean;
  usage(fmt::format(
      "--ablation '{}' is neither zero nor mean", view::escape(text)));
}

void check_kind(const Arguments& arguments) {
  if (arguments.kind.empty()) return;
  std::string known;
  for (const auto kind : head_kinds) {
    if (arguments.kind == name(kind)) return;
    known += fmt::format("{}, ", name(kind));
  }
  for (const auto* circuit : circuit_names)
    if (arguments.weights && arguments.kind == circuit) return;
  usage(fmt::format(
      "--kind '{}' is none of {}or, with --weights, copying, matching",
      view::escape(arguments.kind),
      known));
}

view::Heatmap heatmap(
    const Arguments& arguments, const Named& shown, const std::string& about) {
  view::Heatmap map;
  map.kind = "Attention heads";
  map.heading = fmt::format("{}: {}", arguments.model.model, shown.name);
  map.about = about;
  map.row_axis = "layer";
  map.column_axis = "head";
  for (int i = 0; i < shown.grid.layers; ++i)
    map.rows.push_back(fmt::format("{}", i));
  for (int i = 0; i < shown.grid.heads; ++i)
    map.columns.push_back(fmt::format("{}", i));
  map.values = shown.grid.values;
  return map;
}

std::string table(const std::vector<Named>& grids, int top) {
  view::Table table({{"kind"}, {"best heads"}});
  for (const auto& [name_of_kind, grid] : grids) {
    std::string best;
    for (const auto& head : grid.best(static_cast<size_t>(top)))
      best += fmt::format(
          "{}{} {:.3f}", best.empty() ? "" : "  ", name(head), grid.at(head));
    table.add({name_of_kind, best});
  }
  return table.text(view::terminal(STDOUT_FILENO));
}

std::string list(const std::vector<Head>& heads) {
  std::string text;
  for (const auto& head : heads)
    text += (text.empty() ? "" : " ") + name(head);
  return text;
}

std::string told(const InductionAblation& result, const Arguments& arguments) {
  auto text = fmt::format(
      "\nA repeated token costs {:.3f} nats, a new one {:.3f}: a gain of "
      "{:.3f}.\nWithout {} (to {}) it costs {:.3f}: {:.0f}% of the gain is "
      "gone.\n",
      result.repeated,
      result.first,
      result.first - result.repeated,
      list(result.best.heads),
      arguments.ablation,
      result.best.loss,
      100 * result.best.removed);
  if (result.random.empty()) return text;
  text += fmt::format(
      "Without as many others of the same layers, {} draws: {:.0f}% on "
      "average (",
      result.random.size(),
      100 * result.removed_at_random());
  for (size_t i = 0; i < result.random.size(); ++i)
    text += fmt::format(
        "{}{:.0f}%", i > 0 ? ", " : "", 100 * result.random[i].removed);
  return text + ").\n";
}

Json to_json(const Head& head) {
  return {{"layer", head.layer}, {"head", head.head}};
}

Json to_json(const InductionAblation::Trial& trial) {
  Json out;
  out["heads"] = Json::array();
  for (const auto& head : trial.heads)
    out["heads"].push_back(to_json(head));
  out["loss"] = number(trial.loss);
  out["removed"] = number(trial.removed);
  return out;
}

Json to_json(const HeadGrid& grid, int top) {
  Json out;
  out["best"] = Json::array();
  for (const auto& head : grid.best(static_cast<size_t>(top))) {
    auto entry = to_json(head);
    entry["score"] = number(grid.at(head));
    out["best"].push_back(std::move(entry));
  }
  out["scores"] = Json::array();
  for (int i = 0; i < grid.layers; ++i) {
    auto row = Json::array();
    for (int j = 0; j < grid.heads; ++j)
      row.push_back(number(grid.at({i, j})));
    out["scores"].push_back(std::move(row));
  }
  return out;
}

void save(
    const Arguments& arguments,
    const std::vector<Named>& grids,
    const Inputs::Rows& prompts) {
  if (!arguments.output.file) return;
  std::vector<std::pair<std::string, mlx::core::array>> tensors;
  for (const auto& [name_of_kind, grid] : grids)
    tensors.emplace_back(
        name_of_kind,
        mlx::core::array(grid.values.data(), {grid.layers, grid.heads}));
  const auto text = [](const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const Uninterrupted writing;
  save_safetensors(
      *arguments.output.file,
      tensors,
      {{"mlxterp_version", MLXTERP_VERSION},
       {"model", text(arguments.model.model)},
       {"measure", text(arguments.measure)},
       {"ids", text(prompts)}},
      arguments.output.force);
}

void run(const Arguments& arguments) {
  const bool given = arguments.prompt.text || !arguments.prompt.ids.empty();
  if (given) arguments.prompt.check();
  if (given && arguments.ablate > 0)
    usage("--ablate measures repeated random tokens; leave the prompt out");
  if (arguments.top < 1) usage("--top is at least 1");
  check_kind(arguments);
  arguments.output.check();
  HeadOptions options{
      .measure = parse_measure(arguments.measure),
      .exclude_first = arguments.exclude_first,
      .exclude_current = arguments.exclude_current};
  AblationOptions ablation{
      .tokens = arguments.tokens,
      .heads = arguments.ablate,
      .value = parse_ablation(arguments.ablation),
      .draws = arguments.draws};
  const auto model = arguments.model.load();
  options.progress = ablation.progress = progress();
  const auto prompts = given ? Inputs::Rows{arguments.prompt.tokens(model)}
                             : repeated_tokens(model, arguments.tokens);
  const auto scores = head_scores(model, prompts, options);
  std::vector<Named> grids;
  for (const auto kind : head_kinds)
    grids.push_back({name(kind), scores[kind]});
  if (arguments.weights) {
    auto circuits = head_circuits(model, options.progress);
    grids.push_back({circuit_names[0], std::move(circuits.copying)});
    grids.push_back({circuit_names[1], std::move(circuits.matching)});
  }
  std::optional<InductionAblation> ablated;
  if (arguments.ablate > 0) ablated = induction_ablation(model, ablation);
  end_progress();

  const auto what = arguments.kind.empty() ? grids[0].name : arguments.kind;
  const auto shown = *std::ranges::find(grids, what, &Named::name);
  const bool circuit = std::ranges::count(circuit_names, what) > 0;
  const auto map = heatmap(
      arguments,
      shown,
      circuit ? "Sum of eigenvalues over sum of magnitudes: 1 all positive, "
                "-1 all negative."
              : fmt::format(
                    "Attention to {} sources, measured as {}, on {}.",
                    what,
                    arguments.measure,
                    given ? "the prompt given"
                          : fmt::format(
                                "{} sequences of {} random tokens {} times",
                                arguments.tokens.sequences,
                                arguments.tokens.period,
                                arguments.tokens.repeats)));
  save(arguments, grids, prompts);
  write_page(arguments.output, map);
  if (!arguments.model.json) {
    auto text = table(grids, arguments.top);
    if (!arguments.kind.empty())
      text += "\n" + view::heatmap_text(map, view::terminal(STDOUT_FILENO));
    if (ablated) text += told(*ablated, arguments);
    print(text);
    return;
  }
  Json out;
  out["model"] = arguments.model.model;
  out["measure"] = arguments.measure;
  out["ids"] = prompts;
  out["period"] = given ? Json() : Json(arguments.tokens.period);
  out["kinds"] = Json::object();
  for (const auto& [name_of_kind, grid] : grids)
    out["kinds"][name_of_kind] = to_json(grid, arguments.top);
  out["ablation"] = nullptr;
  if (ablated) {
    auto& entry = out["ablation"];
    entry["value"] = arguments.ablation;
    entry["first"] = number(ablated->first);
    entry["repeated"] = number(ablated->repeated);
    entry["best"] = to_json(ablated->best);
    entry["random"] = Json::array();
    for (const auto& trial : ablated->random)
      entry["random"].push_back(to_json(trial));
  }
  print_json(out);
}

}  // namespace

Run add_heads(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Which attention heads look where");
  a.model.add_to(app);
  a.prompt.add_to(app);
  app.add_option(
         "--period",
         a.tokens.period,
         "Without a prompt: so many random tokens, repeated")
      ->capture_default_str();
  app.add_option("--repeats", a.tokens.repeats, "How often they come")
      ->capture_default_str();
  app.add_option("--sequences", a.tokens.sequences, "So many of them, averaged")
      ->capture_default_str();
  app.add_option("--seed", a.tokens.seed, "What they are drawn from")
      ->capture_default_str();
  app.add_option(
         "--measure",
         a.measure,
         "mean: attention where a destination has a source; mul, abs: as "
         "TransformerLens' detect_head")
      ->capture_default_str();
  app.add_flag(
      "--exclude-first", a.exclude_first, "Leave out attention to position 0");
  app.add_flag(
      "--exclude-current", a.exclude_current, "and of positions to themselves");
  app.add_flag(
      "--weights", a.weights, "Also what the weights alone copy and match");
  app.add_option("--top", a.top, "Heads named of each kind")
      ->capture_default_str();
  app.add_option(
      "--kind",
      a.kind,
      "Show the grid of this kind, as --html does: induction (its default), "
      "previous_token, duplicate_token, first_token, current_token, copying, "
      "matching");
  app.add_option(
      "--ablate",
      a.ablate,
      "What repeated tokens cost without so many of the best induction heads");
  app.add_option("--ablation", a.ablation, "Ablate to zero or mean")
      ->capture_default_str();
  app.add_option("--draws", a.draws, "Random draws of as many other heads")
      ->capture_default_str();
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp heads demo --weights --ablate 5 --html heads.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
