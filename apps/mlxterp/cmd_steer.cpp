// mlxterp steer: trains a steering vector, measures what it does, and writes
// and reads the files of other tools. (cmd_steer_apply.cpp writes text with
// it.)

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/analysis/steer_sweep.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/report/steering.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  // train
  std::optional<std::string> pairs, positive, negative;
  std::string method = "mean", operation = "add", output;
  // sweep
  std::string vector;
  std::vector<std::string> prompts, metrics,
      strengths = {"-0.2,-0.1,0,0.1,0.2"};
  std::optional<std::string> prompt_file, neutral;
  int random = 4, resamples = 2000;
  uint64_t seed = 0;
  Output files;
  // export, import
  std::string file;
  std::string numbers = "repeng";
  std::optional<float> strength;
  // all
  std::vector<std::string> layers, positions;
  bool special = true, force = false, any_model = false, json = false;
  bool no_neutral = false;
};

using view::Align;

void say_written(const std::string& path) {
  note(fmt::format("wrote {}", view::escape(path)));
}

void answer(
    const ModelArguments& model,
    const std::string& as_json,
    const std::string& text) {
  print(model.json ? model.answer(as_json) : text);
}

SteeringPairs pairs_of(const Arguments& a) {
  if (a.pairs) return read_steering_pairs(*a.pairs);
  SteeringPairs out;
  out.positive = read_lines(*a.positive);
  out.negative = read_lines(*a.negative);
  if (out.positive.size() != out.negative.size())
    usage(fmt::format(
        "{} has {} prompts, {} has {}; line by line they make pairs",
        view::escape(*a.positive),
        out.positive.size(),
        view::escape(*a.negative),
        out.negative.size()));
  return out;
}

Inputs::Rows encoded(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    bool special) {
  Inputs::Rows rows;
  for (const auto& text : texts)
    rows.push_back(encode(model, text, special));
  return rows;
}

// The neutral text that comes along, as much of it as the model takes.
Inputs::Rows own_neutral(const InterpretableModel& model) {
  auto rows = encoded(model, {neutral_text}, true);
  const auto context = static_cast<size_t>(model.decoder().config().context);
  if (rows[0].size() > context) rows[0].resize(context);
  return rows;
}

std::string text_of(const SteeringTraining& training) {
  const auto& vector = training.vector;
  view::Table table(
      {{"layer", Align::right},
       {"residual", Align::right},
       {"direction", Align::right},
       {"cosine", Align::right},
       {"AUC", Align::right},
       {"d'", Align::right}});
  for (size_t i = training.layers.size(); i-- > 0;) {
    const auto& it = training.layers[i];
    table.add(
        {fmt::format("{}", it.layer),
         fmt::format("{:.4g}", it.residual_norm),
         fmt::format("{:.4g}", it.norm),
         fmt::format("{:.3f}", it.cosine),
         fmt::format("{:.3f}", it.auc),
         fmt::format("{:.2f}", it.d_prime)});
  }
  const auto terminal = view::terminal(STDOUT_FILENO);
  return table.text(terminal) + "\n" +
         view::paragraph(
             fmt::format(
                 "{} pairs, method {}. residual: the residual stream's mean "
                 "length; direction: its length; cosine: of each pair's "
                 "difference with the direction, on average; AUC, d': how well "
                 "it tells the training prompts apart",
                 vector.pairs,
                 vector.method),
             terminal) +
         "\n";
}

void train(const Arguments& a) {
  if (!a.pairs && !(a.positive && a.negative))
    usage(
        "no pairs; give --pairs FILE, or --positive FILE and --negative FILE");
  if (a.pairs && (a.positive || a.negative))
    usage("--pairs and --positive, --negative: give one, not both");
  SteerTrainOptions options{
      .positive = std::vector<int>(), .negative = std::vector<int>()};
  options.method = spec::parse_steering_method(a.method, "--method");
  options.operation =
      spec::parse_steering_operation(a.operation, "--operation");
  options.layers = spec::parse_numbers(a.layers, "--layers");
  if (!a.positions.empty())
    options.positions = spec::parse_numbers(a.positions, "--positions");
  options.model = a.model.model;
  options.progress = progress();
  a.model.check();
  check_output(a.output, a.force);
  const auto pairs = pairs_of(a);
  const auto model = a.model.load();
  options.positive = encoded(model, pairs.positive, a.special);
  options.negative = encoded(model, pairs.negative, a.special);
  const auto training = steer_train(model, options);
  end_progress();
  {
    const Uninterrupted writing;
    training.vector.save(a.output, a.force);
  }
  say_written(a.output);
  answer(
      a.model,
      report::to_json(training, a.output, a.model.edits),
      text_of(training));
}

