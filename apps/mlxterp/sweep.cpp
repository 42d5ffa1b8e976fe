#include "sweep.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/terminal.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

std::vector<Axis> parse_axes(const std::vector<std::string>& texts) {
  std::vector<Axis> axes;
  for (const auto& text : split_lists(texts)) {
    if (text == "layer")
      axes.push_back(Axis::layer);
    else if (text == "pos" || text == "position")
      axes.push_back(Axis::position);
    else if (text == "head")
      axes.push_back(Axis::head);
    else if (text == "neuron")
      axes.push_back(Axis::neuron);
    else
      usage(fmt::format(
          "--by '{}' is none of layer, pos, head, neuron", view::escape(text)));
  }
  return axes;
}

void SweepOutput::add_to(CLI::App& app) {
  app.add_option("-o,--output", file, "Write the grid as safetensors");
  app.add_option("--html", page, "Also write a page to look at");
  app.add_flag("--force", force, "Replace the files if they exist");
}

void SweepOutput::check() const {
  if (file) check_output(*file, force);
  if (page) check_output(*page, force);
}

view::Heatmap heatmap(
    const InterpretableModel& model,
    const Sweep& sweep,
    const std::vector<float>& values) {
  const auto tokens = labels(model, sweep.ids);
  const auto label_of = [&](const Sweep::Range& range, size_t i) {
    const int value = range.values[i];
    return range.axis == Axis::position
               ? fmt::format("{} {}", value, tokens[static_cast<size_t>(value)])
               : fmt::format("{}", value);
  };
  view::Heatmap map;
  map.values = values;
  map.rows = {""};
  for (size_t a = 0; a < sweep.axes.size(); ++a) {
    const auto& range = sweep.axes[a];
    const bool across = a > 0 && a + 1 == sweep.axes.size();
    auto& axis = across ? map.column_axis : map.row_axis;
    axis += (axis.empty() ? "" : ".") + std::string(name(range.axis));
    if (across) {
      for (const int value : range.values) {
        map.columns.push_back(fmt::format("{}", value));
        if (range.axis == Axis::position)
          map.notes.push_back(tokens[static_cast<size_t>(value)]);
      }
      continue;
    }
    std::vector<std::string> rows;
    for (const auto& row : map.rows)
      for (size_t i = 0; i < range.values.size(); ++i)
        rows.push_back(
            row.empty() ? label_of(range, i)
                        : fmt::format("{}.{}", row, label_of(range, i)));
    map.rows = std::move(rows);
  }
  if (map.columns.empty()) map.columns = {"effect"};
  return map;
}

void put_sweep(
    Json& out, const Sweep& sweep, const std::vector<float>& values) {
  out["axes"] = Json::array();
  for (const auto& range : sweep.axes)
    out["axes"].push_back(
        {{"name", name(range.axis)}, {"values", range.values}});
  out["shape"] = sweep.shape();
  out["effect"] = Json::array();
  for (const float value : values)
    out["effect"].push_back(number(value));
  out["cells"] = sweep.cells();
  out["computed"] = sweep.computed;
  out["rows"] = sweep.rows;
}

mx::array grid(const Sweep& sweep, const std::vector<float>& values) {
  const auto shape = sweep.shape();
  return mx::array(values.data(), mx::Shape(shape.begin(), shape.end()));
}

void save_tensors(
    const SweepOutput& output,
    const Tensors& tensors,
    const std::map<std::string, Json>& metadata) {
  if (!output.file) return;
  std::vector<std::pair<std::string, std::string>> texts = {
      {"mlxterp_version", MLXTERP_VERSION}};
  for (const auto& [key, value] : metadata)
    // Replaced as JSON replaces it, so that the header stays valid UTF-8.
    texts.emplace_back(
        key, value.dump(-1, ' ', false, Json::error_handler_t::replace));
  const Uninterrupted writing;
  save_safetensors(
      *output.file, tensors, {texts.begin(), texts.end()}, output.force);
}

void save_sweep(
    const SweepOutput& output,
    const Sweep& sweep,
    const std::vector<float>& values,
    const std::map<std::string, Json>& metadata) {
  save_tensors(output, {{"effect", grid(sweep, values)}}, metadata);
}

void write_page(const SweepOutput& output, const view::Heatmap& map) {
  if (!output.page) return;
  const auto page = view::heatmap_page(map);
  const Uninterrupted writing;
  write_file_atomically(*output.page, page, output.force);
}

void report_sweep(
    const ModelArguments& arguments,
    const InterpretableModel& model,
    const SweepOutput& output,
    const Sweep& sweep,
    const std::vector<float>& values,
    SweepReport report) {
  const double forward = forward_seconds(model, sweep.ids);
  auto metadata = report.facts;
  metadata["ids"] = sweep.ids;
  metadata["metric"] = report.metric;
  save_sweep(output, sweep, values, metadata);
  write_page(output, report.map);
  const auto cells = static_cast<double>(sweep.cells() * sweep.pairs);
  if (!arguments.json) {
    print(fmt::format(
        "{}\n{:.0f} cells in {:.3g} s; one forward pass takes {:.3g} s, so "
        "that is {:.2g}% of a pass a cell\n",
        view::heatmap_text(report.map, view::terminal(STDOUT_FILENO)),
        cells,
        report.seconds,
        forward,
        100 * report.seconds / forward / cells));
    return;
  }
  Json out;
  for (const auto& [key, value] : report.facts)
    out[key] = value;
  out["tokens"] = Json::array();
  const auto names = labels(model, sweep.ids);
  for (size_t i = 0; i < names.size(); ++i)
    out["tokens"].push_back({{"id", sweep.ids[i]}, {"text", names[i]}});
  out["metric"] = {
      {"name", report.metric},
      {"clean", number(sweep.clean)},
      {"corrupt", number(sweep.corrupt)}};
  out["pairs"] = sweep.pairs;
  put_sweep(out, sweep, values);
  out["spread"] = Json::array();
  for (const float value : sweep.spread)
    out["spread"].push_back(number(value));
  out["seconds"] = {{"sweep", report.seconds}, {"forward", forward}};
  print_json(out);
}

double seconds_of(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  if (!file)
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot read {}", view::escape(path)));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  if (lines.empty())
    usage(fmt::format(
        "{} holds no prompt: one on each line", view::escape(path)));
  return lines;
}

double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> all;
  for (int i = 0; i < 5; ++i) {
    const auto begin = Clock::now();
    auto logits = model(ids);
    logits.eval();
    all.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::ranges::nth_element(all, all.begin() + 2);
  return all[2];
}

}  // namespace mlxterp::cli
