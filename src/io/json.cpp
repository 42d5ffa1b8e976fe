#include "io/json.h"

#include <unordered_set>
#include <vector>

#include "core/fail.h"
#include "io/mapped_file.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::json;

// Sees every key and bracket while nlohmann parses, which by itself lets the
// last of two equal keys win.
class Strict {
 public:
  Strict(std::string_view caller, std::string_view what)
      : caller_(caller), what_(what) {}

  bool operator()(json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
        deepen();
        keys_.emplace_back();
        break;
      case json::parse_event_t::array_start:
        deepen();
        break;
      case json::parse_event_t::object_end:
        keys_.pop_back();
        --depth_;
        break;
      case json::parse_event_t::array_end:
        --depth_;
        break;
      case json::parse_event_t::key:
        check_new(parsed.get_ref<const std::string&>());
        break;
      case json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  void deepen() {
    if (++depth_ > limits::json_depth)
      fail(
          ErrorKind::bad_data,
          "[{}] {} is nested more than {} deep; the file is damaged",
          caller_,
          what_,
          limits::json_depth);
  }

  void check_new(const std::string& key) {
    if (!keys_.back().insert(key).second)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds the key \"{}\" twice; which one counts is anyone's "
          "guess, so write it again",
          caller_,
          what_,
          printable(key));
  }

  std::string_view caller_;
  std::string_view what_;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of open objects
};

// What nlohmann says, without its "[json.exception.parse_error.101] ".
std::string reason(const json::exception& error) {
  const std::string_view text = error.what();
  const size_t start = text.find("] ");
  return printable(start == text.npos ? text : text.substr(start + 2), 240);
}

}  // namespace

json parse_json(
    std::string_view text, std::string_view caller, std::string_view what) {
  Strict strict(caller, what);
  try {
    return json::parse(text, [&](int, json::parse_event_t event, json& parsed) {
      return strict(event, parsed);
    });
  } catch (const json::exception& error) {
    fail(
        ErrorKind::bad_data,
        "[{}] {} is not valid JSON ({}); download or write it again",
        caller,
        what,
        reason(error));
  }
}

std::string read_text(
    const std::filesystem::path& path, size_t limit, std::string_view caller) {
  const auto file = MappedFile::open(path, caller);
  const auto text = file->text();
  if (text.size() > limit)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has {} bytes, at most {} are read; it is not what its name "
        "says",
        caller,
        quoted(path),
        text.size(),
        limit);
  const std::string hint = looks_like(text);
  if (text.empty() || !hint.empty())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has {} bytes and no JSON in them{}; download it again",
        caller,
        quoted(path),
        text.size(),
        hint);
  std::string copy(text);
  file->check_unchanged(caller);
  return copy;
}

}  // namespace mlxterp
