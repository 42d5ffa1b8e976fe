// mlxterp attention: where the heads look in a prompt.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arguments.h"
#include "mlxterp/analysis/attention.h"
#include "mlxterp/report/attention.h"
#include "mlxterp/spec/head.h"
#include "mlxterp/view/attention.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::optional<int> layer;
  std::optional<std::string> head;
  Output output;
};

// --head, which may bring its layer along.
std::pair<std::optional<int>, std::optional<int>> layer_and_head(
    const Arguments& arguments) {
  if (!arguments.head) return {arguments.layer, std::nullopt};
  const auto chosen = spec::parse_head_choice({*arguments.head}, "--head");
  if (chosen.heads.size() != 1) usage("--head names one head");
  if (!chosen.layers.empty() && arguments.layer)
    usage("--head names its layer already; leave out --layer");
  if (chosen.layers.empty() && !arguments.layer)
    usage("--head needs --layer, or its own: L23H3");
  return {
      chosen.layers.empty() ? *arguments.layer : chosen.layers.front(),
      chosen.heads.front()};
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.model.check();
  const auto [layer, head] = layer_and_head(arguments);
  if (layer && !head && arguments.output.page)
    usage(
        "--html shows all layers or one head: give --head too, or neither of "
        "the two");
  arguments.output.check();
  const auto model = arguments.model.load();
  report::AttentionReport report;
  report.model = arguments.model.model;
  report.edits = arguments.model.edits;
  report.result = attention(
      model,
      arguments.prompt.tokens(model),
      {.layer = layer, .progress = progress()});
  end_progress();
  report.tokens = report::named(model, report.result.ids);
  const auto& found = report.result;
  const int heads = found.entropy.heads;
  if (head) {
    report.head = *head < 0 ? heads + *head : *head;
    if (*report.head < 0 || *report.head >= heads)
      usage(fmt::format(
          "--head {} is none of the heads 0 to {}", *head, heads - 1));
  }
  Tensors tensors;
  for (const auto& [name, grid] :
       {std::pair{"first_token", &found.first_token},
        {"previous_token", &found.previous_token},
        {"current_token", &found.current_token},
        {"entropy", &found.entropy}})
    tensors.emplace_back(
        name,
        mlx::core::array(grid->values.data(), {grid->layers, grid->heads}));
  const auto length = static_cast<int>(found.ids.size());
  if (found.layer >= 0)
    tensors.emplace_back(
        fmt::format("layers.{}.attn.pattern", found.layer),
        mlx::core::array(found.pattern.data(), {heads, length, length}));
  arguments.output.write(
      tensors,
      {{"model", report.model}, {"edits", report.edits}, {"ids", found.ids}});
  arguments.output.write(
      report.head ? report::pattern(report, *report.head)
                  : report::overview(report));
  print(
      arguments.model.json
          ? arguments.model.answer(report::to_json(report))
          : view::attention_text(report, view::terminal(STDOUT_FILENO)));
}

}  // namespace

Run add_attention(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Attention patterns: where the heads look, all of them or one");
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  app.add_option(
      "--layer", a.layer, "The heads of this layer, -1 for the last");
  app.add_option(
      "--head",
      a.head,
      "The pattern of this head, tokens by tokens: 3 with --layer, or L23H3");
  a.output.add_to(app);
  app.footer(
      "Without --layer: for every head the largest of its shares on the first, "
      "the\nprevious and the same token.\n\nExample:\n  mlxterp attention demo "
      "\\\n    'When Mary and John went to the store, John gave a drink to' "
      "\\\n    --head L23H3 --html attention.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
