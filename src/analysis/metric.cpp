#include "mlxterp/analysis/metric.h"

#include <algorithm>
#include <cmath>

#include "analysis/any_model.h"
#include "analysis/int_array.h"
#include "analysis/metric_name.h"
#include "analysis/readout.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Kind = Metric::Kind;

mx::array column(const mx::array& x, int i) {
  return mx::take(x, i, 1);
}

mx::array log_softmax(const mx::array& x) {
  return mx::subtract(x, mx::logsumexp(x, -1, true));
}

std::string text_of(const Token& token) {
  if (const auto* id = std::get_if<int>(&token.value()))
    return fmt::format("id:{}", *id);
  return std::get<std::string>(token.value());
}

// As the shell's metrics are written; of each prompt's tokens.
std::string written(
    std::string_view kind, const Tokens& token, const Tokens* foil = nullptr) {
  std::vector<std::string> texts;
  const auto count = std::max(token.size(), foil ? foil->size() : 0);
  for (size_t i = 0; i < count; ++i) {
    // Of lists that do not match, which readout() refuses, what there is.
    const auto at = [i](const Tokens& of) {
      return of.size() ? text_of(of.each()[std::min(i, of.size() - 1)]) : "";
    };
    texts.push_back(
        foil ? fmt::format("{}({},{})", kind, at(token), at(*foil))
             : fmt::format("{}({})", kind, at(token)));
  }
  return name_of(texts);
}

}  // namespace

std::string name_of(const std::vector<std::string>& metrics) {
  constexpr size_t shown = 3;
  if (metrics.empty()) return "";
  auto out = metrics.front();
  if (std::ranges::count(metrics, out) ==
      static_cast<std::ptrdiff_t>(metrics.size()))
    return out;
  for (size_t i = 1; i < std::min(shown, metrics.size()); ++i)
    out += "; " + metrics[i];
  return metrics.size() > shown
             ? fmt::format("{}; ... ({} in all)", out, metrics.size())
             : out;
}

int Token::id(const InterpretableModel& model) const {
  if (const auto* text = std::get_if<std::string>(&value_))
    return model.tokenizer().single_token(*text);
  const int id = std::get<int>(value_);
  const int vocab = vocabulary(model);
  if (id < 0 || id >= vocab)
    fail(
        ErrorKind::out_of_range,
        "[Token] token id {} is out of range; the vocabulary has {}",
        id,
        vocab);
  return id;
}

const Token& Tokens::of(size_t prompt, size_t prompts) const {
  if (tokens_.size() != 1 && tokens_.size() != prompts)
    fail(
        ErrorKind::usage,
        "[metric] {} tokens for {} prompts; give one for all, or one for each",
        tokens_.size(),
        prompts);
  return tokens_[tokens_.size() == 1 ? 0 : prompt];
}

Metric logit(Tokens token) {
  auto name = written("logit", token);
  return {
      .kind = Kind::logit, .name = std::move(name), .token = std::move(token)};
}

Metric logit_diff(Tokens token, Tokens foil) {
  auto name = written("logit_diff", token, &foil);
  return {
      .kind = Kind::logit_diff,
      .name = std::move(name),
      .token = std::move(token),
      .foil = std::move(foil)};
}

Metric probability(Tokens token) {
  auto name = written("prob", token);
  return {
      .kind = Kind::probability,
      .name = std::move(name),
      .token = std::move(token)};
}

Metric log_probability(Tokens token) {
  auto name = written("log_prob", token);
  return {
      .kind = Kind::log_probability,
      .name = std::move(name),
      .token = std::move(token)};
}

Metric rank(Tokens token) {
  auto name = written("rank", token);
  return {
      .kind = Kind::rank, .name = std::move(name), .token = std::move(token)};
}

Metric kl_divergence() {
  return {.kind = Kind::kl_divergence, .name = "kl"};
}

Metric loss() {
  return {.kind = Kind::loss, .name = "loss"};
}

Metric custom(
    std::string name,
    std::function<mx::array(const mx::array& logits)> function) {
  if (!function)
    fail(ErrorKind::usage, "[custom] an empty function; give one to call");
  return {
      .kind = Kind::custom,
      .name = std::move(name),
      .function = std::move(function)};
}

Metric custom(std::string name, std::vector<Metric::Function> each) {
  for (const auto& function : each)
    if (!function)
      fail(ErrorKind::usage, "[custom] an empty function; give one to call");
  return {
      .kind = Kind::custom, .name = std::move(name), .each = std::move(each)};
}

Metric custom_of_run(std::string name, Metric::Function function) {
  auto metric = custom(std::move(name), std::move(function));
  metric.whole_run = true;
  return metric;
}

float measure(
    const InterpretableModel& model,
    const Metric& metric,
    const mx::array& logits) {
  return measure(model, metric, logits, 0, 1);
}

float measure(
    const InterpretableModel& model,
    const Metric& metric,
    const mx::array& logits,
    size_t prompt,
    size_t prompts) {
  const auto out = readout(model, metric, prompt, prompts);
  if (metric.kind == Kind::loss || out.needs_reference())
    fail(
        ErrorKind::usage,
        "[measure] {} needs more than the logits of one position",
        metric.name);
  return out.of_run(logits, {}, std::nullopt);
}