// As one word of a shell.
std::string quoted_word(const std::string& text) {
  std::string out = "'";
  for (const char c : text)
    c == '\'' ? out += "'\\''" : out += c;
  return out + "'";
}

std::string text_of(
    const report::SteerReport& report, const SteeringVector& vector) {
  const auto& sweep = report.sweep;
  const auto terminal = view::terminal(STDOUT_FILENO);
  const bool neutral = sweep.neutral_tokens > 0;
  std::vector<view::Table::Column> columns = {
      {"layer", Align::right},
      {"1.0 is", Align::right},
      {"slope", Align::right},
      {"95% interval", Align::right},
      {"contrary", Align::right},
      {"random", Align::right}};
  if (neutral) columns.push_back({"largest KL", Align::right});
  view::Table table(columns);
  const size_t across = sweep.strengths.size();
  for (size_t l = sweep.layers.size(); l-- > 0;) {
    const auto& it = sweep.layers[l];
    std::vector<std::string> cells = {
        fmt::format("{}", it.layer),
        fmt::format("{:.4g}", it.residual_norm),
        fmt::format("{:+.3g}", it.slope),
        fmt::format("{:+.3g} to {:+.3g}", it.low, it.high),
        fmt::format("{:.0f}%", 100 * it.contrary),
        report.random > 0 ? fmt::format("{:.3g}", it.random) : "-"};
    if (neutral) {
      const auto begin = sweep.kl.begin() + static_cast<long>(l * across);
      cells.push_back(fmt::format(
          "{:.3g}",
          *std::max_element(begin, begin + static_cast<long>(across))));
    }
    table.add(std::move(cells));
  }
  const auto& best = report::most_responsive(sweep);
  const float strongest = std::ranges::max(sweep.strengths);
  auto text = view::heatmap_text(report::heatmap(report), terminal) + "\n" +
              table.text(terminal);
  auto about = fmt::format(
      "{}, {} prompts. 1.0 is: the residual stream's mean length; slope: "
      "change "
      "of the metric for a strength of 1.0, mean over prompts; contrary: share "
      "of prompts with a slope below 0",
      report.metric,
      sweep.prompts);
  if (report.random > 0)
    about += fmt::format(
        "; random: the largest slope of {} random directions of the same "
        "length, in either sense",
        report.random);
  if (neutral)
    about += fmt::format(
        ". largest KL: in nats, from the unsteered model, over {} tokens of "
        "other text, whose perplexity is {:.3f} unsteered",
        sweep.neutral_tokens,
        sweep.neutral_perplexity);
  text += "\n" + view::paragraph(about + ".", terminal) + "\n";
  text += fmt::format(
      "Strength {:g} at layer {}, {:.4g} long, as an edit:\n  --edit {}\n",
      strongest,
      best.layer,
      strongest * best.residual_norm,
      quoted_word(view::escape(
          report::edit_text(vector, report.vector, best.layer, strongest))));
  return text;
}

