#include "mlxterp/analysis/causal_trace.h"

#include <algorithm>
#include <cmath>

#include "analysis/any_model.h"
#include "analysis/grid.h"
#include "analysis/means.h"
#include "analysis/plain_sweep.h"
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

// A site's value for one token each: [token, d_model].
mx::array embedded(
    const InterpretableModel& model, int first, int end, const char* site) {
  Inputs::Rows rows;
  for (int id = first; id < end; ++id)
    rows.push_back({id});
  return mx::squeeze(model.run(rows, {.save = {site}})[site], 1);
}

// Of the token embeddings, in the units of what enters layer 0.
float embedding_deviation(const InterpretableModel& model) {
  const auto* decoder = decoder_of(model);
  if (decoder && decoder->embed.ln) {
    Pass pass;
    return deviation(
        (*decoder->embed.ln)(decoder->embed.weight.numbers(), pass));
  }
  if (decoder)
    return deviation(decoder->embed.weight.numbers()) *
           decoder->config().embed_scale * decoder->config().embed_factor;
  constexpr int some = 1024;
  const int vocab = vocabulary(model);
  double sum = 0, squares = 0, count = 0;
  for (int first = 0; first < vocab; first += some) {
    const auto part = mx::astype(
        embedded(model, first, std::min(first + some, vocab), "embed"),
        mx::float32);
    sum += static_cast<double>(mx::sum(part).item<float>());
    squares += static_cast<double>(mx::sum(mx::square(part)).item<float>());
    count += static_cast<double>(part.size());
  }
  const double mean = sum / count;
  const double all = std::sqrt(std::max(squares / count - mean * mean, 0.0));
  // What the model multiplies them by; what it adds is the same for all.
  const auto spread = [&](const char* site) {
    const auto x = mx::astype(
        embedded(model, 0, std::min(some, vocab), site), mx::float32);
    return deviation(mx::subtract(x, mx::mean(x, 0, true)));
  };
  return static_cast<float>(all) * spread(first_stream) / spread("embed");
}

// The progress of one of several samples.
Progress part_of(const Progress& progress, size_t part, size_t parts) {
  if (!progress) return {};
  return [=](std::string_view what, double done) {
    progress(
        what, (static_cast<double>(part) + done) / static_cast<double>(parts));
  };
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

  const bool walks = decoder_of(model) != nullptr;
  const int layers = layer_count(model);
  const int length = static_cast<int>(ids.size());
  const mx::array row(ids.data(), {1, length}, mx::int32);
  auto names = saved_names(site);
  names.emplace_back(first_stream);
  std::optional<ActivationCache> clean_run;
  if (!walks) clean_run = model.run(ids, {.save = names});
  const auto clean =
      walks ? Stepper(model, nullptr, {.lengths = {length}}).embed(row)
            : (*clean_run)[first_stream];
  const float sigma = options.noise * embedding_deviation(model);
  std::vector<float> corrupted(ids.size());
  for (const int p : subject)
    corrupted[static_cast<size_t>(p)] = sigma;
  const mx::array where(corrupted.data(), {1, length, 1});
  std::vector<mx::array> noise;  // of each sample
  auto key = mx::random::key(options.seed);
  for (int s = 0; s < options.samples; ++s) {
    const auto [next, own] = mx::random::split(key);
    key = next;
    const auto drawn =
        mx::random::normal(clean.shape(), mx::float32, 0, 1, own);
    noise.push_back(mx::astype(mx::multiply(drawn, where), clean.dtype()));
  }

  std::vector<std::vector<Place>> windows;  // what each cell restores
  for (const auto& cell : grid.cells)
    for (auto& place : windows.emplace_back(cell)) {
      place.first_layer =
          std::max(0, place.first_layer - (options.window - 1) / 2);
      place.last_layer =
          std::min(layers - 1, place.last_layer + options.window / 2);
      if (place.to < 0) place.to = length - 1;
    }

  const auto walked = [&] {
    Wavefront wave{
        .model = model,
        .runs = {{ids}},
        .sites = {{.ids = site.ids, .layout = site.layout}},
        .cells = {},
        .metric = metric,
        .memory = options.memory,
        .progress = options.progress,
    };
    for (size_t s = 0; s < noise.size(); ++s) {
      wave.runs.push_back(
          {.ids = ids,
           .embedded = mx::add(clean, noise[s]),
           .differs_from = subject.front()});
      for (const auto& cell : windows) {
        auto& [run, changes] = wave.cells.emplace_back();
        run = static_cast<int>(s) + 1;
        for (const auto& place : cell)
          changes.push_back(
              {.first_layer = place.first_layer + site.shift,
               .last_layer = place.last_layer + site.shift,
               .from = place.from,
               .to = place.to,
               .unit = place.unit,
               .source = 0});
      }
    }
    return wave.sweep();
  };
  const auto by_passes = [&] {
    std::optional<mx::array> reference;
    if (metric.needs_reference())
      reference = metric.row_of((*clean_run)["logits"]);
    const PlainSource source{site_values(site, *clean_run)};
    Wavefront::Result all;
    all.runs = {metric.of_run((*clean_run)["logits"], ids, reference)};
    for (size_t s = 0; s < noise.size(); ++s) {
      const auto noisy = model.with({{first_stream, add_vector(noise[s])}});
      all.runs.push_back(metric.of_run(
          noisy.run(ids, {.save = {"logits"}})["logits"], ids, reference));
      const auto one =
          PlainSweep{
              .model = noisy,
              .site = site,
              .metric = metric,
              .ids = ids,
              .cells = windows,
              .source = source,
              .reference = reference,
              .what = "Restoring",
              .progress = part_of(options.progress, s, noise.size())}
              .sweep();
      all.cells.insert(all.cells.end(), one.cells.begin(), one.cells.end());
      all.computed += one.computed;
      all.rows += one.rows;
    }
    return all;
  };
  const auto result = walks ? walked() : by_passes();

  auto& sweep = out.sweep;
  sweep.axes = grid.axes;
  Averages averages(grid.cells.size());
  double corrupt = 0;
  const auto cells = static_cast<long>(grid.cells.size());
  for (int s = 0; s < options.samples; ++s) {
    const auto first = result.cells.begin() + s * cells;
    averages.add({first, first + cells}, out.metric.name, "causal_trace");
    if (!result.inert.empty()) {  // as after plain passes
      const auto inert = result.inert.begin() + s * cells;
      averages.add_inert({inert, inert + cells});
    }
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
