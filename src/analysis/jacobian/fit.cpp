#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "analysis/any_model.h"
#include "analysis/jacobian/source.h"
#include "analysis/jacobian/sums.h"
#include "analysis/linear/whole_walk.h"
#include "core/fail.h"
#include "core/kept_memory.h"
#include "core/lanes.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using jacobian::caller;
using jacobian::Sums;
using Clock = std::chrono::steady_clock;

constexpr auto between_checkpoints = std::chrono::seconds(30);

// The mean over sources of rows that are differentiated at every position that
// counts, [row, d_model] of each layer asked for; `layers` ascend and end
// before the last.
std::vector<mx::array> means_of_rows(
    const InterpretableModel& model,
    const HeldSites& held,
    const std::vector<int>& ids,
    const mx::array& rows,
    const std::vector<int>& layers,
    const JacobianOptions& options) {
  if (layers.empty()) return {};
  const LinearRun run(model, ids, held);
  std::vector<std::vector<mx::array>> pieces(layers.size());
  walk_down(
      run,
      rows,
      {options.skip, run.positions() - 1},
      layers.front(),
      options.memory,
      [&](int layer, int, const mx::array& x) {
        const auto found = std::ranges::find(layers, layer);
        if (found == layers.end()) return;
        auto mean = mx::mean(x, 0);
        mean.eval();
        pieces[static_cast<size_t>(found - layers.begin())].push_back(
            std::move(mean));
      });
  std::vector<mx::array> out;
  for (auto& piece : pieces)
    out.push_back(
        piece.size() == 1 ? piece[0] : mx::concatenate(std::move(piece), 0));
  return out;
}

// The sums to begin with: of the checkpoint, or none.
Sums begun(
    const JacobianSource& source,
    const std::vector<int>& layers,
    int d_model,
    const JacobianOptions& options) {
  Sums none(source, layers, d_model);
  std::error_code ignored;
  if (options.checkpoint.empty() || !options.resume ||
      !std::filesystem::exists(options.checkpoint, ignored))
    return none;
  auto found = Sums::load(options.checkpoint);
  auto differs = jacobian::difference(found.source, source);
  // The published code's sums do not say of which prompts they are.
  if (differs.empty() && !found.source.corpus.empty() &&
      found.source.corpus != source.corpus)
    differs = "other prompts";
  if (differs.empty() && found.layers != layers)
    differs = fmt::format(
        "layers {} and {}",
        fmt::join(found.layers, ","),
        fmt::join(layers, ","));
  if (!differs.empty())
    fail(
        ErrorKind::usage,
        "[{}] '{}' is of another fit: {}; ask for the same, or name another "
        "file",
        caller,
        printable(options.checkpoint.string()),
        differs);
  const auto prompts = found.source.prompts;
  found.source = source;
  found.source.prompts = prompts;
  return found;
}

bool settled(const Sums& sums, const JacobianOptions& options) {
  const auto n = sums.changes.size();
  if (options.tolerance <= 0 || options.window == 0 || n < options.window ||
      sums.source.prompts < options.least)
    return false;
  double total = 0;
  for (size_t i = n - options.window; i < n; ++i)
    total += static_cast<double>(sums.changes[i]);
  return total / static_cast<double>(options.window) <
         static_cast<double>(options.tolerance);
}

void check_finite(const std::vector<mx::array>& values, size_t prompt) {
  for (const auto& it : values)
    if (!mx::all(mx::isfinite(it)).item<bool>())
      fail(
          ErrorKind::usage,
          "[{}] the Jacobian of prompt {} is not finite; does the model "
          "overflow in this precision?",
          caller,
          prompt);
}

}  // namespace

JacobianFit fit_jacobian_lens(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const JacobianOptions& options) {
  const HeldSites held(model, options.rule);
  const auto source = jacobian::source_of(model, prompts, options);
  const auto layers = jacobian::chosen_layers(
      options.layers, source.model_layers, source.target_layer);
  const int d_model = residual_width(model);
  auto sums = begun(source, layers, d_model, options);
  const auto rows = mx::eye(d_model);
  const KeptMemory kept;
  auto written = Clock::now();
  const auto keep = [&] {
    if (!options.checkpoint.empty()) sums.save(options.checkpoint);
    written = Clock::now();
  };
  bool done = settled(sums, options);
  while (!done && sums.source.prompts < prompts.size()) {
    const auto i = sums.source.prompts;
    if (options.progress)
      options.progress(
          "Fitting",
          static_cast<double>(i) / static_cast<double>(prompts.size()));
    const auto jacobians =
        means_of_rows(model, held, prompts[i], rows, layers, options);
    check_finite(jacobians, i);
    sums.add(jacobians);
    if (options.on_prompt)
      options.on_prompt(i, sums.changes.empty() ? NAN : sums.changes.back());
    done = settled(sums, options);
    if (Clock::now() - written > between_checkpoints) keep();
    if (options.stop && options.stop()) break;
  }
  keep();
  JacobianFit fit{.lens = sums.lens(), .changes = sums.changes};
  fit.lens.source.converged = done;
  mx::eval(fit.lens.matrices);
  return fit;
}

