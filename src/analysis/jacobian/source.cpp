#include "analysis/jacobian/source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "analysis/int_array.h"
#include "core/fail.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp::jacobian {

namespace {

int number(
    const std::map<std::string, std::string>& metadata,
    const char* key,
    int otherwise,
    const std::string& shown) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return otherwise;
  const auto& text = found->second;
  int value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < -1)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has the {} '{}'; is it a Jacobian lens?",
        caller,
        shown,
        key,
        printable(text));
  return value;
}

}  // namespace

std::map<std::string, std::string> to_metadata(const JacobianSource& source) {
  std::map<std::string, std::string> out = {
      {"estimator", "sum over targets, mean over sources, mean over prompts"},
      {"rule", name(source.rule)},
      {"converged", source.converged ? "1" : "0"}};
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) out.emplace(key, value);
  };
  const auto integer = [&](const char* key, int64_t value, int64_t least) {
    if (value >= least) out.emplace(key, fmt::format("{}", value));
  };
  text("model", source.model);
  text("weights", source.weights);
  text("tokenizer", source.tokenizer);
  text("corpus", source.corpus);
  integer("model_layers", source.model_layers, 1);
  integer("target_layer", source.target_layer, 0);
  integer("length", source.length, 1);
  integer("skip", source.skip, 0);
  integer("prompts", static_cast<int64_t>(source.prompts), 1);
  return out;
}

JacobianSource from_metadata(
    const std::map<std::string, std::string>& metadata,
    const std::string& shown) {
  const auto text = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  const auto integer = [&](const char* key, int otherwise) {
    return number(metadata, key, otherwise, shown);
  };
  JacobianSource out{
      .model = text("model"),
      .weights = text("weights"),
      .tokenizer = text("tokenizer"),
      .corpus = text("corpus"),
      .model_layers = integer("model_layers", 0),
      .target_layer = integer("target_layer", -1),
      .length = integer("length", 0),
      .skip = integer("skip", -1)};
  if (const auto rule = text("rule"); !rule.empty())
    out.rule = linear_rule(rule);
  out.prompts = static_cast<size_t>(std::max(0, integer("prompts", 0)));
  out.converged = integer("converged", 0) == 1;
  return out;
}

std::string difference(const JacobianSource& a, const JacobianSource& b) {
  const auto brief = [](const std::string& digest) {
    return printable(digest.substr(0, 12));
  };
  if (a.rule != b.rule)
    return fmt::format("rule {} and {}", name(a.rule), name(b.rule));
  if (!a.weights.empty() && !b.weights.empty() && a.weights != b.weights)
    return fmt::format("weights {} and {}", brief(a.weights), brief(b.weights));
  if (!a.tokenizer.empty() && !b.tokenizer.empty() &&
      a.tokenizer != b.tokenizer)
    return fmt::format(
        "tokenizers {} and {}", brief(a.tokenizer), brief(b.tokenizer));
  const auto differ = [](int x, int y, int known) {
    return x >= known && y >= known && x != y;
  };
  if (differ(a.model_layers, b.model_layers, 1))
    return fmt::format("layers {} and {}", a.model_layers, b.model_layers);
  if (differ(a.target_layer, b.target_layer, 0))
    return fmt::format(
        "target layers {} and {}", a.target_layer, b.target_layer);
  if (differ(a.skip, b.skip, 0))
    return fmt::format("skip {} and {}", a.skip, b.skip);
  return "";
}

std::optional<int> layer_named(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return {};
  const auto digits = name.substr(prefix.size());
  int layer = 0;
  const auto* end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, layer);
  if (parsed.ec != std::errc() || parsed.ptr != end || layer < 0 ||
      layer >= limits::layers || fmt::format("{}", layer) != digits)
    return {};
  return layer;
}

std::string digest_of(const Inputs::Rows& prompts) {
  Digest digest(Digest::Kind::sha256);
  for (const auto& ids : prompts)
    digest.update(fmt::format("{}\n", fmt::join(ids, ",")));
  return digest.hex();
}