void sweep(const Arguments& a) {
  SteerSweepOptions options{.prompts = std::vector<int>()};
  options.layers = spec::parse_numbers(a.layers, "--layers");
  options.strengths = spec::parse_decimals(a.strengths, "--strengths");
  options.positions = spec::parse_numbers(a.positions, "--positions");
  options.random = a.random;
  options.resamples = a.resamples;
  options.seed = a.seed;
  options.any_model = a.any_model;
  options.progress = progress();
  if (a.prompts.empty() == !a.prompt_file)
    usage("give prompts, or --prompts FILE with one in each line");
  if (a.metrics.empty())
    usage("no --metric; give one, such as 'logit_diff( good, bad)'");
  a.model.check();
  a.files.check();
  auto texts = a.prompts;
  if (a.prompt_file) texts = read_lines(*a.prompt_file);
  const auto vector = SteeringVector::load(a.vector);
  const auto model = a.model.load();
  report::SteerReport report;
  report.model = a.model.model;
  report.vector = a.vector;
  report.edits = a.model.edits;
  report.random = a.random;
  report.seed = a.seed;
  const auto prompts = encoded(model, texts, a.special);
  options.prompts = prompts;
  if (a.neutral)
    options.neutral = encoded(model, {read_text(*a.neutral)}, a.special);
  else if (!a.no_neutral)
    options.neutral = own_neutral(model);
  options.metric = spec::parse_metric(
      model, a.metrics, metric_options(report.warnings, prompts));
  report.metric = options.metric.name;
  report.sweep = steer_sweep(model, vector, options);
  end_progress();
  const auto& found = report.sweep;
  if (a.files.file) {
    const auto array = [](const std::vector<float>& values,
                          mlx::core::Shape shape) {
      return mlx::core::array(
          values.data(), std::move(shape), mlx::core::float32);
    };
    const int layers = static_cast<int>(found.layers.size());
    const int across = static_cast<int>(found.strengths.size());
    const int count = static_cast<int>(found.prompts);
    Tensors tensors = {
        {"values", array(found.metric, {layers, across, count})},
        {"slopes", array(found.slopes, {layers, count})}};
    if (a.random > 0)
      tensors.emplace_back(
          "random_slopes", array(found.random_slopes, {layers, a.random}));
    if (found.neutral_tokens > 0) {
      tensors.emplace_back(
          "perplexity", array(found.perplexity, {layers, across}));
      tensors.emplace_back("kl", array(found.kl, {layers, across}));
    }
    std::vector<int> swept;
    for (const auto& it : found.layers)
      swept.push_back(it.layer);
    a.files.write(
        tensors,
        {{"model", report.model},
         {"vector", report.vector},
         {"metric", report.metric},
         {"layers", swept},
         {"strengths", fmt::format("{}", fmt::join(found.strengths, ","))}});
  }
  if (a.files.page) a.files.write(report::heatmap(report));
  answer(a.model, report::to_json(report), text_of(report, vector));
}

std::string text_of(const SteeringVector& vector) {
  return fmt::format(
      "{} directions of {} numbers, layers {} to {}, to be used by {}\n",
      vector.layers.size(),
      vector.d_model(),
      vector.layers.front().layer,
      vector.layers.back().layer,
      name(vector.operation));
}

void to_gguf(const Arguments& a) {
  check_output(a.output, a.force);
  auto vector = SteeringVector::load(a.file).of_layers(
      spec::parse_numbers(a.layers, "--layers"));
  if (a.strength) vector = vector.of_strength(*a.strength);
  {
    const Uninterrupted writing;
    vector.save_gguf(a.output, warn, a.force);
  }
  say_written(a.output);
  print(a.json ? report::to_json(vector, a.output) + "\n" : text_of(vector));
}

void from_gguf(const Arguments& a) {
  const auto numbers = spec::parse_gguf_layers(a.numbers, "--gguf-layers");
  a.model.check();
  check_output(a.output, a.force);
  auto vector = SteeringVector::load_gguf(a.file, numbers);
  const auto model = a.model.load();
  vector.check_fits(model, a.any_model);
  const bool measured = std::ranges::all_of(
      vector.layers, [](const auto& it) { return it.residual_norm > 0; });
  if (!measured) vector = with_norms(vector, model, own_neutral(model));
  {
    const Uninterrupted writing;
    vector.save(a.output, a.force);
  }
  say_written(a.output);
  answer(a.model, report::to_json(vector, a.output), text_of(vector));
}

void add_train(CLI::App& app, Arguments& a) {
  a.model.add_run_to(app);
  app.add_option(
      "--pairs",
      a.pairs,
      "JSONL: {\"positive\": \"I love it\", \"negative\": \"I hate it\"} in "
      "each line");
  app.add_option(
      "--positive", a.positive, "Instead: positive prompts, one per line");
  app.add_option("--negative", a.negative, "The negative prompt of each");
  app.add_option(
         "--method",
         a.method,
         "mean: the mean of positive minus negative; pca: their first "
         "principal component; logistic: the weights of a logistic regression")
      ->capture_default_str();
  app.add_option(
         "--operation",
         a.operation,
         "What the vector is for: add, project_out, clamp or ablate")
      ->capture_default_str();
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-1");
  add_list(app, "--positions", a.positions, "Positions read of each prompt")
      ->default_str("-1");
  app.add_option("-o,--output", a.output, "Writes the vector as safetensors")
      ->required();
}