LensDirections lens_directions(
    const InterpretableModel& model,
    const std::vector<int>& tokens,
    const Inputs::Rows& prompts,
    const JacobianOptions& options) {
  const auto rows = jacobian::unembedding_of(model, tokens);
  const HeldSites held(model, options.rule);
  const auto source = jacobian::source_of(model, prompts, options);
  LensDirections out{
      .layers = jacobian::chosen_layers(
          options.layers, source.model_layers, source.model_layers),
      .tokens = tokens,
      .directions = {},
      .source = source};
  auto below = out.layers;
  const bool last = below.back() == source.target_layer;
  if (last) below.pop_back();
  const auto begin = [&](size_t i) {
    if (options.progress)
      options.progress(
          "Walking down",
          static_cast<double>(i) / static_cast<double>(prompts.size()));
    if (options.stop && options.stop())
      fail(ErrorKind::usage, "[{}] stopped; nothing was kept", caller);
  };
  const auto add = [&](size_t i, const std::vector<mx::array>& some) {
    check_finite(some, i);
    for (size_t l = 0; l < some.size(); ++l)
      if (i == 0)
        out.directions.push_back(some[l]);
      else
        out.directions[l] = mx::add(out.directions[l], some[l]);
    mx::eval(out.directions);
  };
  const auto count = below.empty() ? 0 : prompts.size();
  constexpr int most_lanes = 3;
  if (walks_whole(
          model, rows.shape(0), source.length, options.memory / most_lanes)) {
    Lanes(most_lanes)
        .each(
            count,
            [&](size_t i) {
              begin(i);
              const int length = static_cast<int>(prompts[i].size());
              auto some = walk_whole(
                  model,
                  prompts[i],
                  held,
                  rows,
                  {options.skip, length - 1},
                  below);
              for (auto& it : some)
                it = mx::mean(it, 1);
              return some;
            },
            add);
  } else {
    for (size_t i = 0; i < count; ++i) {
      begin(i);
      add(i, means_of_rows(model, held, prompts[i], rows, below, options));
    }
  }
  for (auto& it : out.directions)
    it = mx::divide(it, mx::array(static_cast<float>(prompts.size())));
  if (last) out.directions.push_back(rows);
  out.source.prompts = prompts.size();
  mx::eval(out.directions);
  return out;
}

Inputs::Rows lens_prompts(
    const InterpretableModel& model,
    std::string_view text,
    int length,
    int least) {
  const auto& tokenizer = model.tokenizer();
  // What a text begins with, where the tokenizer adds something.
  std::vector<int> start;
  const auto ids = tokenizer.encode(text);
  if (const auto bos = tokenizer.bos(); bos && !ids.empty() && ids[0] == *bos)
    start.push_back(*bos);
  if (length <= static_cast<int>(start.size()) || length < least)
    fail(
        ErrorKind::usage,
        "[{}] prompts of {} tokens; give {} at least",
        caller,
        length,
        std::max(least, static_cast<int>(start.size()) + 1));
  Inputs::Rows out;
  const auto step = static_cast<size_t>(length) - start.size();
  for (size_t at = start.size(); at < ids.size(); at += step) {
    auto prompt = start;
    const auto end = std::min(ids.size(), at + step);
    prompt.insert(
        prompt.end(),
        ids.begin() + static_cast<std::ptrdiff_t>(at),
        ids.begin() + static_cast<std::ptrdiff_t>(end));
    if (static_cast<int>(prompt.size()) < least) break;
    out.push_back(std::move(prompt));
  }
  if (out.empty())
    fail(
        ErrorKind::usage,
        "[{}] the text has {} tokens; a prompt takes {} at least: skip fewer "
        "positions, or give a longer text",
        caller,
        ids.size(),
        least);
  return out;
}

}  // namespace mlxterp
