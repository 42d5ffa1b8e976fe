// mlxterp trace: one pass, its values read and edited, and what it predicts.

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "common.h"
#include "edit_text.h"
#include "metric.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/terminal.h"
#include "verbs.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> save, edits, track, metrics;
  int top = 5;
  std::optional<std::string> output;
  bool force = false;
};

mx::array plain(const mx::array& x) {
  auto out = mx::contiguous(mx::astype(x, mx::float32));
  out.eval();
  return out;
}

struct Statistics {
  double mean = 0, std = 0, norm = 0;
  float least = std::numeric_limits<float>::infinity(), most = -least;
  int64_t not_finite = 0;
};

// Of the finite values; masked scores are -Inf by design.
Statistics statistics(const mx::array& value) {
  const auto x = plain(value);
  const std::span data(x.data<float>(), x.size());
  Statistics s;
  double sum = 0, squares = 0;
  for (const float v : data) {
    if (!std::isfinite(v)) {
      ++s.not_finite;
      continue;
    }
    sum += static_cast<double>(v);
    squares += static_cast<double>(v) * static_cast<double>(v);
    s.least = std::min(s.least, v);
    s.most = std::max(s.most, v);
  }
  const auto n =
      static_cast<double>(static_cast<int64_t>(data.size()) - s.not_finite);
  s.mean = sum / n;
  double spread = 0;
  for (const float v : data)
    if (std::isfinite(v))
      spread += std::pow(static_cast<double>(v) - s.mean, 2);
  s.std = std::sqrt(spread / n);
  s.norm = std::sqrt(squares);
  return s;
}

// What a run says next, at its last position.
struct Prediction {
  TopTokens top;
  std::vector<float> tracked, metrics;
};

struct Wanted {
  int top;
  std::vector<int> track;
  std::vector<Metric> metrics;
};

Prediction predict(
    const InterpretableModel& model,
    const mx::array& logits,
    const Wanted& wanted) {
  const int last = logits.shape(1) - 1, vocab = logits.shape(2);
  const auto row = plain(mx::slice(logits, {0, last, 0}, {1, last + 1, vocab}));
  const std::span data(row.data<float>(), row.size());
  Prediction out{top_tokens(data, wanted.top), {}, {}};
  for (const int id : wanted.track)
    out.tracked.push_back(
        std::exp(data[static_cast<size_t>(id)] - out.top.normalizer));
  for (const auto& metric : wanted.metrics)
    out.metrics.push_back(measure(model, metric, logits));
  return out;
}

std::string shown(float x) {
  return std::isfinite(x) ? fmt::format("{:+.4f}", x) : "NaN";
}

// "name" and its value, before and after where there are edits.
std::string moved(
    const std::string& before, const std::optional<std::string>& after) {
  return after ? fmt::format("{} -> {}", before, *after) : before;
}

class Report {
 public:
  Report(const Arguments& arguments, const InterpretableModel& model)
      : arguments_(arguments), model_(model) {}

  std::vector<int> ids;
  Wanted wanted{5, {}, {}};
  std::vector<ActivationCache::Entry> saved;
  std::optional<Prediction> before, after;  // after: with edits only

  std::string text() const {
    std::string out;
    const auto terminal = view::terminal(STDOUT_FILENO);
    if (!saved.empty()) {
      view::Table table(
          {{"site"},
           {"shape"},
           {"dtype"},
           {"mean", view::Align::right},
           {"std", view::Align::right},
           {"norm", view::Align::right},
           {"min", view::Align::right},
           {"max", view::Align::right}});
      int64_t not_finite = 0;
      for (const auto& [name, value] : saved) {
        const auto s = statistics(value);
        not_finite += s.not_finite;
        const auto cell = [](double x) { return fmt::format("{:.3g}", x); };
        table.add(
            {name,
             fmt::format("[{}]", fmt::join(shape_of(value), ", ")),
             dtype_name(value.dtype()),
             cell(s.mean),
             cell(s.std),
             cell(s.norm),
             cell(static_cast<double>(s.least)),
             cell(static_cast<double>(s.most))});
      }
      out += table.text(terminal);
      if (not_finite)
        out += fmt::format(
            "{} values are not finite (masked scores are -Inf) and left out\n",
            not_finite);
      out += '\n';
    }
    return out + predictions(terminal);
  }

