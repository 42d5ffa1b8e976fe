#include "mlxterp/spec/task.h"

#include <algorithm>
#include <limits>

#include "io/json.h"
#include "spec/text.h"

namespace mlxterp::spec {

namespace {

using Json = nlohmann::json;

class Reader {
 public:
  Reader(const InterpretableModel& model, const MetricOptions& options)
      : model_(model), options_(options) {}

  Task read(const Json& root) {
    if (!root.is_object() || !root.contains("pairs") ||
        !root["pairs"].is_array() || root["pairs"].empty())
      wrong("has no list of pairs; write {{\"pairs\": [...]}}");
    if (root["pairs"].size() > limits::prompts)
      wrong("has more than {} pairs", limits::prompts);
    Task out;
    out.name = "task";
    if (const auto name = root.find("task");
        name != root.end() && name->is_string())
      out.name = name->get<std::string>();
    for (const auto& pair : root["pairs"]) {
      out.pairs.push_back(pair_of(pair));
      ++at_;
    }
    for (const auto& sentence : sentences_)
      if (options_.warn) options_.warn(sentence);
    return out;
  }

 private:
  template <typename... T>
  [[noreturn]] void wrong(
      fmt::format_string<T...> format, T&&... values) const {
    fail(
        ErrorKind::bad_data,
        "{} {}",
        options_.name,
        fmt::format(format, std::forward<T>(values)...));
  }

  int number(const Json& value, const char* what) const {
    const bool whole = value.is_number_integer();
    const auto id = whole ? value.get<int64_t>() : -1;
    if (!whole || id < 0 || id > std::numeric_limits<int>::max())
      wrong("pair {}: '{}' holds what is not a token id", at_, what);
    return static_cast<int>(id);
  }

  // Ids where there are any, which mean what they say; else the text's.
  std::vector<int> prompt(const Json& pair, const char* name) const {
    const auto ids = pair.find(fmt::format("{}_ids", name));
    std::vector<int> out;
    if (ids != pair.end()) {
      if (!ids->is_array() || ids->empty())
        wrong("pair {}: '{}_ids' is not a list of token ids", at_, name);
      for (const auto& id : *ids)
        out.push_back(Token(number(id, name)).id(model_));
      return out;
    }
    const auto text = pair.find(name);
    if (text == pair.end() || !text->is_string())
      wrong("pair {} has no '{}', the text of a prompt", at_, name);
    return model_.tokenizer().encode(text->get<std::string>());
  }

  std::vector<int> tokens(
      const Json& pair, const char* name, std::vector<std::string>& texts) {
    const auto all = pair.find(name);
    if (all == pair.end() || !all->is_array() || all->empty())
      wrong("pair {} has no '{}', a list of tokens", at_, name);
    std::vector<int> out;
    for (const auto& one : *all) {
      if (one.is_string()) {
        texts.push_back(one.get<std::string>());
        const auto shown = fmt::format("{} pair {}:", options_.name, at_);
        out.push_back(parse_token(model_, texts.back(), {.name = shown}));
        continue;
      }
      const bool named = one.is_object() && one.contains("id");
      const int id = number(named ? one["id"] : one, name);
      out.push_back(Token(id).id(model_));
    }
    return out;
  }

  Task::Pair pair_of(const Json& json) {
    if (!json.is_object()) wrong("pair {} is not an object", at_);
    Task::Pair out;
    const auto text = [&](const char* name) {
      const auto found = json.find(name);
      return found != json.end() && found->is_string()
                 ? found->get<std::string>()
                 : std::string();
    };
    out.clean = text("clean");
    out.corrupt = text("corrupt");
    out.clean_ids = prompt(json, "clean");
    out.corrupt_ids = prompt(json, "corrupt");
    if (out.clean_ids.size() != out.corrupt_ids.size())
      wrong(
          "pair {}: the clean prompt has {} tokens, the corrupted one {}; make "
          "them equally long",
          at_,
          out.clean_ids.size(),
          out.corrupt_ids.size());
    std::vector<std::string> texts;
    out.answers = tokens(json, "answers", texts);
    out.foils = tokens(json, "foils", texts);
    for (auto& sentence : answer_warnings(model_, texts, {out.clean_ids}))
      if (std::ranges::count(sentences_, sentence) == 0)
        sentences_.push_back(std::move(sentence));
    return out;
  }

  const InterpretableModel& model_;
  const MetricOptions& options_;
  size_t at_ = 0;
  std::vector<std::string> sentences_;
};

}  // namespace

Task parse_task(
    const InterpretableModel& model,
    std::string_view json,
    const MetricOptions& options) {
  return Reader(model, options)
      .read(parse_json(json, "parse_task", options.name));
}

}  // namespace mlxterp::spec
