// mlxterp lens: what the model would say after each of its layers.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <unordered_map>

#include "common.h"
#include "edit_text.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/view/lens.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> layers, positions, edits;
  bool embed = false;
  int top = 5;
  std::string site = "resid_post";
  std::optional<std::string> track, tuned;
  std::optional<std::string> page;
  bool force = false;
};

Json to_json(
    const Arguments& arguments,
    const Lens& lens,
    const view::LensNames& names) {
  const auto k = static_cast<size_t>(lens.top_k);
  const auto token = [&](int id) {
    return Json{{"id", id}, {"text", names.token(id)}};
  };
  Json out;
  out["model"] = names.model;
  out["tokens"] = Json::array();
  for (size_t i = 0; i < lens.ids.size(); ++i)
    out["tokens"].push_back({{"id", lens.ids[i]}, {"text", names.prompt[i]}});
  out["edits"] = arguments.edits;
  out["read"] = arguments.site;
  out["tuned"] = arguments.tuned ? Json(*arguments.tuned) : Json();
  out["positions"] = lens.positions;
  out["track"] = nullptr;
  if (lens.track) {
    out["track"] = token(*lens.track);
    const auto row = lens.on_top_from(lens.columns() - 1);
    out["track"]["on_top_from"] = row ? Json(lens.sites[*row]) : Json();
  }
  out["rows"] = Json::array();
  for (size_t r = 0; r < lens.rows(); ++r) {
    Json row;
    row["site"] = lens.sites[r];
    row["layer"] = lens.layers[r] ? Json(*lens.layers[r]) : Json();
    row["cells"] = Json::array();
    for (size_t c = 0; c < lens.columns(); ++c) {
      const auto at = lens.cell(r, c);
      Json cell;
      cell["finite"] = lens.winner(r, c) >= 0;
      cell["top"] = Json::array();
      for (size_t i = at * k; i < (at + 1) * k && lens.top_ids[i] >= 0; ++i) {
        auto entry = token(lens.top_ids[i]);
        entry["probability"] = number(lens.top_probabilities[i]);
        entry["logit"] = number(lens.top_logits[i]);
        cell["top"].push_back(std::move(entry));
      }
      if (lens.track)
        cell["track"] = {
            {"probability", number(lens.track_probabilities[at])},
            {"logit", number(lens.track_logits[at])},
            {"rank",
             lens.track_ranks[at] < 0 ? Json() : Json(lens.track_ranks[at])}};
      row["cells"].push_back(std::move(cell));
    }
    out["rows"].push_back(std::move(row));
  }
  return out;
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  if (arguments.page) check_output(*arguments.page, arguments.force);
  LensOptions options;
  options.layers = whole_numbers(arguments.layers, "--layers");
  options.positions = whole_numbers(arguments.positions, "--positions");
  options.embed = arguments.embed;
  options.top_k = arguments.top;
  options.edits = parse_edits(arguments.edits);
  options.site = arguments.site;
  std::optional<TunedLens> tuned;
  if (arguments.tuned)
    options.tuned = &tuned.emplace(TunedLens::load(*arguments.tuned));
  const auto model = arguments.model.load();
  if (arguments.track) options.track = token_id(model, *arguments.track);
  options.progress = progress();
  const auto lens = logit_lens(model, arguments.prompt.tokens(model), options);
  end_progress();

  const view::LensNames names{
      arguments.model.model,
      labels(model, lens.ids),
      [&](int id) { return label(model, id); },
      arguments.edits};
  if (arguments.page) {
    const auto page = view::lens_page(lens, names);
    const Uninterrupted writing;
    write_file_atomically(*arguments.page, page, arguments.force);
  }
  if (arguments.model.json)
    print_json(to_json(arguments, lens, names));
  else
    print(view::lens_text(lens, names, view::terminal(STDOUT_FILENO)));
}

}  // namespace

Run add_lens(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("What the model would say after each of its layers");
  arguments->model.add_to(app);
  arguments->prompt.add_to(app);
  add_list(app, "--layers", arguments->layers, "Layers: 0,5,10..20,-1");
  add_list(app, "--positions", arguments->positions, "Positions: 0,3..7,-1");
  app.add_flag("--embed", arguments->embed, "Also what enters layer 0");
  app.add_option(
         "--site",
         arguments->site,
         "What is read: resid_pre, resid_mid, resid_post, attn_out, mlp_out")
      ->capture_default_str();
  app.add_option(
      "--tuned",
      arguments->tuned,
      "Through a tuned lens: NAME of NAME.npz (mlxterp tuned-lens)");
  app.add_option("--top", arguments->top, "Tokens kept in each cell")
      ->capture_default_str();
  app.add_option(
      "--track", arguments->track, "A token to follow: ' Paris' or id:7042");
  add_list(
      app,
      "--edit",
      arguments->edits,
      "Edit the run: 'layers.4.mlp_out=scale(0)'");
  app.add_option("--html", arguments->page, "Also write a page to look at");
  app.add_flag("--force", arguments->force, "Replace the page if it exists");
  app.footer(
      "Example:\n  mlxterp lens demo 'The Eiffel Tower is located in the city "
      "of' --track ' Paris' --html lens.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