mx::array Readout::row_of(const mx::array& logits) const {
  return mx::astype(
      mx::squeeze(mx::take(logits, position_in(logits.shape(1)), 1), 0),
      mx::float32);
}

mx::array Readout::lazily(
    const mx::array& logits,
    const std::vector<int>& ids,
    const std::optional<mx::array>& reference) const {
  if (every_position()) {
    const auto all = mx::astype(mx::squeeze(logits, 0), mx::float32);
    if (whole_run) return values(all, reference, {});
    const auto known = mx::slice(all, {0, 0}, {all.shape(0) - 1, all.shape(1)});
    const std::vector<int> next(ids.begin() + 1, ids.end());
    return mx::mean(values(known, reference, next));
  }
  auto row = mx::expand_dims(row_of(logits), 0);
  if (const auto read = columns(); !read.empty())
    row = mx::take(row, int_array(read), 1);
  return values(row, reference, {});
}

std::vector<int> Readout::columns() const {
  if (kind == Kind::logit) return {token};
  if (kind == Kind::logit_diff) return {token, foil};
  return {};
}

int Readout::position_in(int length) const {
  const int at = position < 0 ? length + position : position;
  if (at < 0 || at >= length)
    fail(
        ErrorKind::out_of_range,
        "[metric] position {} is out of range; the prompt has {} tokens",
        position,
        length);
  return at;
}

mx::array Readout::values(
    const mx::array& logits,
    const std::optional<mx::array>& reference,
    const std::vector<int>& targets) const {
  const int rows = logits.shape(0);
  switch (kind) {
    case Kind::logit:
      return column(logits, 0);
    case Kind::logit_diff:
      return mx::subtract(column(logits, 0), column(logits, 1));
    case Kind::probability:
      return mx::exp(column(log_softmax(logits), token));
    case Kind::log_probability:
      return column(log_softmax(logits), token);
    case Kind::rank: {
      const auto own = mx::expand_dims(column(logits, token), 1);
      // Of equal ones the lower id is ahead, as in a list of the likeliest.
      const auto equal = mx::logical_and(
          mx::equal(logits, own),
          mx::less(mx::arange(logits.shape(1)), mx::array(token)));
      const auto ahead = mx::astype(
          mx::sum(mx::logical_or(mx::greater(logits, own), equal), 1),
          mx::float32);
      // Nothing is ahead of NaN: it would be the winner.
      return mx::where(
          mx::any(mx::isnan(logits), 1), mx::array(NAN, mx::float32), ahead);
    }
    case Kind::kl_divergence: {
      const auto clean =
          log_softmax(mx::reshape(reference.value(), {1, logits.shape(1)}));
      return mx::sum(
          mx::multiply(
              mx::exp(clean), mx::subtract(clean, log_softmax(logits))),
          1);
    }
    case Kind::loss: {
      const mx::array next(targets.data(), {rows, 1}, mx::int32);
      return mx::negative(
          mx::squeeze(mx::take_along_axis(log_softmax(logits), next, 1), 1));
    }
    case Kind::none:
    case Kind::custom:
      break;
  }
  const auto values = function(logits);
  if (mx::issubdtype(values.dtype(), mx::complexfloating))
    fail(
        ErrorKind::usage,
        "[metric] '{}' made complex numbers, which have no order",
        printable(name));
  if (whole_run) {
    if (values.size() != 1)
      fail(
          ErrorKind::usage,
          "[metric] '{}' returned {} numbers for one run's logits; it must "
          "return "
          "one",
          printable(name),
          values.size());
    return mx::reshape(mx::astype(values, mx::float32), {1});
  }
  if (values.ndim() != 1 || values.shape(0) != rows)
    fail(
        ErrorKind::usage,
        "[metric] '{}' returned {} axes for {} rows of logits; it must return "
        "one number per row, [{}]",
        printable(name),
        values.ndim(),
        rows,
        rows);
  return mx::astype(values, mx::float32);
}

Readout readout(
    const InterpretableModel& model,
    const Metric& metric,
    size_t prompt,
    size_t prompts) {
  if (metric.kind == Kind::none)
    fail(
        ErrorKind::usage,
        "[metric] no metric was given; name what to measure, such as "
        "logit_diff(\" Mary\", \" John\")");
  const bool reads_all = metric.kind == Kind::loss || metric.whole_run;
  if (reads_all && metric.position != Metric{}.position)
    fail(
        ErrorKind::usage,
        "[metric] {} reads every position; position {} means nothing to it",
        printable(metric.name),
        metric.position);
  Readout out{
      .kind = metric.kind,
      .position = metric.position,
      .function = metric.function,
      .name = metric.name,
      .whole_run = metric.whole_run};
  if (!metric.each.empty()) {
    if (metric.each.size() != prompts)
      fail(
          ErrorKind::usage,
          "[metric] {} functions for {} prompts; give one for each",
          metric.each.size(),
          prompts);
    out.function = metric.each[prompt];
  }
  const bool by_token = metric.kind != Kind::kl_divergence &&
                        metric.kind != Kind::loss &&
                        metric.kind != Kind::custom;
  if (by_token) out.token = metric.token.of(prompt, prompts).id(model);
  if (metric.kind == Kind::logit_diff)
    out.foil = metric.foil.of(prompt, prompts).id(model);
  return out;
}

}  // namespace mlxterp
