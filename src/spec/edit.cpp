#include "mlxterp/spec/edit.h"

#include <algorithm>
#include <utility>

#include "mlx/ops.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/spec/when.h"
#include "mlxterp/trace/model.h"
#include "spec/lens_edit.h"
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
    site_ = site;
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
    const auto text = token();
    if (text.starts_with('@')) {
      if (!options_.turn)
        wrong(start, "only the turns of a conversation have names");
      const auto positions = options_.turn(text);
      out.insert(out.end(), positions.begin(), positions.end());
      return;
    }
    const auto range = range_of(text);
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

  // Up to the bracket that closes the call, which is where they end.
  std::string_view arguments() {
    space();
    const auto end = std::min(text_.find(')', at_), text_.size());
    return trimmed(std::string_view(text_).substr(at_, end - at_));
  }

  // FILE or FILE:TENSOR, of the text that begins at a column.
  mx::array read(std::string_view named, size_t column) {
    if (!options_.read)
      wrong(column, "edits may not name files here; give numbers");
    const auto colon = named.rfind(':');
    const auto ends = [&](std::string_view suffix) {
      return named.ends_with(suffix);
    };
    const bool whole = colon == std::string_view::npos || ends(".npy") ||
                       ends(".npz") || ends(".safetensors");
    const auto file = trimmed(named.substr(0, whole ? named.size() : colon));
    if (file.empty()) wrong(column, "expected FILE or FILE:TENSOR");
    return options_.read(
        std::string(file),
        std::string(whole ? std::string_view() : named.substr(colon + 1)));
  }

  // FILE:TENSOR up to the closing bracket.
  mx::array tensor() {
    const auto named = arguments();
    const auto start = at_;
    at_ += named.size();
    return read(named, start);
  }

  // FILE, N: the number behind the last comma, which a file's name may have.
  Intervention moved(const std::string& word) {
    const auto all = arguments();
    const auto start = at_;
    const auto comma = all.rfind(',');
    const auto behind = comma == std::string_view::npos
                            ? std::string_view()
                            : trimmed(all.substr(comma + 1));
    const auto number = finite_number(behind);
    const bool clamps = word == "clamp_along";
    const bool a_name = behind.find_first_of(":./") != std::string_view::npos;
    if (!number && (clamps || (comma != std::string_view::npos && !a_name)))
      wrong(
          comma == std::string_view::npos ? start + all.size()
                                          : start + comma + 1,
          clamps ? "expected FILE, NUMBER with a finite number"
                 : "expected a finite number");
    const auto file = trimmed(number ? all.substr(0, comma) : all);
    const auto vector = read(file, start);
    at_ += all.size();
    if (clamps) return wide_as(vector, file, clamp_along(vector, *number));
    return wide_as(
        vector,
        file,
        add_vector(
            number ? mx::multiply(
                         mx::astype(vector, mx::float32), mx::array(*number))
                   : vector));
  }

  // FILE {, FILE}: all that lies in the space they span.
  Intervention projected() {
    const auto all = arguments();
    const auto start = at_;
    std::vector<mx::array> rows;
    for (size_t at = 0; at <= all.size();) {
      const auto end = std::min(all.find(',', at), all.size());
      const auto named = trimmed(all.substr(at, end - at));
      const auto vector = read(named, start + at);
      if (vector.ndim() == 0 || vector.ndim() > 2 ||
          (!rows.empty() && vector.shape(-1) != rows[0].shape(-1)))
        wrong(
            start + at,
            fmt::format(
                "'{}' is of shape ({}); expected vectors of one length",
                printable(named),
                fmt::join(vector.shape().begin(), vector.shape().end(), ", ")));
      rows.push_back(mx::reshape(vector, {-1, vector.shape(-1)}));
      at = end + 1;
    }
    at_ += all.size();
    const auto whole = rows.size() == 1 ? rows[0] : mx::concatenate(rows, 0);
    return wide_as(whole, all, project_out(whole));
  }

  // Of a vector from a file: one of another width is an error that names it,
  // also where a single number would broadcast.
  static Intervention wide_as(
      const mx::array& vector, std::string_view file, Intervention inner) {
    const int width = vector.ndim() == 0 ? 1 : vector.shape(-1);
    const auto reach = inner.reach();
    return {
        [width, name = std::string(file), inner = std::move(inner)](
            const mx::array& x, const SiteView& at) {
          if (x.ndim() == 0 || x.shape(-1) != width)
            fail(
                ErrorKind::usage,
                "[edit] the vector of '{}' has {} numbers, site '{}' {}; it "
                "was made for another model or site",
                printable(name),
                width,
                at.name,
                x.ndim() == 0 ? 1 : x.shape(-1));
          return inner(x, at);
        },
        reach};
  }

  // ' Paris' or id:7042.
  std::string quoted_token() {
    space();
    const auto start = at_;
    const char quote = at_ < text_.size() ? text_[at_] : ' ';
    if (quote != '\'' && quote != '"') {
      const auto id = token();
      if (!id.starts_with("id:"))
        wrong(start, "expected a token in quotes, as ' Paris', or id:7042");
      return std::string(id);
    }
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string::npos) wrong(start, "this quote is not closed");
    at_ = end + 1;
    return text_.substr(start + 1, end - start - 1);
  }

  bool token_follows() {
    if (!next_is(',')) return false;
    const auto next = text_.find_first_not_of(' ', at_ + 1);
    return next != std::string::npos &&
           (text_[next] == '\'' || text_[next] == '"' ||
            text_.compare(next, 3, "id:") == 0);
  }

  // FILE, TOKEN {, TOKEN} [, RUN] [, N]; a file's name may have commas.
  Intervention along_lens(const std::string& word) {
    space();
    const auto start = at_;
    while (at_ < text_.size() && text_[at_] != ')' && !token_follows())
      at_ = std::max(
          at_ + 1, std::min(text_.find_first_of(",)", at_ + 1), text_.size()));
    LensCall call{
        .word = word,
        .file = std::string(
            trimmed(std::string_view(text_).substr(start, at_ - start)))};
    if (call.file.empty() || !token_follows())
      wrong(at_, "expected FILE, ' TOKEN' with the token in quotes");
    if (!options_.read) wrong(start, "edits may not name files here");
    while (token_follows()) {
      expect(',');
      call.tokens.push_back(quoted_token());
    }
    const size_t most = word == "lens_steer"    ? 1
                        : word == "lens_ablate" ? limits::spec_edits
                                                : 2;
    if (call.tokens.size() > most || (most == 2 && call.tokens.size() != most))
      wrong(
          at_,
          fmt::format(
              "{} takes {} token{}, not {}",
              word,
              most == 2   ? "two"
              : most == 1 ? "one"
                          : "fewer",
              most == 1 ? "" : "s",
              call.tokens.size()));
    if (word == "lens_clamp") {
      expect(',');
      space();
      const auto end = std::min(text_.find_first_of(",)", at_), text_.size());
      call.run = trimmed(std::string_view(text_).substr(at_, end - at_));
      if (call.run.empty())
        wrong(at_, "expected the file of a run's values (trace --save -o)");
      at_ = end;
    }
    if (word != "lens_ablate" && take(',')) call.strength = number();
    if (!next_is(')')) wrong(at_, "expected ')'");
    std::vector<std::string> sites;
    if (options_.model && !site_.empty())
      for (const auto site : options_.model->sites().match(site_))
        sites.push_back(options_.model->sites()[site].name);
    return lens_edit(call, options_, sites);
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
    if (word == "lens_steer" || word == "lens_ablate" || word == "lens_swap" ||
        word == "lens_clamp") {
      expect('(');
      return closed(along_lens(word));
    }
    if (word != "scale" && word != "add_vector" && word != "replace_with" &&
        word != "clamp" && word != "noise" && word != "project_out" &&
        word != "clamp_along")
      wrong(
          start,
          fmt::format(
              "expected an edit instead of '{}': zero_out, scale, add_vector, "
              "project_out, clamp_along, replace_with, clamp, noise, compose, "
              "lens_steer, lens_ablate, lens_swap, lens_clamp, at_positions, "
              "on_heads, on_neurons, on_prompts, during",
              printable(word)));
    expect('(');
    if (word == "scale") return closed(scale(number()));
    if (word == "add_vector" || word == "clamp_along")
      return closed(moved(word));
    if (word == "project_out") return closed(projected());
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
  std::string_view site_ = {};  // of the whole edit
  size_t at_ = 0;
  size_t numbers_ = 0;  // of all lists of this text
};

}  // namespace

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