std::vector<int> chosen_layers(
    const std::vector<int>& asked, int model_layers, int end) {
  std::vector<int> out;
  if (asked.empty())
    for (int i = 0; i < end; ++i)
      out.push_back(i);
  for (const int layer : asked) {
    const int i = layer < 0 ? layer + model_layers : layer;
    if (i < 0 || i >= end)
      fail(
          ErrorKind::out_of_range,
          "[{}] layer {} is out of range; there are {}{}",
          caller,
          layer,
          model_layers,
          i == end && i == model_layers - 1
              ? ", and the last one is the target: its lens is the identity"
              : fmt::format(", numbered 0 to {}", model_layers - 1));
    out.push_back(i);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

mx::array unembedding_of(
    const InterpretableModel& model, const std::vector<int>& tokens) {
  const auto& decoder = model.decoder();
  if (tokens.empty())
    fail(ErrorKind::usage, "[{}] no tokens; give one at least", caller);
  for (const int token : tokens)
    if (token < 0 || token >= decoder.config().vocab)
      fail(
          ErrorKind::out_of_range,
          "[{}] token id {} is out of range; the vocabulary has {}",
          caller,
          token,
          decoder.config().vocab);
  return mx::astype(
      decoder.unembed.weight().take(int_array(tokens)), mx::float32);
}

void check_fits(
    const JacobianSource& source,
    const std::vector<int>& layers,
    int d_model,
    const InterpretableModel& model,
    bool any_model) {
  const int own = layer_count(model), width = residual_width(model);
  const auto refuse = [](const std::string& why) {
    fail(
        ErrorKind::usage,
        "[{}] {}; use the lens that was fitted on this model",
        caller,
        why);
  };
  if (width != d_model)
    refuse(fmt::format(
        "the lens reads {} features, the model has {}", d_model, width));
  if (!layers.empty() && layers.back() >= own)
    refuse(fmt::format(
        "the lens reads layer {}, the model has {} layers",
        layers.back(),
        own));
  if (source.model_layers > 0 && source.model_layers != own)
    refuse(fmt::format(
        "the lens is of a model of {} layers, this one has {}",
        source.model_layers,
        own));
  if (source.target_layer >= 0 && source.target_layer != own - 1)
    refuse(fmt::format(
        "the lens leads to layer {}, the model's head reads layer {}",
        source.target_layer,
        own - 1));
  if (any_model) return;
  const auto differs = [&](const std::string& of_lens,
                           const std::string& of_model,
                           const char* what) {
    if (of_lens.empty() || of_model.empty() || of_lens == of_model) return;
    refuse(fmt::format(
        "the lens was fitted with other {} ({}..., the model's are {}...); "
        "another precision counts as another model, too",
        what,
        printable(of_lens.substr(0, 12)),
        of_model.substr(0, 12)));
  };
  if (!source.weights.empty())
    differs(source.weights, weights_digest(model), "weights");
  if (!source.tokenizer.empty())
    differs(source.tokenizer, tokenizer_digest(model), "tokens");
}

JacobianSource source_of(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const JacobianOptions& options) {
  if (options.skip < 0)
    fail(
        ErrorKind::usage,
        "[{}] skip is {}; give 0 or more",
        caller,
        options.skip);
  if (prompts.empty())
    fail(ErrorKind::usage, "[{}] no prompts; give one at least", caller);
  // Also checks the ids, and every length against the context.
  const auto ids = model.token_ids(prompts);
  size_t longest = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    longest = std::max(longest, ids[i].size());
    if (ids[i].size() < static_cast<size_t>(options.skip) + 2)
      fail(
          ErrorKind::usage,
          "[{}] prompt {} has {} tokens; of {} that are skipped it takes {} at "
          "least: skip fewer, or leave it out",
          caller,
          i,
          ids[i].size(),
          options.skip,
          options.skip + 2);
  }
  const int layers = layer_count(model);
  return {
      .model = options.model,
      .weights = weights_digest(model),
      .tokenizer = tokenizer_digest(model),
      .corpus = digest_of(prompts),
      .model_layers = layers,
      .target_layer = layers - 1,
      .length = static_cast<int>(longest),
      .skip = options.skip,
      .rule = options.rule};
}

}  // namespace mlxterp::jacobian
