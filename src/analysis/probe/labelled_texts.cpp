#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/analysis/probe.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

constexpr const char* function = "read_labelled_texts";

// A label or a group, as a word: "2" of 2 and of "2" alike.
std::string word_of(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

bool is_word(const nlohmann::json& value) {
  return value.is_string() || value.is_number_integer() || value.is_boolean();
}

}  // namespace

LabelledTexts read_labelled_texts(
    const std::filesystem::path& path, ProbeKind kind) {
  const auto text =
      InputFile::open(path, function)->all(limits::text_file_bytes, function);
  LabelledTexts out;
  std::vector<std::string> words, groups;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    const auto line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const auto where = fmt::format("line {} of {}", number, quoted(path));
    const auto bad = [&](const char* what) {
      fail(
          ErrorKind::bad_data,
          "[{}] {} {}; each line is {{\"text\": ..., \"label\": ...}}, with "
          "\"group\" or without",
          function,
          where,
          what);
    };
    const auto json = parse_json(line, function, where);
    const auto field = [&](const char* name) -> nlohmann::json {
      return json.is_object() ? json.value(name, nlohmann::json())
                              : nlohmann::json();
    };
    const auto said = field("text"), label = field("label"),
               group = field("group");
    if (!said.is_string() || said.get_ref<const std::string&>().empty())
      bad("has no \"text\"");
    if (out.texts.size() == limits::prompts) bad("is one more than are read");
    out.texts.push_back(said.get<std::string>());
    if (kind == ProbeKind::ridge) {
      if (!label.is_number() || !std::isfinite(label.get<double>()))
        bad("has no number as its \"label\"");
      out.labels.push_back(label.get<double>());
    } else {
      if (!is_word(label))
        bad("has no word, whole number, true or false as its \"label\"");
      words.push_back(word_of(label));
    }
    if (!group.is_null()) {
      if (!is_word(group)) bad("has a \"group\" that is no word or number");
      if (groups.size() + 1 != out.texts.size())
        bad("has a \"group\", and a line before it has none");
      groups.push_back(word_of(group));
    } else if (!groups.empty()) {
      bad("has no \"group\", and a line before it has one");
    }
  }
  const std::set<std::string> classes(words.begin(), words.end());
  out.classes.assign(classes.begin(), classes.end());
  if (kind == ProbeKind::logistic && classes.size() != 2)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has labels of {} class{}{}; a probe tells two apart",
        function,
        quoted(path),
        classes.size(),
        classes.size() == 1 ? "" : "es",
        classes.size() == 1 ? " ('" + printable(*classes.begin()) + "')" : "");
  for (const auto& word : words)
    out.labels.push_back(word == out.classes[1] ? 1 : 0);
  std::map<std::string, int> numbers;
  for (const auto& group : groups)
    out.groups.push_back(
        numbers.try_emplace(group, static_cast<int>(numbers.size()))
            .first->second);
  for (size_t i = 0; groups.empty() && i < out.texts.size(); ++i)
    out.groups.push_back(static_cast<int>(i));
  if (out.texts.empty())
    fail(ErrorKind::bad_data, "[{}] {} is empty", function, quoted(path));
  return out;
}

}  // namespace mlxterp
