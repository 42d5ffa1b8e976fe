// mlxterp sae eval: how good an SAE is on a text.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "arguments.h"
#include "mlxterp/report/features.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string text;
  SaeEvalOptions options;
};

std::string shown(double x) {
  return std::isfinite(x) ? fmt::format("{:.4f}", x) : "NaN";
}

std::string density_text(
    const report::SaeEvalReport& report, const view::Terminal& terminal) {
  constexpr double bar = 30;
  const auto& it = report.result;
  int64_t most = 1;
  for (const auto& bin : it.density)
    most = std::max(most, bin.features);
  using enum view::Align;
  view::Table table({{"log10 density"}, {"features", right}, {""}});
  for (const auto& bin : it.density)
    table.add(
        {fmt::format("{:+.1f} to {:+.1f}", bin.from, bin.to),
         std::to_string(bin.features),
         std::string(
             static_cast<size_t>(std::ceil(
                 bar * static_cast<double>(bin.features) /
                 static_cast<double>(most))),
             '#')});
  return table.text(terminal);
}

std::string text_of(const report::SaeEvalReport& report) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  const auto& it = report.result;
  using enum view::Align;
  view::Table table({{""}, {"", right}, {""}});
  const auto row = [&](const char* name, double x, const char* what) {
    table.add({name, shown(x), what});
  };
  row("explained variance", it.explained_variance, "1 is all of it");
  row("FVU", it.fvu, "1 - explained variance");
  row("cosine", it.cosine, "of value and reconstruction");
  row("L2 ratio", it.l2_ratio, "lengths, reconstruction to value");
  row("L0", it.l0, "active features of a position");
  row("L1", it.l1, "sum of their magnitudes");
  row("cross-entropy", it.ce, "of the model, nats per token");
  row("  reconstructed", it.ce_sae, "with the reconstruction in its place");
  row("  zero", it.ce_zero, "with zeros in its place");
  row("  score", it.ce_score, "share recovered of what zeros lose");
  row("KL reconstructed", it.kl_sae, "from the model, nats");
  row("  zero", it.kl_zero, "");
  row("  score", it.kl_score, "1 - reconstructed / zero");
  auto text = table.text(terminal);
  text += fmt::format(
      "\n{} of {} features dead in {} positions ({:.1f}%)\n\n",
      it.dead,
      report.d_sae,
      it.tokens,
      100.0 * static_cast<double>(it.dead) / std::max(1, report.d_sae));
  return text + density_text(report, terminal);
}

void run(const Arguments& arguments) {
  arguments.model.check();
  if (arguments.model.saes.size() != 1)
    usage("sae eval needs one --sae, the one to evaluate");
  auto model = arguments.model;
  const auto saes = model.load_saes();
  auto plain = model.load_plain();
  plain = model.edited(plain);
  auto options = arguments.options;
  options.site = saes[0].site;
  options.progress = progress(/*lines=*/true);
  options.warn = warn;
  report::SaeEvalReport report{
      .model = model.model,
      .sae = model.saes[0],
      .text = arguments.text,
      .edits = model.edits,
      .d_sae = saes[0].sae.d_sae(),
      .result =
          evaluate_sae_on_text(plain, saes[0].sae, arguments.text, options)};
  end_progress();
  print(model.json ? model.answer(report::to_json(report)) : text_of(report));
}

}  // namespace

Run add_sae_eval(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  a.model.add_run_to(app);
  app.add_option(
         "--text",
         a.text,
         "A text file, a JSONL file (a document a line, field \"text\"), or a "
         "folder of .txt and .jsonl files")
      ->required();
  app.add_option("--length", a.options.length, "Tokens of a window")
      ->capture_default_str();
  app.add_option("--tokens", a.options.tokens, "Read so many tokens only");
  app.add_flag(
      "--first",
      a.options.first,
      "Count the first position of each window, too, which in most models is "
      "like no other");
  app.footer(
      "Example:\n  mlxterp sae eval google/gemma-2-2b --text text.txt \\\n"
      "    --sae google/gemma-scope-2b-pt-res/layer_20/width_16k/"
      "average_l0_71");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
