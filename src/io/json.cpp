#include "io/json.h"

#include <utility>
#include <vector>

#include "core/fail.h"
#include "core/number.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::json;

// What nlohmann says, without its "[json.exception.parse_error.101] ".
std::string reason(const json::exception& error) {
  const std::string_view text = error.what();
  const size_t start = text.find("] ");
  return printable(start == text.npos ? text : text.substr(start + 2), 240);
}

// Builds the value itself while nlohmann reads: nlohmann's own builder lets the
// last of two equal keys win, looks through an object again for each of its
// members where a callback may refuse some, and takes numbers as the locale
// has them.
class Strict : public nlohmann::json_sax<json> {
 public:
  Strict(std::string_view caller, std::string_view what)
      : caller_(caller), what_(what) {}

  json result() && { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string& text) override {
    return add(parse_double(with_point(text)).value_or(value));
  }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(json::binary_t&) override { return false; }  // not in JSON
  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    auto& members = open_.back()->get_ref<json::object_t&>();
    const auto [at, is_new] = members.emplace(std::move(name), nullptr);
    if (!is_new)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds the key \"{}\" twice, so its value is ambiguous; "
          "write it "
          "again",
          caller_,
          what_,
          printable(at->first));
    member_ = &at->second;
    return true;
  }

  bool parse_error(
      size_t, const std::string&, const json::exception& error) override {
    fail(
        ErrorKind::bad_data,
        "[{}] {} is not valid JSON ({}); download or write it again",
        caller_,
        what_,
        reason(error));
  }

 private:
  // nlohmann puts the locale's point in place of the file's.
  static std::string with_point(std::string text) {
    const auto at = text.find_first_not_of("0123456789eE+-");
    if (at != text.npos) text[at] = '.';
    return text;
  }

  bool add(json value) {
    place(std::move(value));
    return true;
  }

  json& place(json value) {
    if (++values_ > limits::json_values)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds more than {} values; is it the right file?",
          caller_,
          what_,
          limits::json_values);
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return *member_ = std::move(value);
    return open_.back()->emplace_back(std::move(value));
  }

  bool open(json value) {
    if (open_.size() == static_cast<size_t>(limits::json_depth))
      fail(
          ErrorKind::bad_data,
          "[{}] {} is nested more than {} deep; the file is damaged",
          caller_,
          what_,
          limits::json_depth);
    open_.push_back(&place(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view caller_;
  std::string_view what_;
  size_t values_ = 0;
  json root_;
  std::vector<json*> open_;  // the innermost last
  json* member_ = nullptr;   // of the innermost object, where its value goes
};

}  // namespace

json parse_json(
    std::string_view text, std::string_view caller, std::string_view what) {
  Strict strict(caller, what);
  json::sax_parse(text.begin(), text.end(), &strict);
  return std::move(strict).result();
}

std::string with_quoted_infinities(std::string text) {
  std::string out;
  size_t copied = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '"') quoted = !quoted;
    if (quoted && c == '\\') ++i;  // whatever follows it
    const auto word = [&]() -> std::string_view {
      for (const std::string_view known : {"-Infinity", "Infinity", "NaN"})
        if (!quoted && text.compare(i, known.size(), known) == 0) return known;
      return {};
    }();
    if (word.empty()) {
      ++i;
      continue;
    }
    out.append(text, copied, i - copied);
    out += fmt::format(R"({{"__float__": "{}"}})", word);
    copied = i += word.size();
  }
  if (copied == 0) return text;
  return out.append(text, copied);
}

std::string read_text(
    const std::filesystem::path& path, size_t limit, std::string_view caller) {
  auto text = InputFile::open(path, caller)->all(limit, caller);
  const std::string hint = looks_like(text);
  if (text.empty() || !hint.empty())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has {} bytes and no JSON in them{}; download it again",
        caller,
        quoted(path),
        text.size(),
        hint);
  return text;
}

}  // namespace mlxterp
