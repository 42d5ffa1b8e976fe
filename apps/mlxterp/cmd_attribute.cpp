// mlxterp attribute: a patching sweep estimated from one gradient.

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>

#include "common.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/view/terminal.h"
#include "pairs.h"
#include "sweep.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Arguments {
  ModelArguments model;
  PairArguments pairs;
  std::vector<std::string> sites = {"resid_pre"};
  int steps = 1;
  bool exact = false;
  SweepOutput output;
};

// One site's estimate, and where asked for what patch() says of it.
struct Result {
  std::string site;
  Sweep sweep;
  std::vector<float> values;
  view::Heatmap map;
  std::optional<Sweep> exact;
  Agreement agreement;
  double exact_seconds = 0;
};

AttributeOptions attribute_options(
    const PatchOptions& pairs, std::vector<std::string> sites, int steps) {
  return {
      .clean = pairs.clean,
      .corrupt = pairs.corrupt,
      .sites = std::move(sites),
      .by = pairs.by,
      .metric = pairs.metric,
      .direction = pairs.direction,
      .steps = steps,
      .layers = pairs.layers,
      .positions = pairs.positions,
      .heads = pairs.heads,
      .neurons = pairs.neurons,
      .aligned = pairs.aligned,
      .progress = pairs.progress};
}

// "layer 3, pos 5"
std::string place(const Sweep& sweep, size_t cell) {
  std::string out;
  for (size_t a = sweep.axes.size(); a-- > 0;) {
    const auto& [axis, values] = sweep.axes[a];
    out = fmt::format(
        "{} {}{}{}",
        name(axis),
        values[cell % values.size()],
        out.empty() ? "" : ", ",
        out);
    cell /= values.size();
  }
  return out;
}

std::string agreement_text(const Result& result) {
  auto out = fmt::format(
      "against the exact sweep of {:.3g} s: Pearson {:.4f}, Spearman {:.4f}; "
      "farthest off:\n",
      result.exact_seconds,
      result.agreement.pearson,
      result.agreement.spearman);
  for (const auto& cell : result.agreement.worst)
    out += fmt::format(
        "  {:<24} exact {:+.4f}, estimated {:+.4f}\n",
        place(result.sweep, cell.cell),
        cell.exact,
        cell.approximate);
  return out;
}

// One grid of all sites whose columns are the first one's.
view::Heatmap together(const std::vector<Result>& results) {
  auto map = results.front().map;
  if (results.size() == 1) return map;
  map.row_axis = "site." + map.row_axis;
  map.rows.clear();
  map.values.clear();
  for (const auto& result : results) {
    if (result.map.columns != map.columns) {
      note(fmt::format(
          "{} has other columns and is not in the page; name it alone",
          view::escape(result.site)));
      continue;
    }
    for (const auto& row : result.map.rows)
      map.rows.push_back(fmt::format("{}.{}", result.site, row));
    map.values.insert(
        map.values.end(), result.values.begin(), result.values.end());
  }
  return map;
}

Json to_json(const Result& result, const PairArguments& pairs) {
  Json out;
  out["site"] = result.site;
  put_sweep(out, result.sweep, result.values);
  out["spread"] = Json::array();
  for (const float value : result.sweep.spread)
    out["spread"].push_back(number(value));
  out["exact"] = nullptr;
  if (!result.exact) return out;
  auto& exact = out["exact"];
  exact["effect"] = Json::array();
  for (const float value : pairs.values(*result.exact))
    exact["effect"].push_back(number(value));
  exact["pearson"] = number(result.agreement.pearson);
  exact["spearman"] = number(result.agreement.spearman);
  exact["worst"] = Json::array();
  for (const auto& cell : result.agreement.worst)
    exact["worst"].push_back(
        {{"cell", cell.cell},
         {"exact", number(cell.exact)},
         {"estimated", number(cell.approximate)}});
  exact["seconds"] = result.exact_seconds;
  return out;
}