  Json json() const {
    Json out;
    out["model"] = arguments_.model.model;
    out["tokens"] = Json::array();
    const auto names = labels(model_, ids);
    for (size_t i = 0; i < ids.size(); ++i)
      out["tokens"].push_back({{"id", ids[i]}, {"text", names[i]}});
    out["edits"] = arguments_.edits;
    out["saved"] = Json::array();
    for (const auto& [name, value] : saved) {
      const auto s = statistics(value);
      out["saved"].push_back(
          {{"site", name},
           {"shape", shape_of(value)},
           {"dtype", dtype_name(value.dtype())},
           {"mean", number(s.mean)},
           {"std", number(s.std)},
           {"norm", number(s.norm)},
           {"min", number(s.least)},
           {"max", number(s.most)},
           {"not_finite", s.not_finite}});
    }
    out["output"] = arguments_.output ? Json(*arguments_.output) : Json();
    out["next"] = json(*before);
    out["next_edited"] = after ? json(*after) : Json();
    return out;
  }

 private:
  Json json(const Prediction& prediction) const {
    Json out;
    out["finite"] = prediction.top.ids.front() >= 0;
    out["top"] = Json::array();
    for (size_t i = 0; i < prediction.top.ids.size(); ++i)
      if (const int id = prediction.top.ids[i]; id >= 0)
        out["top"].push_back(
            {{"id", id},
             {"text", label(model_, id)},
             {"probability", number(prediction.top.probabilities[i])},
             {"logit", number(prediction.top.logits[i])}});
    out["track"] = Json::array();
    for (size_t i = 0; i < wanted.track.size(); ++i)
      out["track"].push_back(
          {{"id", wanted.track[i]},
           {"text", label(model_, wanted.track[i])},
           {"probability", number(prediction.tracked[i])}});
    out["metrics"] = Json::object();
    for (size_t i = 0; i < wanted.metrics.size(); ++i)
      out["metrics"][wanted.metrics[i].name] = number(prediction.metrics[i]);
    return out;
  }

  std::vector<std::string> cells(const Prediction& p, size_t i) const {
    const int id = p.top.ids[i];
    return {
        id < 0 ? "not finite" : view::visible(label(model_, id)),
        id < 0 ? "" : view::percent(p.top.probabilities[i]),
        id < 0 ? "" : fmt::format("{:.4f}", p.top.logits[i])};
  }

  std::string predictions(const view::Terminal& terminal) const {
    using view::Align;
    std::vector<view::Table::Column> columns = {
        {after ? "next, unedited" : "next token"},
        {"prob", Align::right},
        {"logit", Align::right}};
    if (after) {
      columns.push_back({"next, edited"});
      columns.push_back({"prob", Align::right});
      columns.push_back({"logit", Align::right});
    }
    view::Table table(columns);
    for (size_t i = 0; i < before->top.ids.size(); ++i) {
      auto row = cells(*before, i);
      if (after)
        for (auto& cell : cells(*after, i))
          row.push_back(std::move(cell));
      table.add(std::move(row));
    }
    auto out = table.text(terminal);
    view::Table numbers({{""}, {""}});
    for (size_t i = 0; i < wanted.track.size(); ++i) {
      const auto value = [&](const Prediction& p) {
        return std::isfinite(p.tracked[i])
                   ? fmt::format("{:.2f}%", p.tracked[i] * 100)
                   : std::string("NaN");
      };
      numbers.add(
          {fmt::format("prob({})", label(model_, wanted.track[i])),
           moved(
               value(*before),
               after ? std::optional(value(*after)) : std::nullopt)});
    }
    for (size_t i = 0; i < wanted.metrics.size(); ++i)
      numbers.add(
          {wanted.metrics[i].name,
           moved(
               shown(before->metrics[i]),
               after ? std::optional(shown(after->metrics[i]))
                     : std::nullopt)});
    if (!wanted.track.empty() || !wanted.metrics.empty())
      out += '\n' + numbers.text(terminal);
    return out;
  }

