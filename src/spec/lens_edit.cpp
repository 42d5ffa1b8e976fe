#include "spec/lens_edit.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <map>

#include "mlx/ops.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/lens_edits.h"
#include "mlxterp/spec/metric.h"
#include "spec/text.h"

namespace mx = mlx::core;

namespace mlxterp::spec {

namespace {

// N of layers.N.resid_post.
std::optional<int> layer_of(std::string_view site) {
  constexpr std::string_view before = "layers.", behind = ".resid_post";
  if (!site.starts_with(before) || !site.ends_with(behind)) return {};
  site.remove_prefix(before.size());
  if (site.size() <= behind.size()) return {};
  return whole_number<int>(site.substr(0, site.size() - behind.size()));
}

// What a layer's edit is, or why there is none.
struct Made {
  std::optional<Intervention> edit = {};
  std::exception_ptr why = {};
};

// Vectors of the tokens, [token, d_model], by layer.
std::map<int, mx::array> vectors_of(
    const LensCall& call,
    const EditOptions& options,
    const std::optional<std::vector<int>>& asked) {
  const auto& model = *options.model;
  std::vector<int> tokens;
  for (const auto& token : call.tokens)
    tokens.push_back(parse_token(model, token, {.name = options.name}));
  std::map<int, mx::array> out;
  const auto known = LensDirections::is_file(call.file)
                         ? std::optional(LensDirections::load(call.file))
                         : std::nullopt;
  if (known) {
    known->check_fits(model);
    for (size_t i = 0; i < tokens.size(); ++i)
      if (std::ranges::find(known->tokens, tokens[i]) == known->tokens.end())
        fail(
            ErrorKind::usage,
            "[{}] {}: '{}' has no direction of '{}'; it has those of tokens {}",
            options.name,
            call.word,
            printable(call.file),
            printable(call.tokens[i]),
            fmt::join(known->tokens, ", "));
    for (const int layer : asked.value_or(known->layers))
      out.emplace(layer, known->at(tokens, layer));
    return out;
  }
  const auto lens = JacobianLens::load(call.file);
  lens.check_fits(model);
  for (const int layer : asked.value_or(lens.layers))
    out.emplace(layer, lens.directions(model, tokens, layer));
  return out;
}

Intervention made_of(
    const LensCall& call,
    const EditOptions& options,
    const mx::array& vectors,
    int layer) {
  const auto vector = [&](int i) {
    return mx::reshape(
        mx::slice(vectors, {i, 0}, {i + 1, vectors.shape(1)}), {-1});
  };
  if (call.word == "lens_steer")
    return lens_steer(vector(0), call.strength.value_or(4.0f));
  if (call.word == "lens_ablate") return lens_ablate(vectors);
  const auto strength = call.strength.value_or(1.0f);
  if (call.word == "lens_swap")
    return lens_swap(vector(0), vector(1), strength);
  auto clean =
      options.read(call.run, fmt::format("layers.{}.resid_post", layer));
  if (clean.ndim() == 3 && clean.shape(0) == 1) clean = mx::squeeze(clean, 0);
  return lens_clamp(vector(0), vector(1), clean, strength);
}

}  // namespace

Intervention lens_edit(
    const LensCall& call,
    const EditOptions& options,
    const std::vector<std::string>& sites) {
  const auto word = call.word;
  const auto name = std::string(options.name);
  const auto reach = word == "lens_ablate" || word == "lens_swap"
                         ? Intervention::Reach::value
                         : Intervention::Reach::sequence;
  if (!options.model)
    return Intervention(
        [word, name](const mx::array&, const SiteView&) -> mx::array {
          fail(
              ErrorKind::usage,
              "[{}] {} takes vectors of a model; read the text with it",
              name,
              word);
        },
        reach);
  const auto elsewhere = [word, name](std::string_view site) {
    fail(
        ErrorKind::usage,
        "[{}] {} stands at layers.N.resid_post, where a lens reads, not at "
        "'{}'",
        name,
        word,
        printable(site));
  };
  std::vector<int> layers;
  for (const auto& site : sites) {
    const auto layer = layer_of(site);
    if (!layer) elsewhere(site);
    layers.push_back(*layer);
  }
  std::map<int, Made> made;
  for (const auto& [layer, vectors] : vectors_of(
           call,
           options,
           sites.empty() ? std::nullopt : std::optional(layers))) {
    if (!sites.empty()) {
      made[layer].edit = made_of(call, options, vectors, layer);
      continue;
    }
    try {
      made[layer].edit = made_of(call, options, vectors, layer);
    } catch (const Error&) {
      made[layer].why = std::current_exception();
    }
  }
  return Intervention(
      [made, elsewhere, word, name, file = call.file](
          const mx::array& x, const SiteView& at) -> mx::array {
        const auto layer = layer_of(at.name);
        if (!layer) elsewhere(at.name);
        const auto found = made.find(*layer);
        if (found == made.end())
          fail(
              ErrorKind::out_of_range,
              "[{}] {}: '{}' has no layer {}",
              name,
              word,
              printable(file),
              *layer);
        if (!found->second.edit) std::rethrow_exception(found->second.why);
        return (*found->second.edit)(x, at);
      },
      reach);
}

}  // namespace mlxterp::spec
