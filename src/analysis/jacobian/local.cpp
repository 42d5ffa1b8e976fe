#include "mlxterp/analysis/local_lens.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/fingerprint.h"
#include "analysis/jacobian/source.h"
#include "analysis/jacobian/sums.h"
#include "analysis/linear/whole_walk.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// [token, pos] of [token, pos, d_model] and [token, d_model].
mx::array cosine(const mx::array& local, const mx::array& mean) {
  const auto length = [](const mx::array& x) {
    return mx::sqrt(mx::sum(mx::square(x), -1));
  };
  const auto whole = mx::expand_dims(mean, 1);
  return mx::divide(
      mx::sum(mx::multiply(local, whole), -1),
      mx::multiply(length(local), length(whole)));
}

}  // namespace

LocalLens local_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::vector<int>& tokens,
    const LocalLensOptions& options) {
  const auto rows = jacobian::unembedding_of(model, tokens);
  const HeldSites held(model, options.rule);
  const int length = static_cast<int>(ids.size());
  if (options.skip < 0 || options.skip >= length)
    fail(
        ErrorKind::usage,
        "[local_lens] of {} tokens {} are skipped; leave one at least",
        length,
        options.skip);
  if (options.lens) options.lens->check_fits(model);
  static_cast<void>(model.token_ids({ids}));  // checks them
  LocalLens out{
      .layers = {},
      .tokens = tokens,
      .ids = ids,
      .directions = {},
      .cosines = {},
      .skip = options.skip};
  const int n = model.decoder().config().n_layers;
  out.layers = jacobian::chosen_layers(options.layers, n, n);
  const int positions = length - options.skip;
  const int d = rows.shape(1), k = rows.shape(0);
  std::vector<std::vector<mx::array>> pieces(out.layers.size());
  if (out.layers.front() < n - 1) {
    if (options.progress) options.progress("Walking down", 0);
    const PositionRange at{options.skip, length};
    if (walks_whole(model, k, length, options.memory)) {
      auto below = out.layers;
      if (below.back() == n - 1) below.pop_back();
      auto found = walk_whole(model, ids, held, rows, at, below);
      mx::eval(found);
      for (size_t l = 0; l < found.size(); ++l)
        pieces[l].push_back(std::move(found[l]));
    } else {
      walk_down(
          LinearRun(model, ids, held),
          rows,
          at,
          out.layers.front(),
          options.memory,
          [&](int layer, int, const mx::array& x) {
            const auto found = std::ranges::find(out.layers, layer);
            if (found == out.layers.end()) return;
            auto some = mx::contiguous(mx::swapaxes(x, 0, 1));
            some.eval();
            pieces[static_cast<size_t>(found - out.layers.begin())].push_back(
                std::move(some));
          });
    }
  }
  for (size_t l = 0; l < pieces.size(); ++l) {
    auto& piece = pieces[l];
    const bool last = out.layers[l] == n - 1;
    auto all =
        last ? mx::broadcast_to(mx::expand_dims(rows, 1), {k, positions, d})
             : mx::concatenate(std::move(piece), 0);
    if (!mx::all(mx::isfinite(all)).item<bool>())
      fail(
          ErrorKind::usage,
          "[local_lens] the derivatives of layer {} are not finite; does the "
          "model overflow in this precision?",
          out.layers[l]);
    if (options.lens) {
      const auto& lens = *options.lens;
      const bool known = last || lens.has(out.layers[l]);
      out.cosines.push_back(
          known
              ? cosine(
                    all,
                    last ? rows : lens.directions(model, tokens, out.layers[l]))
              : mx::full({k, positions}, mx::array(NAN)));
    }
    out.directions.push_back(mx::contiguous(all));
  }
  out.source = {
      .weights = weights_digest(model),
      .tokenizer = tokenizer_digest(model),
      .corpus = jacobian::digest_of({ids}),
      .model_layers = n,
      .target_layer = n - 1,
      .length = length,
      .skip = options.skip,
      .rule = options.rule,
      .prompts = 1};
  mx::eval(out.directions);
  mx::eval(out.cosines);
  return out;
}

void LocalLens::save(const std::filesystem::path& path, bool overwrite) const {
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (size_t l = 0; l < layers.size(); ++l)
    tensors.emplace_back(fmt::format("local.{}", layers[l]), directions[l]);
  for (size_t l = 0; l < cosines.size(); ++l)
    tensors.emplace_back(fmt::format("cosine.{}", layers[l]), cosines[l]);
  auto metadata = jacobian::to_metadata(source);
  metadata.emplace(jacobian::kind_key, "local_lens");
  metadata.emplace("tokens", nlohmann::json(tokens).dump());
  metadata.emplace("ids", nlohmann::json(ids).dump());
  save_safetensors(path, tensors, metadata, overwrite);
}

}  // namespace mlxterp