  const Arguments& arguments_;
  const InterpretableModel& model_;
};

// What was saved, without what only the prediction needed.
std::vector<ActivationCache::Entry> chosen(
    const InterpretableModel& model,
    const ActivationCache& run,
    const std::vector<std::string>& patterns) {
  std::set<std::string> names;
  for (const auto& pattern : patterns)
    for (const auto site : model.sites().match(pattern))
      names.insert(model.sites()[site].name);
  std::vector<ActivationCache::Entry> out;
  for (const auto& entry : run)
    if (names.contains(entry.first)) out.push_back(entry);
  return out;
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  if (arguments.output) {
    if (arguments.save.empty()) usage("-o without --save: nothing to write");
    check_output(*arguments.output, arguments.force);
  }
  const auto edits = parse_edits(arguments.edits);
  const auto model = arguments.model.load();
  Report report(arguments, model);
  report.ids = arguments.prompt.tokens(model);
  report.wanted.top = arguments.top;
  for (const auto& token : arguments.track)
    report.wanted.track.push_back(token_id(model, token));
  for (const auto& metric : arguments.metrics)
    report.wanted.metrics.push_back(parse_metric(model, {metric}));

  const auto patterns = split_lists(arguments.save);
  auto wanted = patterns;
  wanted.emplace_back("logits");
  show_progress("Running the model");
  const auto values = model.run(report.ids, {.save = wanted, .edits = edits});
  const auto prediction = predict(model, values["logits"], report.wanted);
  if (edits.empty()) {
    report.before = prediction;
  } else {
    report.after = prediction;
    report.before = predict(
        model,
        model.run(report.ids, {.save = {"logits"}})["logits"],
        report.wanted);
  }
  end_progress();
  report.saved = chosen(model, values, patterns);
  if (arguments.output) {
    // Replaced as JSON replaces it, so that the header stays valid UTF-8.
    const auto text = [](const Json& json) {
      return json.dump(-1, ' ', false, Json::error_handler_t::replace);
    };
    const Uninterrupted writing;
    save_safetensors(
        *arguments.output,
        report.saved,
        {{"mlxterp_version", MLXTERP_VERSION},
         {"model", text(arguments.model.model)},
         {"prompt",
          text(arguments.prompt.text ? Json(*arguments.prompt.text) : Json())},
         {"ids", text(report.ids)},
         {"edits", text(arguments.edits)}},
        arguments.force);
  }
  if (arguments.model.json)
    print_json(report.json());
  else
    print(report.text());
}

}  // namespace

Run add_trace(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("One pass: values read and edited, and what it predicts");
  arguments->model.add_to(app);
  arguments->prompt.add_to(app);
  add_list(
      app, "--save", arguments->save, "Sites to keep: 'layers.*.attn.pattern'");
  add_list(
      app,
      "--edit",
      arguments->edits,
      "SITE=EDIT, as layers.4.mlp_out=scale(0)");
  app.add_option("--top", arguments->top, "Next tokens shown")
      ->capture_default_str();
  add_list(
      app,
      "--track",
      arguments->track,
      "A token whose probability is shown: ' Paris' or id:7042");
  add_list(
      app,
      "--metric",
      arguments->metrics,
      "logit_diff(A,B), logit(A), prob(A) or log_prob(A) of tokens");
  app.add_option(
      "-o,--output", arguments->output, "Write what is kept as safetensors");
  app.add_flag("--force", arguments->force, "Replace the file if it exists");
  app.footer(
      "Edits: zero_out, scale(0.5), clamp(-1,1), noise(0.1,42), "
      "replace_with(0),\nadd_vector(FILE:NAME), compose(EDIT, EDIT), "
      "at_positions(-1, EDIT),\nat_positions([0,3..5], EDIT), on_heads(7, "
      "EDIT), on_neurons(3, EDIT)\n\nExample:\n  mlxterp trace demo 'The "
      "Eiffel Tower is located in the city of' \\\n    --edit "
      "'layers.4.mlp_out=scale(0)' --track ' Paris'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
