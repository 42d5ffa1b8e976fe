// mlxterp attribute: a patching sweep estimated from one gradient.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "mlxterp/analysis/attribute.h"
#include "mlxterp/report/attribution.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/terminal.h"
#include "pairs.h"
#include "progress.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  SweepArguments sweep;
  PairArguments pairs;
  TaskArguments task;
  std::vector<std::string> sites = {"resid_pre"};
  std::string method = "atp", rule = "full";
  int steps = 1;
  bool exact = false;
};

AttributeOptions attribute_options(
    const PatchOptions& pairs,
    std::vector<std::string> sites,
    AttributionMethod method,
    LinearRule rule,
    int steps) {
  return {
      .clean = pairs.clean,
      .corrupt = pairs.corrupt,
      .sites = std::move(sites),
      .by = pairs.by,
      .metric = pairs.metric,
      .direction = pairs.direction,
      .method = method,
      .rule = std::move(rule),
      .steps = steps,
      .layers = pairs.layers,
      .positions = pairs.positions,
      .heads = pairs.heads,
      .neurons = pairs.neurons,
      .position_map = pairs.position_map,
      .progress = pairs.progress};
}

std::string agreement_text(const report::SiteReport& site, bool sizes) {
  auto out = fmt::format(
      "agreement with the {}exact sweep{} ({:.3g} s): Pearson {:.4f}, Spearman "
      "{:.4f}; largest differences:\n",
      sizes ? "sizes of the " : "",
      sizes ? "'s changes" : "",
      site.exact_seconds,
      site.agreement.pearson,
      site.agreement.spearman);
  for (const auto& cell : site.agreement.worst)
    out += fmt::format(
        "  {:<24} exact {:+.4f}, estimated {:+.4f}\n",
        report::place(site.sweep, cell.cell),
        cell.exact,
        cell.approximate);
  return out;
}

std::string text_of(const report::AttributionReport& report) {
  const auto& sweep = report.sites.front().sweep;
  auto text = runs_line(report.metric, sweep);
  for (size_t i = 0; i < report.sites.size(); ++i) {
    text += grid_text(report::heatmap(report, i));
    if (report.sites[i].exact)
      text +=
          agreement_text(report.sites[i], gives_sizes(report.method)) + "\n";
  }
  text += fmt::format(
      "{} in {:.3g} s",
      report.sites.size() == 1 ? "One site"
                               : fmt::format("{} sites", report.sites.size()),
      *report.seconds);
  if (const auto forward = report.forward_seconds)
    text += fmt::format(
        ", {:.2g} forward passes of {:.3g} s",
        *report.seconds / *forward,
        *forward);
  return text + "\n";
}

void write_files(
    const Output& output, const report::AttributionReport& report) {
  Tensors tensors;
  for (const auto& site : report.sites) {
    const auto behind = report.sites.size() == 1 ? "" : "." + site.site;
    tensors.emplace_back(
        "effect" + behind, report::grid(site.sweep, site.values));
    if (site.exact)
      tensors.emplace_back(
          "exact" + behind, report::grid(*site.exact, site.exact_values));
  }
  std::vector<std::string> sites;
  for (const auto& site : report.sites)
    sites.push_back(site.site);
  auto facts = report.facts;
  facts.emplace_back("sites", sites);
  facts.emplace_back("metric", report.metric);
  facts.emplace_back("ids", report.sites.front().sweep.ids);
  output.write(tensors, facts);
  if (!output.page) return;
  const auto [map, left_out] = report::joint_heatmap(report);
  for (const auto& site : left_out)
    note(fmt::format(
        "{} has different columns and is not on the page; run it alone",
        view::escape(site)));
  output.write(map);
}

void run(const Arguments& arguments) {
  const auto& [sweep, pairs, task, site_texts, method_text, rule_text, steps, exact] =
      arguments;
  task.check_alone(!pairs.empty(), pair_options);
  pairs.check(task.given());
  const auto sites = spec::parse_list(site_texts, "--site");
  const auto method = spec::parse_attribution_method(method_text, "--method");
  const auto rule = linear_rule(rule_text);
  sweep.check();
  const auto model = sweep.model.load();
  auto style = sweep.style();
  auto options = pairs.options(model, style.warnings);
  if (task.given()) {
    task.fill(model, options, style.warnings);
    style.task = task.name();
  }
  options.memory = sweep.bytes();
  const auto asked = attribute_options(options, sites, method, rule, steps);
  std::vector<Attribution> found;
  const double seconds = seconds_of([&] { found = attribute(model, asked); });
  auto report =
      report::attribution_report(model, asked, std::move(found), style);
  report.seconds = seconds;
  tell_of_runs(style, report.warnings);
  for (size_t i = 0; exact && i < report.sites.size(); ++i) {
    options.site = report.sites[i].site;
    Sweep whole;
    const double took = seconds_of([&] { whole = patch(model, options); });
    report::add_exact(report, i, std::move(whole), took);
  }
  end_progress();
  if (sweep.compare_cost)
    report.forward_seconds =
        forward_seconds(model, report.sites.front().sweep.ids);
  write_files(sweep.output, report);
  print(
      sweep.model.json ? sweep.model.answer(report::to_json(report))
                       : text_of(report));
}

}  // namespace

Run add_attribute(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Attribution patching: a sweep estimated from one gradient");
  a.sweep.add_model(app);
  add_list(
      app,
      "--site",
      a.sites,
      "Sites, one gradient for all: resid_pre, resid_mid, resid_post, "
      "attn_out, mlp_out, z, q, k, v, pattern, mlp.post, ...")
      ->default_str("resid_pre");
  a.pairs.add_to(app);
  a.task.add_to(app);
  app.add_option(
         "--method",
         a.method,
         "How: atp; qk-fix (q, k: through the whole softmax), grad-drop (mean "
         "size, without one layer after the other) or atp-star (AtP*, both)")
      ->capture_default_str();
  app.add_option(
         "--rule",
         a.rule,
         "What the gradient goes through: full; relevance (RelP: norms' scales "
         "and activations held, gates halved), frozen (patterns and norms' "
         "scales held), 'hold(SITE, ...)', 'relevance+hold(SITE, ...)'")
      ->capture_default_str();
  app.add_option(
         "--steps",
         a.steps,
         "Number of gradients to average along the line between the embeddings "
         "of the two runs (integrated gradients)")
      ->capture_default_str();
  app.add_flag(
      "--exact",
      a.exact,
      "Also run the exact sweep and report how well they agree");
  a.sweep.add_rest(app, "Report the metric itself, not the normalised effect");
  app.footer(
      "Example:\n  mlxterp attribute demo \\\n    --clean 'When Mary and John "
      "went to the store, John gave a drink to' \\\n    --corrupt 'When Mary "
      "and John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --site resid_pre,z --exact\n"
      "  mlxterp attribute demo --task ioi --site q,k --by layer,head \\\n"
      "    --method qk-fix\n"
      "  mlxterp attribute demo --task ioi --site mlp_out --rule relevance "
      "--exact");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
