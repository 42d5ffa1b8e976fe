// mlxterp causal-trace: where a model recalls a fact.

#include <algorithm>
#include <memory>
#include <tuple>

#include "mlxterp/analysis/causal_trace.h"
#include "progress.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  PromptArguments prompt;
  TaskArguments task;
  ChoiceArguments choice;
  std::string subject, site = "resid_post";
  std::optional<std::string> metric;
  std::optional<int> window;
  int samples = 10;
  float noise = 3;
  uint64_t seed = 0;
};

// As in the paper.
int usual_window(const std::string& site) {
  return site.starts_with("resid") ? 1 : 10;
}

// What the two prompts of a pair differ in, from the first to the last token.
std::string subject_of(
    const InterpretableModel& model, const Task::Pair& pair) {
  const auto& [a, b] = std::tie(pair.clean_ids, pair.corrupt_ids);
  const auto first = std::ranges::mismatch(a, b).in1 - a.begin();
  auto last = static_cast<std::ptrdiff_t>(a.size());
  while (last > first &&
         a[static_cast<size_t>(last - 1)] == b[static_cast<size_t>(last - 1)])
    --last;
  const std::vector<int> ids(a.begin() + first, a.begin() + last);
  auto text = model.tokenizer().decode(ids);
  while (text.starts_with(' '))
    text.erase(0, 1);
  return text;
}

void run(const Arguments& arguments) {
  const auto& a = arguments;
  a.task.check_alone(
      a.prompt.given() || a.metric || !a.subject.empty(),
      "PROMPT, --ids, --subject and --metric");
  if (a.task.given() && a.task.options.pairs != 1)
    usage("causal-trace traces one prompt: --n 1; --seed draws another");
  if (!a.task.given()) {
    a.prompt.check();
    if (a.subject.empty())
      usage("no --subject; give it, exactly as written in the prompt");
  }
  const auto choice = a.choice.parse();
  // Member by member: GCC 12 crashes where one of a braced list throws.
  CausalTraceOptions options{
      .prompt = std::vector<int>(), .subject = a.subject};
  options.site = a.site;
  options.window = a.window.value_or(usual_window(a.site));
  options.noise = a.noise;
  options.samples = a.samples;
  options.seed = a.seed;
  options.layers = choice.layers;
  options.positions = choice.positions;
  options.memory = a.sweep.bytes();
  options.progress = progress();
  a.sweep.check();
  const auto model = a.sweep.model.load();
  auto style = a.sweep.style();
  style.task = a.task.name();
  if (a.task.given()) {
    auto draw = a.task;
    draw.options.seed = a.seed;
    const auto task = draw.make(model, style.warnings);
    if (task.pairs.size() > 1)
      usage("causal-trace traces one prompt, and the task has more");
    options.prompt = task.clean();
    options.metric = task.metric();
    options.subject = subject_of(model, task.pairs.front());
  } else {
    options.prompt = a.prompt.tokens(model);
  }
  if (a.metric)
    options.metric = spec::parse_metric(
        model,
        {*a.metric},
        metric_options(style.warnings, {a.prompt.tokens(model)}));
  run_sweep(a.sweep, model, style, [&] {
    return report::sweep_report(
        model, options, causal_trace(model, options), style);
  });
}

}  // namespace

Run add_causal_trace(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Causal tracing: where the model recalls a fact");
  a.sweep.add_model(app);
  a.prompt.add_to(app);
  a.task.options.pairs = 1;
  a.task.add_to(app, /*seed=*/false);
  app.add_option(
      "--subject",
      a.subject,
      "The subject, exactly as written in the prompt (of --task: what the pair "
      "differs in)");
  app.add_option(
      "--metric",
      a.metric,
      "What is measured (default: the probability of the token that the clean "
      "run predicts)");
  app.add_option(
         "--site", a.site, "Site to restore: resid_post, attn_out, mlp_out")
      ->capture_default_str();
  app.add_option(
      "--window",
      a.window,
      "Layers restored together (default: 1 for the residual stream, else 10)");
  app.add_option(
         "--noise",
         a.noise,
         "Size of the noise, in standard deviations of the embedding")
      ->capture_default_str();
  app.add_option("--samples", a.samples, "Noise samples to average over")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "Random seed of the noise and of the task")
      ->capture_default_str();
  a.choice.add_layers(app);
  a.choice.add_positions(app);
  a.sweep.add_rest(app, "Report the metric itself, not the normalised effect");
  app.footer(
      "Example:\n  mlxterp causal-trace demo 'The Eiffel Tower is located in "
      "the city of' \\\n    --subject 'The Eiffel Tower' --html trace.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
