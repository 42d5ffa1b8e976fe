#include "jlens_space.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "arguments.h"
#include "mlxterp/analysis/jacobian_space.h"
#include "mlxterp/report/jacobian_space.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> layers, positions;
  std::string jacobian, method = "pursuit";
  SpaceOptions options;
  bool any_model = false;
};

constexpr size_t shown = 5;  // tokens of a cell

std::string percent(float share) {
  return std::isfinite(share) ? fmt::format("{:.1f}%", 100 * share) : "-";
}

// The largest coefficients first.
std::string largest(const report::SpaceCell& cell) {
  std::vector<size_t> order(cell.tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    return cell.coefficients[a] > cell.coefficients[b];
  });
  std::string out;
  for (size_t i = 0; i < std::min(shown, order.size()); ++i) {
    if (cell.coefficients[order[i]] <= 0) break;
    out += fmt::format(
        "{}{} {:.3g}",
        i > 0 ? ", " : "",
        view::visible(cell.tokens[order[i]].text),
        cell.coefficients[order[i]]);
  }
  return out.empty() ? "-" : out;
}

std::string text_of(const report::JacobianSpaceReport& report) {
  using enum view::Align;
  const bool compared = !report.controls.empty();
  std::vector<view::Table::Column> columns = {
      {"layer", right}, {"position"}, {"explained", right}};
  if (compared)
    columns.insert(columns.end(), {{"random", right}, {"occupied", right}});
  columns.push_back({"largest"});
  view::Table table(columns);
  for (size_t l = report.layers.size(); l-- > 0;)
    for (size_t t = 0; t < report.positions.size(); ++t) {
      const auto& cell = report.cells[l][t];
      const int at = report.positions[t];
      std::vector<std::string> row = {
          fmt::format("{}", report.layers[l]),
          fmt::format(
              "{} {}",
              at,
              view::visible(report.prompt[static_cast<size_t>(at)].text)),
          percent(cell.explained.back())};
      if (compared) {
        row.push_back(percent(report.controls[l].back()));
        row.push_back(fmt::format("{}", *cell.occupancy));
      }
      row.push_back(largest(cell));
      table.add(std::move(row));
    }
  return table.text(view::terminal(STDOUT_FILENO));
}

void run(const Arguments& a) {
  a.model.check();
  a.prompt.check();
  auto options = a.options;
  options.layers = spec::parse_numbers(a.layers, "--layers");
  options.positions = spec::parse_numbers(a.positions, "--positions");
  options.sparse.method = sparse_method(a.method);
  options.progress = progress();
  const auto lens = JacobianLens::load(a.jacobian);
  const auto model = a.model.load();
  lens.check_fits(model, a.any_model);
  const auto space =
      jacobian_space(model, lens, a.prompt.tokens(model), options);
  end_progress();
  auto report = report::jacobian_space_report(model, space, options.sparse);
  report.model = a.model.model;
  report.edits = a.model.edits;
  report.jacobian = a.jacobian;
  print(
      a.model.json ? a.model.answer(report::to_json(report)) : text_of(report));
}

}  // namespace

std::function<void()> add_jlens_space(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  app.add_option(
         "--jacobian", a.jacobian, "A lens: a file of jlens fit, or a .pt")
      ->required();
  add_list(app, "--layers", a.layers, "Only these layers: 0,5,10..20,-2");
  add_list(app, "--positions", a.positions, "Positions: 0,3..7,-1");
  app.add_option("--k", a.options.sparse.k, "Tokens of a cell, at most")
      ->capture_default_str();
  app.add_option(
         "--method",
         a.method,
         "pursuit: a step along the gradient with each token; nnls: the best "
         "coefficients")
      ->capture_default_str();
  app.add_option(
         "--controls",
         a.options.controls,
         "Random directions to compare with; 0: none")
      ->capture_default_str();
  app.add_option("--seed", a.options.seed, "Of the controls")
      ->capture_default_str();
  app.add_flag("--any-model", a.any_model, "Do not check whose lens it is");
  app.footer(
      "Of each cell: the share of the activation's squared length that k "
      "tokens\nexplain, the same of random directions, with how many tokens it "
      "is furthest\nahead of those, and the largest coefficients. --json has "
      "all.\n\nExample:\n  mlxterp jlens space demo 'The Eiffel Tower is "
      "located in the city of' \\\n    --jacobian lens.safetensors --layers "
      "10,20 --positions -1");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
