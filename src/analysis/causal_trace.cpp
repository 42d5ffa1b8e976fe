#include "mlxterp/analysis/causal_trace.h"

#include <algorithm>
#include <cmath>

#include "analysis/grid.h"
#include "analysis/means.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "analysis/wavefront/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/analysis/lens.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// The tokens that a text touches, in the prompt where it stands first.
std::vector<int> positions_of(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::string& text) {
  if (text.empty())
    fail(ErrorKind::usage, "[causal_trace] the subject is empty");
  const auto& tokenizer = model.tokenizer();
  std::vector<size_t> ends;
  for (size_t i = 1; i <= ids.size(); ++i)
    ends.push_back(tokenizer.decode(std::span(ids).first(i), true).size());
  const auto whole = tokenizer.decode(ids, true);
  const auto at = whole.find(text);
  if (at == std::string::npos)
    fail(
        ErrorKind::usage,
        "[causal_trace] the subject '{}' is not in the prompt '{}'; write it "
        "exactly as in the prompt",
        printable(text),
        printable(whole));
  // A token that brings no more of it than the space before does not count.
  std::vector<int> positions;
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    if (begin < at + text.size() && ends[i] > at)
      positions.push_back(static_cast<int>(i));
  }
  return positions;
}

// Of all its numbers.
float deviation(const mx::array& x) {
  const auto wide = mx::astype(x, mx::float32);
  return mx::sqrt(mx::var(wide)).item<float>();
}

void check(const CausalTraceOptions& options) {
  if (options.samples < 1)
    fail(
        ErrorKind::usage,
        "[causal_trace] {} samples of noise; use at least one",
        options.samples);
  if (options.window < 1)
    fail(
        ErrorKind::usage,
        "[causal_trace] a window of {} layers; use at least one",
        options.window);
  if (!(options.noise > 0) || !std::isfinite(options.noise))
    fail(
        ErrorKind::usage,
        "[causal_trace] noise of {} standard deviations corrupts nothing",
        options.noise);
}

}  // namespace

CausalTrace causal_trace(
    const InterpretableModel& model, const CausalTraceOptions& options) {
  check(options);
  const auto prompts = model.token_ids(options.prompt);
  if (prompts.size() != 1)
    fail(
        ErrorKind::usage,
        "[causal_trace] {} prompts given; it traces one",
        prompts.size());
  const auto& ids = prompts[0];
  const auto subject = positions_of(model, ids, options.subject);
  const auto site = layer_site(model, options.site);
  if (site.pattern)
    fail(
        ErrorKind::usage,
        "[causal_trace] patterns cannot be restored; use attn_out or z");
  const auto grid = make_grid(
      model,
      site,
      {{Axis::position, Axis::layer},
       options.layers,
       options.positions,
       {},
       {}},
      {ids.size()},
      "causal_trace");

  CausalTrace out;
  out.subject = subject;
  if (options.metric) {
    out.metric = *options.metric;
  } else {
    const auto logits = model.run(ids, {.save = {"logits"}})["logits"];
    const auto last = mx::take(logits, logits.shape(1) - 1, 1);
    const int top = mx::argmax(last).item<int>();
    out.metric = probability(top);
    out.metric.name = fmt::format("prob(id:{})", top);
  }
  const auto metric = readout(model, out.metric);
  check_length(metric, ids.size(), "causal_trace");

  const auto& decoder = model.decoder();
  const int layers = decoder.config().n_layers;
  const int length = static_cast<int>(ids.size());
  const mx::array row(ids.data(), {1, length}, mx::int32);
  const auto clean = Stepper(model, nullptr, {.lengths = {length}}).embed(row);
  const float sigma = options.noise * deviation(decoder.embed.weight) *
                      decoder.config().embed_scale *
                      decoder.config().embed_factor;
  std::vector<float> corrupted(ids.size());
  for (const int p : subject)
    corrupted[static_cast<size_t>(p)] = sigma;
  const mx::array where(corrupted.data(), {1, length, 1});

  Wavefront wave{
      .model = model,
      .runs = {{ids}},
      .sites = {{.ids = site.ids, .layout = site.layout}},
      .cells = {},
      .metric = metric,
      .memory = options.memory,
      .progress = options.progress,
  };
  auto key = mx::random::key(options.seed);
  for (int s = 0; s < options.samples; ++s) {
    const auto [next, own] = mx::random::split(key);
    key = next;
    const auto noise = mx::multiply(
        mx::random::normal(clean.shape(), mx::float32, 0, 1, own), where);
    wave.runs.push_back(
        {.ids = ids,
         .embedded = mx::add(clean, mx::astype(noise, clean.dtype())),
         .differs_from = subject.front()});
    for (const auto& cell : grid.cells) {
      auto& [run, changes] = wave.cells.emplace_back();
      run = s + 1;
      for (const auto& place : cell) {
        const int first =
            std::max(0, place.first_layer - (options.window - 1) / 2);
        const int last =
            std::min(layers - 1, place.last_layer + options.window / 2);
        changes.push_back(
            {.first_layer = first + site.shift,
             .last_layer = last + site.shift,
             .from = place.from,
             .to = place.to < 0 ? length - 1 : place.to,
             .unit = place.unit,
             .source = 0});
      }
    }
  }
  const auto result = wave.sweep();

  auto& sweep = out.sweep;
  sweep.axes = grid.axes;
  Averages averages(grid.cells.size());
  double corrupt = 0;
  for (int s = 0; s < options.samples; ++s) {
    const auto begin =
        result.cells.begin() +
        static_cast<long>(s * static_cast<long>(grid.cells.size()));
    averages.add(
        {begin, begin + static_cast<long>(grid.cells.size())},
        out.metric.name,
        "causal_trace");
    corrupt += static_cast<double>(result.runs[static_cast<size_t>(s) + 1]);
  }
  averages.put(sweep);
  sweep.clean = result.runs[0];
  sweep.corrupt = static_cast<float>(corrupt / options.samples);
  sweep.direction = Direction::denoise;
  sweep.pairs = static_cast<size_t>(options.samples);
  sweep.computed = result.computed;
  sweep.rows = result.rows;
  sweep.ids = ids;
  return out;
}

}  // namespace mlxterp
