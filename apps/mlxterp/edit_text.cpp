#include "edit_text.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

#include "common.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/terminal.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

constexpr int deepest = 16;
constexpr int64_t longest_range = 1 << 20;

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Edit edit() {
    const auto equals = text_.find('=');
    if (equals == std::string::npos)
      wrong(
          text_.size(), "expected SITE=EDIT, as in layers.4.mlp_out=scale(0)");
    if (equals == 0) wrong(0, "expected the name of a site before '='");
    at_ = equals + 1;
    auto apply = expression(0);
    space();
    if (at_ != text_.size()) wrong(at_, "expected the end");
    return {text_.substr(0, equals), std::move(apply)};
  }

 private:
  [[noreturn]] void wrong(size_t at, const std::string& what) const {
    usage(fmt::format(
        "--edit '{}', column {}: {}", view::escape(text_), at + 1, what));
  }

  void space() {
    while (at_ < text_.size() && text_[at_] == ' ')
      ++at_;
  }

  bool next_is(char c) {
    space();
    return at_ < text_.size() && text_[at_] == c;
  }

  bool take(char c) {
    if (!next_is(c)) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!take(c)) wrong(at_, fmt::format("expected '{}'", c));
  }

  template <typename T>
  std::optional<T> parse(std::string_view token) const {
    T value{};
    const auto* end = token.data() + token.size();
    const auto parsed = std::from_chars(token.data(), end, value);
    if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
    return value;
  }

  // Up to a comma, bracket or the end.
  std::string_view token() {
    space();
    const auto end = std::min(text_.find_first_of(",()[]", at_), text_.size());
    auto token = std::string_view(text_).substr(at_, end - at_);
    at_ = end;
    while (token.ends_with(' '))
      token.remove_suffix(1);
    return token;
  }

  // Not std::from_chars, which libc++ lacks for floats before LLVM 20.
  float number() {
    space();
    const auto start = at_;
    const std::string text(token());
    const bool plain =
        !text.empty() && text.find_first_not_of("0123456789.eE+-") == text.npos;
    char* end = nullptr;
    const float value = plain ? std::strtof(text.c_str(), &end) : 0;
    if (!plain || end != text.c_str() + text.size() || !std::isfinite(value))
      wrong(start, "expected a finite number");
    return value;
  }

  // 3 or 3..7.
  void index(std::vector<int>& out) {
    space();
    const auto start = at_;
    const auto text = token();
    const auto dots = text.find("..");
    const auto first = parse<int>(text.substr(0, dots));
    const auto last = dots == std::string_view::npos
                          ? first
                          : parse<int>(text.substr(dots + 2));
    if (!first || !last || *last < *first ||
        int64_t{*last} - *first >= longest_range)
      wrong(start, "expected a whole number or a range such as 3..7");
    for (int64_t i = *first; i <= *last; ++i)
      out.push_back(static_cast<int>(i));
  }

  std::vector<int> indices() {
    std::vector<int> out;
    if (!take('[')) {
      index(out);
      return out;
    }
    do
      index(out);
    while (take(','));
    expect(']');
    return out;
  }

  // FILE:NAME up to the closing bracket.
  mx::array tensor() {
    space();
    const auto start = at_;
    const auto end = text_.find(')', at_);
    const auto colon = text_.rfind(':', end);
    if (end == std::string::npos || colon == std::string::npos ||
        colon <= start)
      wrong(start, "expected FILE.safetensors:NAME");
    const auto file = text_.substr(start, colon - start);
    const auto name = text_.substr(colon + 1, end - colon - 1);
    at_ = end;
    const auto opened = Safetensors::open(file);
    for (const auto& tensor : opened.tensors())
      if (tensor.name == name) return opened.read(tensor);
    std::string known;
    for (size_t i = 0; i < std::min<size_t>(opened.tensors().size(), 5); ++i)
      known += (i ? ", " : "") + view::escape(opened.tensors()[i].name);
    wrong(
        colon + 1,
        fmt::format("the file has no such tensor; it has {}", known));
  }

  Intervention selector(
      const std::string& name,
      Intervention (*make)(std::vector<int>, Intervention),
      int depth) {
    if (!next_is('(')) wrong(at_, fmt::format("expected {}(3, EDIT)", name));
    expect('(');
    auto chosen = indices();
    expect(',');
    return make(std::move(chosen), expression(depth + 1));
  }

  Intervention expression(int depth) {
    space();
    const auto start = at_;
    if (depth > deepest) wrong(start, "edits nested too deeply");
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) ||
            text_[at_] == '_'))
      ++at_;
    const auto name = text_.substr(start, at_ - start);
    auto made = call(name, start, depth);
    return made;
  }

  Intervention call(const std::string& name, size_t start, int depth) {
    if (name == "zero_out") {
      if (take('(')) expect(')');
      return zero_out();
    }
    if (name == "noise" && !next_is('(')) return noise();
    const bool known =
        name == "scale" || name == "add_vector" || name == "replace_with" ||
        name == "clamp" || name == "noise" || name == "compose" ||
        name == "at_positions" || name == "on_heads" || name == "on_neurons";
    if (!known)
      wrong(
          start,
          fmt::format(
              "expected an edit instead of '{}': zero_out, scale, add_vector, "
              "replace_with, clamp, noise, compose, at_positions, on_heads, "
              "on_neurons",
              view::escape(name)));
    if (name == "at_positions")
      return closed(selector(name, at_positions, depth));
    if (name == "on_heads") return closed(selector(name, on_heads, depth));
    if (name == "on_neurons") return closed(selector(name, on_neurons, depth));
    expect('(');
    if (name == "scale") return closed(scale(number()));
    if (name == "add_vector") return closed(add_vector(tensor()));
    if (name == "replace_with") {
      const auto end = text_.find(')', at_);
      if (text_.substr(at_, end - at_).find(':') != std::string::npos)
        return closed(replace_with(tensor()));
      return closed(replace_with(number()));
    }
    if (name == "clamp") {
      const float least = number();
      expect(',');
      const float most = number();
      if (least > most) wrong(start, "the lower bound is above the upper one");
      return closed(clamp(least, most));
    }
    if (name == "noise") {
      const float std = number();
      if (std < 0) wrong(start, "the standard deviation is below 0");
      if (!take(',')) return closed(noise(std));
      space();
      const auto seed_at = at_;
      const auto seed = parse<uint64_t>(token());
      if (!seed) wrong(seed_at, "expected a seed, a whole number from 0 on");
      return closed(noise(std, *seed));
    }
    std::vector<Intervention> parts;
    do
      parts.push_back(expression(depth + 1));
    while (take(','));
    return closed(compose(std::move(parts)));
  }

  Intervention closed(Intervention made) {
    expect(')');
    return made;
  }

  const std::string& text_;
  size_t at_ = 0;
};

}  // namespace

Edit parse_edit(const std::string& text) {
  return Parser(text).edit();
}

std::vector<Edit> parse_edits(const std::vector<std::string>& texts) {
  std::vector<Edit> edits;
  for (const auto& text : texts)
    edits.push_back(parse_edit(text));
  return edits;
}

}  // namespace mlxterp::cli
