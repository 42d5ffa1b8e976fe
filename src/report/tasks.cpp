#include "mlxterp/report/tasks.h"

#include "report/json.h"

namespace mlxterp::report {

std::string prompt_text(
    const InterpretableModel& model, const std::vector<int>& ids) {
  std::string text;
  for (const auto& token : labels(model, ids))
    text += token;
  return text;
}

std::string to_json(
    const InterpretableModel& model,
    const std::string& model_name,
    const Task& task,
    const TaskOptions& options,
    const TaskScores& scores,
    const std::vector<std::string>& edits) {
  Json out;
  out["model"] = model_name;
  out["task"] = task.name;
  out["seed"] = options.seed;
  out["edits"] = edits;
  out["metric"] = {
      {"name", task.metric().name},
      {"clean", number(scores.clean_mean)},
      {"corrupt", number(scores.corrupt_mean)},
      {"accuracy", number(scores.accuracy)}};
  out["pairs"] = Json::array();
  for (size_t i = 0; i < task.pairs.size(); ++i) {
    const auto& pair = task.pairs[i];
    Json entry;
    entry["clean"] = prompt_text(model, pair.clean_ids);
    entry["corrupt"] = prompt_text(model, pair.corrupt_ids);
    entry["clean_ids"] = pair.clean_ids;
    entry["corrupt_ids"] = pair.corrupt_ids;
    entry["answers"] = json_of(named(model, pair.answers));
    entry["foils"] = json_of(named(model, pair.foils));
    entry["metric"] = {
        {"clean", number(scores.clean[i])},
        {"corrupt", number(scores.corrupt[i])}};
    out["pairs"].push_back(std::move(entry));
  }
  return text_of(out);
}

}  // namespace mlxterp::report
