// mlxterp steer apply: text with a steering vector, beside text without it.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <memory>

#include "arguments.h"
#include "generating.h"
#include "interrupt.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/report/steering.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/range.h"
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
  std::string vector, when = "all";
  std::optional<std::string> operation;
  std::optional<float> strength;
  std::vector<std::string> layers;
  bool any_model = false;
};

// What is asked for, of a file that says what it is meant for.
SteerOptions options_of(const Arguments& a, const SteeringVector& vector) {
  SteerOptions out;
  out.operation =
      a.operation ? spec::parse_steering_operation(*a.operation, "--operation")
                  : vector.operation;
  const bool strong = out.operation == SteeringOperation::add ||
                      out.operation == SteeringOperation::clamp;
  if (strong && !a.strength)
    usage(fmt::format(
        "no --strength; '{}' needs one, such as 0.1, in units of the residual "
        "stream's mean length",
        name(out.operation)));
  if (!strong && a.strength)
    usage(fmt::format(
        "--strength says nothing where a vector is meant for '{}'; leave it "
        "out",
        name(out.operation)));
  out.strength = a.strength.value_or(0);
  out.layers = spec::parse_numbers(a.layers, "--layers");
  out.any_model = a.any_model;
  return out;
}

// A text without the vector and with it, one below the other.
std::string text_of(
    const report::SteerApplyReport& report,
    const std::vector<std::string>& prompts) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  const auto text = [](const GeneratedText& it) {
    return it.text.empty() ? fmt::format("{}", fmt::join(it.ids(), ","))
                           : it.text;
  };
  std::string out;
  for (const auto& line : report.steering.told)
    out += view::paragraph(line, terminal) + "\n";
  for (size_t i = 0; i < report.steered.size(); ++i) {
    view::Table table({{""}, {""}});
    if (i < prompts.size()) table.add({"prompt", prompts[i]});
    table.add({"unsteered", text(report.unsteered[i])});
    table.add({"steered", text(report.steered[i])});
    out += "\n" + table.text(terminal);
  }
  return out;
}

void run(const Arguments& a) {
  a.text.check();
  a.model.check();
  const auto when = spec::parse_when(a.when, "--when");
  const auto vector = SteeringVector::load(a.vector);
  const auto asked = options_of(a, vector);
  const auto model = a.model.load();
  auto steering = steer(model, vector, asked);
  if (when != When::all())
    for (auto& edit : steering.edits)
      edit.apply = during(when, edit.apply);
  auto [chats, rows, options, from_model] = continued(a.text, model);
  Generator plain(model, rows, options);
  options.edits = steering.edits;
  Generator steered(model, rows, options);
  const Uninterrupted kept;  // Ctrl-C: what there is so far is the answer
  // Turn by turn, so that both have come as far.
  for (bool going = true; going && !kept.asked();) {
    going = plain.step();
    going = steered.step() || going;
  }
  report::SteerApplyReport report;
  report.model = a.model.model;
  report.edits = a.model.edits;
  report.vector = a.vector;
  report.operation = asked.operation;
  report.strength = a.strength;
  report.when = spec::text_of(when);
  report.sampling = options.sampling;
  report.from_model = from_model;
  report.steering = std::move(steering);
  report.unsteered = plain.texts();
  report.steered = steered.texts();
  report.unsteered_labels = labels_of(model, report.unsteered);
  report.steered_labels = labels_of(model, report.steered);
  report.seconds = plain.prefill_seconds() + plain.decode_seconds() +
                   steered.prefill_seconds() + steered.decode_seconds();
  print(
      a.model.json ? a.model.answer(report::to_json(report))
                   : text_of(report, a.text.prompts));
}

}  // namespace

Run add_steer_apply(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  a.model.add_run_to(app);
  a.text.add_to(app);
  app.add_option("--vector", a.vector, "What `steer train` wrote")->required();
  app.add_option(
      "--strength",
      a.strength,
      "How far, in units of the residual stream's mean length at the layer: "
      "the length that `add` adds, the coordinate that `clamp` sets");
  app.add_option(
      "--operation",
      a.operation,
      "add, project_out, clamp, or ablate: take the space of all directions "
      "out of every layer. What the vector is meant for, where nothing is "
      "given");
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-1");
  app.add_option(
         "--when",
         a.when,
         "When it acts: prompt, generated, all, step:3, steps:2..5")
      ->capture_default_str();
  app.add_flag(
      "--any-model",
      a.any_model,
      "Take a vector of another model, if only its width fits");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
