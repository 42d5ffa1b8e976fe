#include "mlxterp/spec/edit.h"

#include <algorithm>
#include <utility>

#include "mlxterp/io/safetensors.h"
#include "mlxterp/spec/when.h"
#include "spec/text.h"

namespace mx = mlx::core;

namespace mlxterp::spec {

namespace {

bool in_a_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c >= '0' && c <= '9') || c == '_';
}

class Parser {
 public:
  Parser(const std::string& text, const EditOptions& options)
      : text_(text), options_(options) {
    check_size({text}, options.name);
  }

  Edit edit() {
    const auto equals = text_.find('=');
    if (equals == std::string::npos)
      wrong(
          text_.size(), "expected SITE=EDIT, as in layers.4.mlp_out=scale(0)");
    const auto site = trimmed(std::string_view(text_).substr(0, equals));
    if (site.empty()) wrong(0, "expected the name of a site before '='");
    at_ = equals + 1;
    return {std::string(site), intervention()};
  }

  Intervention intervention() {
    auto made = expression(0);
    space();
    if (at_ != text_.size()) wrong(at_, "expected the end");
    return made;
  }

 private:
  [[noreturn]] void wrong(size_t at, const std::string& what) const {
    fail(
        ErrorKind::usage,
        "{} '{}', column {}: {}",
        options_.name,
        printable(text_),
        at + 1,
        what);
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

  // Up to a comma, bracket or the end.
  std::string_view token() {
    space();
    const auto end = std::min(text_.find_first_of(",()[]", at_), text_.size());
    const auto token = std::string_view(text_).substr(at_, end - at_);
    at_ = end;
    return trimmed(token);
  }

  float number() {
    space();
    const auto start = at_;
    const auto value = finite_number(token());
    if (!value) wrong(start, "expected a finite number");
    return *value;
  }

  // 3 or 3..7.
  void index(std::vector<int>& out) {
    space();
    const auto start = at_;
    const auto range = range_of(token());
    if (!range) wrong(start, "expected a whole number or a range such as 3..7");
    if (range->count() > limits::spec_numbers - numbers_)
      wrong(start, fmt::format("more than {} numbers", limits::spec_numbers));
    numbers_ += range->count();
    for (uint64_t i = 0; i < range->count(); ++i)
      out.push_back(range->first + static_cast<int>(i));
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

  // FILE:TENSOR up to the closing bracket.
  mx::array tensor() {
    space();
    const auto start = at_;
    const auto end = text_.find(')', at_);
    const auto colon = text_.rfind(':', end);
    if (end == std::string::npos || colon == std::string::npos ||
        colon <= start)
      wrong(start, "expected FILE.safetensors:TENSOR");
    if (!options_.read)
      wrong(start, "edits may not name files here; give numbers");
    at_ = end;
    return options_.read(
        text_.substr(start, colon - start),
        text_.substr(colon + 1, end - colon - 1));
  }

  bool names_a_file() const {
    const auto end = text_.find(')', at_);
    return text_.substr(at_, end - at_).find(':') != std::string::npos;
  }

  Intervention selector(
      const std::string& word,
      Intervention (*make)(std::vector<int>, Intervention),
      int depth) {
    if (!next_is('(')) wrong(at_, fmt::format("expected {}(3, EDIT)", word));
    expect('(');
    auto chosen = indices();
    expect(',');
    return make(std::move(chosen), expression(depth + 1));
  }

  Intervention timed(int depth) {
    if (!next_is('(')) wrong(at_, "expected during(generated, EDIT)");
    expect('(');
    space();
    const auto start = at_;
    const auto text = token();
    const auto when = find_when(text);
    if (!when)
      wrong(
          start,
          "expected prompt, generated, all, step:3 or steps:2..5 (step 0 is "
          "the prompt)");
    expect(',');
    return during(*when, expression(depth + 1));
  }

  Intervention expression(int depth) {
    space();
    const auto start = at_;
    if (depth > limits::spec_depth) wrong(start, "edits nested too deeply");
    while (at_ < text_.size() && in_a_word(text_[at_]))
      ++at_;
    return call(text_.substr(start, at_ - start), start, depth);
  }

  Intervention call(const std::string& word, size_t start, int depth) {
    if (word == "zero_out") {
      if (take('(')) expect(')');
      return zero_out();
    }
    if (word == "noise" && !next_is('(')) return noise();
    if (word == "at_positions")
      return closed(selector(word, at_positions, depth));
    if (word == "on_heads") return closed(selector(word, on_heads, depth));
    if (word == "on_neurons") return closed(selector(word, on_neurons, depth));
    if (word == "on_prompts") return closed(selector(word, on_prompts, depth));
    if (word == "during") return closed(timed(depth));
    if (word == "compose") return closed(steps(depth));
    if (word != "scale" && word != "add_vector" && word != "replace_with" &&
        word != "clamp" && word != "noise")
      wrong(
          start,
          fmt::format(
              "expected an edit instead of '{}': zero_out, scale, add_vector, "
              "replace_with, clamp, noise, compose, at_positions, on_heads, "
              "on_neurons, on_prompts, during",
              printable(word)));
    expect('(');
    if (word == "scale") return closed(scale(number()));
    if (word == "add_vector") return closed(add_vector(tensor()));
    if (word == "replace_with")
      return closed(
          names_a_file() ? replace_with(tensor()) : replace_with(number()));
    return closed(word == "clamp" ? bounds(start) : noisy());
  }

  Intervention bounds(size_t start) {
    const float least = number();
    expect(',');
    const float most = number();
    if (least > most) wrong(start, "the lower bound is above the upper one");
    return clamp(least, most);
  }

  Intervention noisy() {
    const auto start = at_;
    const float std = number();
    if (std < 0) wrong(start, "the standard deviation is below 0");
    if (!take(',')) return noise(std);
    space();
    const auto seed_at = at_;
    const auto seed = whole_number<uint64_t>(token());
    if (!seed) wrong(seed_at, "expected a seed, a whole number of 0 or more");
    return noise(std, *seed);
  }

  Intervention steps(int depth) {
    expect('(');
    std::vector<Intervention> all;
    do {
      if (all.size() == limits::spec_edits)
        wrong(at_, fmt::format("more than {} edits", limits::spec_edits));
      all.push_back(expression(depth + 1));
    } while (take(','));
    return compose(std::move(all));
  }

  Intervention closed(Intervention made) {
    expect(')');
    return made;
  }

  const std::string& text_;
  const EditOptions& options_;
  size_t at_ = 0;
  size_t numbers_ = 0;  // of all lists of this text
};

}  // namespace

mx::array read_tensor(const std::string& path, const std::string& name) {
  const auto file = Safetensors::open(path);
  constexpr size_t most = 5;
  std::string known;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const auto& tensor = file.tensors()[i];
    if (tensor.name == name) return file.read(tensor);
    if (i < most) known += (i ? ", " : "") + printable(tensor.name);
  }
  if (file.tensors().size() > most) known += ", ...";
  fail(
      ErrorKind::unknown_name,
      "[read_tensor] {} has no tensor '{}'; it has {}",
      printable(path),
      printable(name),
      known.empty() ? "none" : known);
}

Intervention parse_intervention(
    const std::string& text, const EditOptions& options) {
  return Parser(text, options).intervention();
}

Edit parse_edit(const std::string& text, const EditOptions& options) {
  return Parser(text, options).edit();
}

std::vector<Edit> parse_edits(
    const std::vector<std::string>& texts, const EditOptions& options) {
  check_size(texts, options.name);
  std::vector<Edit> edits;
  for (const auto& text : texts)
    edits.push_back(parse_edit(text, options));
  return edits;
}

}  // namespace mlxterp::spec