void save(const Arguments& arguments, const std::vector<Result>& results) {
  Tensors tensors;
  for (const auto& [site, sweep, values, map, exact, agreement, seconds] :
       results) {
    const auto behind = results.size() == 1 ? "" : "." + site;
    tensors.emplace_back("effect" + behind, grid(sweep, values));
    if (exact)
      tensors.emplace_back(
          "exact" + behind, grid(*exact, arguments.pairs.values(*exact)));
  }
  save_tensors(
      arguments.output,
      tensors,
      {{"model", arguments.model.model},
       {"sites", split_lists(arguments.sites)},
       {"metric", arguments.pairs.metrics},
       {"direction", arguments.pairs.direction},
       {"steps", arguments.steps},
       {"raw", arguments.pairs.raw},
       {"ids", results.front().sweep.ids}});
}

void run(const Arguments& arguments) {
  const auto& pairs = arguments.pairs;
  pairs.check();
  arguments.output.check();
  const auto sites = split_lists(arguments.sites);
  const auto model = arguments.model.load();
  auto options = pairs.options(model);
  const auto begin = Clock::now();
  const auto found =
      attribute(model, attribute_options(options, sites, arguments.steps));
  const double seconds = seconds_since(begin);
  std::vector<Result> results;
  for (const auto& [site, sweep] : found) {
    auto& result = results.emplace_back();
    result.site = site;
    result.sweep = sweep;
    result.values = pairs.values(sweep);
    if (!arguments.exact) continue;
    options.site = site;
    const auto start = Clock::now();
    result.exact = patch(model, options);
    result.exact_seconds = seconds_since(start);
    result.agreement = compare(*result.exact, sweep);
  }
  end_progress();
  const double forward = forward_seconds(model, found.front().sweep.ids);

  for (auto& result : results) {
    auto& map = result.map = heatmap(model, result.sweep, result.values);
    map.kind = "Attribution patching";
    for (const auto& label : labels(model, result.sweep.ids))
      map.heading += label;
    map.percent = !pairs.raw;
    map.about = "Estimated from gradients: " +
                pairs.about(
                    fmt::format(
                        "{}",
                        fmt::join(
                            results.size() == 1 || arguments.model.json
                                ? sites
                                : std::vector{result.site},
                            ", ")),
                    result.sweep);
  }
  save(arguments, results);
  if (arguments.output.page) {
    auto map = together(results);
    map.about =
        "Estimated from gradients: " +
        pairs.about(
            fmt::format("{}", fmt::join(sites, ", ")), results.front().sweep);
    write_page(arguments.output, map);
  }
  if (!arguments.model.json) {
    std::string text;
    for (const auto& result : results) {
      text += view::heatmap_text(result.map, view::terminal(STDOUT_FILENO));
      text += "\n";
      if (result.exact) text += agreement_text(result) + "\n";
    }
    const auto& sweep = results.front().sweep;
    print(
        text +
        fmt::format(
            "{}: clean {:+.4f}, corrupted {:+.4f}{}\n{} in {:.3g} s, "
            "{:.2g} forward passes of {:.3g} s\n",
            view::escape(pairs.metrics.front()),
            sweep.clean,
            sweep.corrupt,
            sweep.pairs > 1 ? fmt::format(" (mean of {} pairs)", sweep.pairs)
                            : "",
            results.size() == 1 ? "One site"
                                : fmt::format("{} sites", results.size()),
            seconds,
            seconds / forward,
            forward));
    return;
  }
  auto out = pairs.json(model, arguments.model.model, results.front().sweep);
  out["steps"] = arguments.steps;
  out["sites"] = Json::array();
  for (const auto& result : results)
    out["sites"].push_back(to_json(result, pairs));
  out["seconds"] = {{"attribute", seconds}, {"forward", forward}};
  print_json(out);
}

}  // namespace

Run add_attribute(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("A patching sweep estimated from one gradient");
  a.model.add_to(app);
  add_list(
      app,
      "--site",
      a.sites,
      "Sites, one gradient for all: resid_pre,resid_mid,resid_post,attn_out,"
      "mlp_out,z,q,k,v,pattern,mlp.post,...")
      ->default_str("resid_pre");
  a.pairs.add_to(app);
  app.add_option(
         "--steps",
         a.steps,
         "Gradients to average on the way to the other run's embeddings "
         "(integrated gradients)")
      ->capture_default_str();
  app.add_flag(
      "--exact", a.exact, "Run the exact sweep too and tell how they agree");
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp attribute demo \\\n    --clean 'When Mary and John "
      "went to the store, John gave a drink to' \\\n    --corrupt 'When Mary "
      "and John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --site resid_pre,z --exact");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