void add_sweep(CLI::App& app, Arguments& a) {
  a.model.add_run_to(app);
  app.add_option("PROMPT", a.prompts, "Prompts, each in quotes");
  app.add_option(
      "--prompts", a.prompt_file, "Instead: a file with one per line");
  app.add_option("--vector", a.vector, "What `steer train` wrote")->required();
  add_list(
      app,
      "--metric",
      a.metrics,
      "What the vector should raise, as 'logit_diff( good, bad)', the log-odds "
      "of one token against another");
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-1");
  add_list(
      app,
      "--strengths",
      a.strengths,
      "In units of the residual stream's mean length at the layer")
      ->default_str("-0.2,-0.1,0,0.1,0.2");
  add_list(
      app,
      "--positions",
      a.positions,
      "Steer only these positions of each text");
  app.add_option(
      "--neutral",
      a.neutral,
      "A file with other text, whose perplexity and KL are measured (default: "
      "a paragraph of its own)");
  app.add_flag("--no-neutral", a.no_neutral, "Do not measure other text")
      ->excludes("--neutral");
  app.add_option(
         "--random", a.random, "Random directions to compare with, each layer")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "Random seed of these and the bootstrap")
      ->capture_default_str();
  app.add_option("--resamples", a.resamples, "Of the bootstrap over prompts")
      ->capture_default_str();
  a.files.add_to(app);
}

}  // namespace

Run add_steer(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Steering: train a direction, measure what adding it does, write text "
      "with it, and exchange it with llama.cpp and repeng");
  app.require_subcommand(1);
  auto* trained = app.add_subcommand(
      "train", "Train a direction of each layer on pairs of prompts");
  auto* swept =
      app.add_subcommand("sweep", "Measure a metric by layer and strength");
  auto* applied = app.add_subcommand(
      "apply", "Continue texts with a vector, beside the same without it");
  const auto apply = add_steer_apply(*applied);
  auto* exported =
      app.add_subcommand("export", "Write a vector as a GGUF control vector");
  auto* imported = app.add_subcommand("import", "Read a GGUF control vector");
  add_train(*trained, a);
  add_sweep(*swept, a);
  exported->add_option("FILE", a.file, "What `steer train` wrote")->required();
  exported->add_option("OUTPUT", a.output, "The GGUF file")->required();
  add_list(*exported, "--layers", a.layers, "Only these layers: 1..20");
  exported->add_option(
      "--strength",
      a.strength,
      "Scale each direction to this strength, in units of the residual "
      "stream's mean length, so that llama.cpp adds that at a scale of 1");
  exported->add_flag("--json", a.json, "Answer in JSON (docs/json.md)");
  a.model.add_run_to(*imported);
  imported->add_option("FILE", a.file, "A GGUF control vector")->required();
  imported->add_option("-o,--output", a.output, "Writes it as safetensors")
      ->required();
  imported
      ->add_option(
          "--gguf-layers",
          a.numbers,
          "Whose numbers its directions have: repeng, or cvector-generator, "
          "whose direction.N was measured one layer earlier")
      ->capture_default_str();
  for (auto* command : {trained, exported, imported})
    command->add_flag("--force", a.force, "Replace the file if it exists");
  for (auto* command : {swept, imported})
    command->add_flag(
        "--any-model",
        a.any_model,
        "Take a vector of another model, if only its width fits");
  for (auto* command : {trained, swept})
    add_special(*command, a.special);
  const char* example =
      "Example:\n  mlxterp steer train demo --pairs pairs.jsonl -o "
      "v.safetensors"
      "\n  mlxterp steer sweep demo 'This film is' --vector v.safetensors \\\n"
      "    --metric 'logit_diff( good, bad)' --layers 5,10,15\n  mlxterp steer "
      "apply demo 'This film is' --vector v.safetensors \\\n    --layers 15 "
      "--strength 0.1 --max-tokens 12\n  mlxterp steer "
      "export v.safetensors v.gguf";
  for (auto* command : {&app, trained, swept, applied, exported, imported})
    command->footer(example);
  return [arguments, apply, trained, swept, applied, exported] {
    trained->parsed()    ? train(*arguments)
    : swept->parsed()    ? sweep(*arguments)
    : applied->parsed()  ? apply()
    : exported->parsed() ? to_gguf(*arguments)
                         : from_gguf(*arguments);
  };
}

}  // namespace mlxterp::cli
