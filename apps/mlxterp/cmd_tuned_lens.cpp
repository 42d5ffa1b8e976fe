// mlxterp tuned-lens: trains a tuned lens, and measures it.

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/report/tuned_lens.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string text, eval_text, output, lens;
  TunedLensOptions options;
  int length = 512;
  bool force = false;
};

// The suffixes that a tuned lens is saved under.
constexpr const char* suffixes[] = {".npz", ".json"};

std::filesystem::path file_of(const std::string& name, const char* suffix) {
  return std::filesystem::path(name).replace_extension(suffix);
}

std::vector<int> tokens(
    const InterpretableModel& model, const std::string& path) {
  return model.tokenizer().encode(read_text(path));
}

std::string table(const LensEvaluation& scores) {
  using view::Align;
  view::Table table(
      {{"layer", Align::right},
       {"KL logit", Align::right},
       {"tuned", Align::right},
       {"cross-entropy logit", Align::right},
       {"tuned", Align::right},
       {"same top token logit", Align::right},
       {"tuned", Align::right}});
  for (size_t i = scores.logit.size(); i-- > 0;) {
    const auto& a = scores.logit[i];
    const auto& b = scores.tuned[i];
    table.add(
        {fmt::format("{}", i),
         fmt::format("{:.3f}", a.kl),
         fmt::format("{:.3f}", b.kl),
         fmt::format("{:.3f}", a.cross_entropy),
         fmt::format("{:.3f}", b.cross_entropy),
         view::percent(a.agreement),
         view::percent(b.agreement)});
  }
  return table.text(view::terminal(STDOUT_FILENO)) +
         fmt::format(
             "\nIn nats, over {} positions; the model's own cross-entropy is "
             "{:.3f}\n",
             scores.positions,
             scores.cross_entropy);
}

LensEvaluation evaluate(
    const InterpretableModel& model,
    const TunedLens& lens,
    const std::string& path,
    int length) {
  auto scores =
      evaluate_lens(model, tokens(model, path), &lens, length, progress());
  end_progress();
  return scores;
}

std::string text_of(const report::TrainingReport& report) {
  if (report.losses.empty()) return "";
  auto text = fmt::format(
      "{} steps of {} tokens: mean KL over layers, in nats, {:.3f} at the "
      "first,\n{:.3f} at the last\n",
      report.losses.size(),
      report.length,
      report.losses.front(),
      report.losses.back());
  if (report.evaluation) text += "\n" + table(*report.evaluation);
  return text;
}

void train(const Arguments& arguments) {
  arguments.model.check();
  if (arguments.options.minutes < 0)
    usage("--minutes is below 0; give how long to train");
  for (const auto* suffix : suffixes)
    check_output(file_of(arguments.output, suffix), arguments.force);
  const auto model = arguments.model.load();
  const auto ids = tokens(model, arguments.text);
  auto options = arguments.options;
  report::TrainingReport report{
      .model = arguments.model.model,
      .output = arguments.output,
      .length = options.length,
      .edits = arguments.model.edits};
  const auto answer = [&] {
    print(
        arguments.model.json ? arguments.model.answer(report::to_json(report))
                             : text_of(report));
  };
  options.on_step = [&](int, float loss) { report.losses.push_back(loss); };
  options.progress = progress(/*lines=*/true);
  std::optional<TunedLens> lens;
  {
    const Uninterrupted training(
        "\nmlxterp: stops after this step and keeps what it has; Ctrl-C again "
        "ends at once\n");
    options.stop = [&] { return training.asked(); };
    lens = train_tuned_lens(model, ids, options);
    end_progress();
    lens->save(arguments.output, arguments.force);
    const auto steps = fmt::format(
        "{} step{}",
        report.losses.size(),
        report.losses.size() == 1 ? "" : "s");
    note(fmt::format(
        "{}wrote {} and {}",
        training.asked() ? fmt::format("stopped after {}; ", steps) : "",
        view::escape(file_of(arguments.output, suffixes[0]).string()),
        view::escape(file_of(arguments.output, suffixes[1]).string())));
    if (training.asked()) answer();
  }
  if (!arguments.eval_text.empty())
    report.evaluation =
        evaluate(model, *lens, arguments.eval_text, arguments.length);
  answer();
}

void eval(const Arguments& arguments) {
  const auto lens = TunedLens::load(arguments.lens, warn);
  const auto model = arguments.model.load();
  const auto scores = evaluate(model, lens, arguments.text, arguments.length);
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(
                                 scores,
                                 arguments.model.model,
                                 arguments.lens,
                                 arguments.model.edits))
                           : table(scores));
}

}  // namespace

Run add_tuned_lens(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Tuned lens: train a translator for each layer, and measure the lens");
  app.require_subcommand(1);
  auto* trained = app.add_subcommand("train", "Train a lens on a text");
  auto* measured = app.add_subcommand("eval", "Measure a lens on another text");
  for (auto* command : {trained, measured}) {
    a.model.add_run_to(*command);
    command->add_option("--text", a.text, "A text file, or - for stdin")
        ->required();
    command
        ->add_option(
            "--eval-length", a.length, "Tokens per prompt when measuring")
        ->capture_default_str();
  }
  trained->add_option("-o,--output", a.output, "Writes NAME.npz and NAME.json")
      ->required();
  trained->add_flag("--force", a.force, "Replace the files if they exist");
  auto* steps =
      trained->add_option("--steps", a.options.steps, "Training steps")
          ->capture_default_str();
  trained
      ->add_option(
          "--minutes",
          a.options.minutes,
          "Instead of a number of steps: how long to train")
      ->excludes(steps);
  trained->add_option("--length", a.options.length, "Tokens per step")
      ->capture_default_str();
  trained
      ->add_option(
          "--rate",
          a.options.learning_rate,
          "Learning rate; it decays linearly to 0")
      ->capture_default_str();
  trained->add_option("--momentum", a.options.momentum, "Nesterov momentum")
      ->capture_default_str();
  trained
      ->add_option(
          "--clip", a.options.clip, "Clip the global gradient norm to this")
      ->capture_default_str();
  trained->add_option(
      "--eval", a.eval_text, "Measure the trained lens on this text file");
  measured
      ->add_option("--lens", a.lens, "The lens to measure: NAME of NAME.npz")
      ->required();
  const char* example =
      "Ctrl-C ends a training after the step it is in and keeps what it has.\n"
      "\nExample:\n  mlxterp tuned-lens train demo --text train.txt --length "
      "256 "
      "\\\n    --minutes 10 -o lens --eval other.txt\n  mlxterp lens demo 'The "
      "Eiffel Tower is "
      "located in the city of' --tuned lens";
  for (auto* command : {&app, trained, measured})
    command->footer(example);
  return [arguments, trained] {
    trained->parsed() ? train(*arguments) : eval(*arguments);
  };
}

}  // namespace mlxterp::cli
