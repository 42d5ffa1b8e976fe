#include "mlxterp/analysis/steer_sweep.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "analysis/any_model.h"
#include "analysis/measured.h"
#include "analysis/random.h"
#include "analysis/readout.h"
#include "analysis/steered_runs.h"
#include "analysis/steering_checks.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

size_t size(int n) {
  return static_cast<size_t>(n);
}

// Along any axis of space as likely as along any other, of length 1.
mx::array random_direction(Random& random, int width) {
  constexpr size_t steps = size_t{1} << 53;
  const auto uniform = [&] {
    return (static_cast<double>(random.below(steps)) + 0.5) /
           static_cast<double>(steps);
  };
  std::vector<double> values;
  double squares = 0;
  for (int i = 0; i < width; ++i) {
    values.push_back(
        std::sqrt(-2 * std::log(uniform())) *
        std::cos(2 * std::numbers::pi * uniform()));
    squares += values.back() * values.back();
  }
  std::vector<float> unit;
  for (const double value : values)
    unit.push_back(static_cast<float>(value / std::sqrt(squares)));
  return mx::array(unit.data(), {width}, mx::float32);
}

// Of the least-squares line.
double slope(const std::vector<float>& x, const std::vector<double>& y) {
  double mean_x = 0, mean_y = 0;
  const auto n = static_cast<double>(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    mean_x += static_cast<double>(x[i]) / n;
    mean_y += y[i] / n;
  }
  double both = 0, own = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = static_cast<double>(x[i]) - mean_x;
    both += dx * (y[i] - mean_y);
    own += dx * dx;
  }
  return both / own;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values)
    sum += value;
  return sum / static_cast<double>(values.size());
}

// What is read of a run of the neutral text.
struct SideEffects {
  double loss = 0, kl = 0;
};

class Sweeper {
 public:
  Sweeper(
      const InterpretableModel& model,
      const SteeringVector& vector,
      const SteerSweepOptions& options)
      : model_(model),
        options_(options),
        prompts_(model.token_ids(options.prompts)),
        plain_(options.one_pass_per_cell || !decoder_of(model)) {
    check(vector);
    for (size_t i = 0; i < prompts_.size(); ++i)
      metrics_.push_back(readout(model, options.metric, i, prompts_.size()));
    for (size_t i = 0; i < prompts_.size(); ++i) {
      metrics_[i].position_in(static_cast<int>(prompts_[i].size()));
      check_positions(prompts_[i].size(), "prompt", i);
    }
    if (options.neutral) neutral_ = model.token_ids(*options.neutral);
    for (size_t i = 0; i < neutral_.size(); ++i) {
      if (neutral_[i].size() < 2)
        fail(
            ErrorKind::usage,
            "[steer_sweep] neutral text {} has one token; its perplexity takes "
            "two",
            i);
      check_positions(neutral_[i].size(), "neutral text", i);
    }
    plan(vector);
  }

  SteeringSweep sweep() {
    out_.strengths = options_.strengths;
    out_.prompts = prompts_.size();
    out_.metric.assign(out_.layers.size() * strengths() * prompts_.size(), 0);
    random_.assign(
        out_.layers.size() * size(options_.random),
        std::vector<double>(prompts_.size()));
    out_.slopes.assign(out_.layers.size() * prompts_.size(), 0);
    for (const auto& ids : prompts_)
      total_ += static_cast<double>(ids.size() * pushes_.size());
    for (const auto& ids : neutral_)
      total_ += static_cast<double>(ids.size() * own_.size());
    for (size_t i = 0; i < prompts_.size(); ++i)
      read_prompt(i);
    read_neutral();
    summarise();
    if (options_.progress) options_.progress("Steering", 1);
    return std::move(out_);
  }

 private:
  // Of all directions of a layer, the vector's before those at random.
  struct Cell {
    size_t layer, direction, strength;
  };

  size_t strengths() const { return options_.strengths.size(); }
  size_t directions() const { return 1 + size(options_.random); }

  void check(const SteeringVector& vector) const {
    const auto& o = options_;
    if (vector.operation != SteeringOperation::add)
      fail(
          ErrorKind::usage,
          "[steer_sweep] the vector is meant for '{}'; only one that is added "
          "has strengths to sweep over",
          name(vector.operation));
    vector.check_fits(model_, o.any_model);
    if (prompts_.empty()) fail(ErrorKind::usage, "[steer_sweep] no prompts");
    auto different = o.strengths;
    std::ranges::sort(different);
    different.erase(
        std::unique(different.begin(), different.end()), different.end());
    if (different.size() < 2 || different.size() < o.strengths.size() ||
        !std::ranges::all_of(
            different, [](float x) { return std::isfinite(x); }))
      fail(
          ErrorKind::usage,
          "[steer_sweep] {} strengths, {} of them different; give two finite "
          "ones at least, each once",
          o.strengths.size(),
          different.size());
    constexpr int most_random = 1000, most_resamples = 1'000'000;
    if (o.random < 0 || o.random > most_random || o.resamples < 100 ||
        o.resamples > most_resamples)
      fail(
          ErrorKind::usage,
          "[steer_sweep] {} random directions and {} resamples; give 0 to {} "
          "and 100 to {}",
          o.random,
          o.resamples,
          most_random,
          most_resamples);
  }

  void check_positions(size_t length, const char* what, size_t i) const {
    const int n = static_cast<int>(length);
    for (const int position : options_.positions)
      if (position < -n || position >= n)
        fail(
            ErrorKind::out_of_range,
            "[steer_sweep] position {} of {} {}, which has {} tokens",
            position,
            what,
            i,
            n);
  }

  // What is added, by layer.
  void plan(const SteeringVector& vector) {
    auto chosen = options_.layers;
    for (auto& layer : chosen)
      if (layer < 0) layer += layer_count(model_);
    Random random(options_.seed);
    const auto swept = vector.of_layers(chosen);
    for (const auto& it : swept.layers) {
      check_norm(it, "steer_sweep");
      for (const float strength : options_.strengths)
        check_length(strength * it.residual_norm, "steer_sweep");
      std::vector<mx::array> units = {unit_of(it.direction, "steer_sweep")};
      for (int k = 0; k < options_.random; ++k)
        units.push_back(random_direction(random, vector.d_model()));
      for (size_t d = 0; d < units.size(); ++d)
        for (size_t s = 0; s < strengths(); ++s) {
          if (options_.strengths[s] == 0) continue;
          const Push push{
              it.layer,
              mx::multiply(
                  units[d],
                  mx::array(options_.strengths[s] * it.residual_norm))};
          pushes_.push_back(push);
          cells_.push_back({out_.layers.size(), d, s});
          if (d > 0) continue;
          own_.push_back(push);
          own_cells_.push_back(cells_.back());
        }
      SteerResponse response;
      response.layer = it.layer;
      response.residual_norm = it.residual_norm;
      out_.layers.push_back(response);
    }
  }

  // [pos, 1], where not every position is steered.
  std::optional<mx::array> mask(size_t length) const {
    if (options_.positions.empty()) return {};
    const int n = static_cast<int>(length);
    std::vector<float> on(length, 0);
    for (const int position : options_.positions)
      on[size(position < 0 ? n + position : position)] = 1;
    return mx::array(on.data(), {n, 1}, mx::float32);
  }

  void tell(double part, double weight) const {
    if (options_.progress)
      options_.progress("Steering", (done_ + part * weight) / total_);
  }

  SteeredRuns runs(
      const std::vector<int>& ids, const std::vector<Push>& pushes) const {
    const auto weight = static_cast<double>(ids.size() * pushes.size());
    SteeredRuns out{.model = model_, .ids = ids, .pushes = pushes};
    out.mask = mask(ids.size());
    out.progress = [this, weight](double part) { tell(part, weight); };
    return out;
  }

  // Logits [1, pos, vocab] of a whole pass.
  mx::array pass(const std::vector<int>& ids, const Push* push) {
    RunOptions run{.save = {"logits"}};
    if (push) {
      auto added = add_vector(push->vector);
      if (!options_.positions.empty()) {
        auto positions = options_.positions;
        for (auto& position : positions)
          if (position < 0) position += static_cast<int>(ids.size());
        std::ranges::sort(positions);
        positions.erase(
            std::unique(positions.begin(), positions.end()), positions.end());
        added = at_positions(std::move(positions), std::move(added));
      }
      run.edits.push_back(
          {fmt::format("layers.{}.resid_post", push->layer), added});
    }
    out_.rows += ids.size() * size(layer_count(model_));
    return model_.run(ids, run)["logits"];
  }

  // The metric of the unsteered run, and of each push.
  std::pair<float, std::vector<float>> metric_of(size_t prompt) {
    const auto& ids = prompts_[prompt];
    const auto& metric = metrics_[prompt];
    std::vector<float> values(pushes_.size());
    float unsteered = 0;
    std::optional<mx::array> reference;
    if (plain_) {
      const auto logits = pass(ids, nullptr);
      if (metric.needs_reference()) reference = metric.row_of(logits);
      unsteered = metric.of_run(logits, ids, reference);
      const auto weight = static_cast<double>(ids.size());
      for (size_t i = 0; i < pushes_.size(); ++i) {
        values[i] = metric.of_run(pass(ids, &pushes_[i]), ids, reference);
        tell(static_cast<double>(i + 1), weight);
      }
      return {unsteered, values};
    }
    const auto read = [&](size_t first, const mx::array& x) {
      if (metric.needs_reference() && !reference) {
        const auto run = mx::slice(x, {0, 0, 0}, {1, x.shape(1), x.shape(2)});
        reference = mx::squeeze(
            logits_at_end(model_, run, static_cast<int>(ids.size()), metric),
            0);
        reference->eval();
      }
      auto found = mx::contiguous(measured(model_, x, ids, metric, reference));
      found.eval();
      const auto* all = found.data<float>();
      if (first == 0) unsteered = all[0];
      std::copy(
          all + 1,
          all + found.size(),
          values.begin() + static_cast<long>(first));
    };
    out_.rows += runs(ids, pushes_).walk(read);
    return {unsteered, values};
  }

  void read_prompt(size_t prompt) {
    const auto [unsteered, values] = metric_of(prompt);
    const size_t n = prompts_.size();
    out_.unsteered.push_back(unsteered);
    std::vector<std::vector<double>> curves(
        out_.layers.size() * directions(),
        std::vector<double>(strengths(), static_cast<double>(unsteered)));
    for (size_t i = 0; i < cells_.size(); ++i) {
      const auto& cell = cells_[i];
      curves[cell.layer * directions() + cell.direction][cell.strength] =
          static_cast<double>(values[i]);
    }
    for (size_t l = 0; l < out_.layers.size(); ++l)
      for (size_t d = 0; d < directions(); ++d) {
        const auto& curve = curves[l * directions() + d];
        for (size_t s = 0; s < strengths(); ++s)
          if (!std::isfinite(curve[s]))
            fail(
                ErrorKind::usage,
                "[steer_sweep] {} is {} at layer {}, strength {}, prompt {}; "
                "use smaller strengths, or load the model in float32",
                options_.metric.name,
                curve[s],
                out_.layers[l].layer,
                options_.strengths[s],
                prompt);
        const double found = slope(options_.strengths, curve);
        if (d > 0) {
          random_[l * size(options_.random) + d - 1][prompt] = found;
          continue;
        }
        out_.slopes[l * n + prompt] = static_cast<float>(found);
        for (size_t s = 0; s < strengths(); ++s)
          out_.metric[(l * strengths() + s) * n + prompt] =
              static_cast<float>(curve[s]);
      }
    done_ += static_cast<double>(prompts_[prompt].size() * pushes_.size());
  }

  // Of logits [pos, vocab], float32. `before`: log-probabilities of the run
  // that is not steered, [pos, vocab].
  static SideEffects side_effects(
      const mx::array& logits,
      const mx::array& before,
      const std::vector<int>& ids) {
    const auto after =
        mx::subtract(logits, mx::logsumexp(logits, -1, /*keepdims=*/true));
    const int n = static_cast<int>(ids.size());
    const mx::array next(ids.data() + 1, {n - 1, 1}, mx::int32);
    const auto said = mx::take_along_axis(
        mx::slice(after, {0, 0}, {n - 1, after.shape(1)}), next, 1);
    auto loss = mx::negative(mx::mean(said));
    auto kl = mx::mean(mx::sum(
        mx::multiply(mx::exp(before), mx::subtract(before, after)), -1));
    mx::eval(loss, kl);
    return {
        static_cast<double>(loss.item<float>()),
        static_cast<double>(kl.item<float>())};
  }

  void read_neutral() {
    if (neutral_.empty()) return;
    std::vector<SideEffects> sums(own_.size());
    double unsteered = 0, predicted = 0, all = 0;
    for (const auto& ids : neutral_) {
      const int n = static_cast<int>(ids.size());
      const double next = n - 1, positions = n;
      std::optional<mx::array> before;
      const auto take = [&](std::optional<size_t> cell,
                            const mx::array& logits) {
        const auto flat = mx::squeeze(mx::astype(logits, mx::float32), 0);
        if (!cell) {
          before =
              mx::subtract(flat, mx::logsumexp(flat, -1, /*keepdims=*/true));
          before->eval();
          unsteered += next * side_effects(flat, *before, ids).loss;
          return;
        }
        const auto found = side_effects(flat, *before, ids);
        sums[*cell].loss += next * found.loss;
        sums[*cell].kl += positions * found.kl;
      };
      if (plain_) {
        take({}, pass(ids, nullptr));
        for (size_t i = 0; i < own_.size(); ++i)
          take(i, pass(ids, &own_[i]));
      } else {
        out_.rows += runs(ids, own_).walk([&](size_t first,
                                              const mx::array& x) {
          for (int row = first == 0 ? 0 : 1; row < x.shape(0); ++row) {
            const auto one =
                mx::slice(x, {row, 0, 0}, {row + 1, x.shape(1), x.shape(2)});
            const auto logits =
                Stepper(model_, nullptr, {.lengths = {n}}).head(one);
            take(
                row == 0 ? std::nullopt : std::optional(first + size(row) - 1),
                logits);
          }
        });
      }
      predicted += next;
      all += positions;
      done_ += positions * static_cast<double>(own_.size());
    }
    out_.neutral_tokens = static_cast<size_t>(all);
    out_.neutral_perplexity =
        static_cast<float>(std::exp(unsteered / predicted));
    out_.perplexity.assign(
        out_.layers.size() * strengths(), out_.neutral_perplexity);
    out_.kl.assign(out_.layers.size() * strengths(), 0);
    for (size_t i = 0; i < own_.size(); ++i) {
      const auto at =
          own_cells_[i].layer * strengths() + own_cells_[i].strength;
      out_.perplexity[at] =
          static_cast<float>(std::exp(sums[i].loss / predicted));
      out_.kl[at] = static_cast<float>(sums[i].kl / all);
    }
  }

  void summarise() {
    const size_t n = prompts_.size();
    Random random(options_.seed);
    for (size_t l = 0; l < out_.layers.size(); ++l) {
      auto& layer = out_.layers[l];
      const std::vector<double> own(
          out_.slopes.begin() + static_cast<long>(l * n),
          out_.slopes.begin() + static_cast<long>((l + 1) * n));
      layer.slope = static_cast<float>(mean(own));
      layer.contrary = static_cast<float>(
          static_cast<double>(
              std::ranges::count_if(own, [](double x) { return x < 0; })) /
          static_cast<double>(n));
      std::vector<double> means(size(options_.resamples), 0);
      for (auto& value : means)
        for (size_t i = 0; i < n; ++i)
          value += own[random.below(n)] / static_cast<double>(n);
      std::ranges::sort(means);
      const auto share = [&](double part) {
        return static_cast<float>(means[static_cast<size_t>(
            std::lround(part * static_cast<double>(means.size() - 1)))]);
      };
      layer.low = share(0.025);
      layer.high = share(0.975);
      layer.random = std::numeric_limits<float>::quiet_NaN();
      for (size_t k = 0; k < size(options_.random); ++k) {
        const auto found =
            static_cast<float>(mean(random_[l * size(options_.random) + k]));
        out_.random_slopes.push_back(found);
        if (!(std::abs(found) <= layer.random))  // also the first
          layer.random = std::abs(found);
      }
    }
  }

  const InterpretableModel& model_;
  const SteerSweepOptions& options_;
  Inputs::Rows prompts_, neutral_;
  bool plain_;
  std::vector<Readout> metrics_;
  std::vector<Push> pushes_, own_;
  std::vector<Cell> cells_, own_cells_;
  std::vector<std::vector<double>> random_;  // [layer, direction][prompt]
  SteeringSweep out_;
  double total_ = 0, done_ = 0;
};

}  // namespace

std::vector<float> SteeringSweep::change() const {
  std::vector<float> out;
  for (size_t i = 0; i < layers.size() * strengths.size(); ++i) {
    double sum = 0;
    for (size_t p = 0; p < prompts; ++p)
      sum += static_cast<double>(metric[i * prompts + p]) -
             static_cast<double>(unsteered[p]);
    out.push_back(static_cast<float>(sum / static_cast<double>(prompts)));
  }
  return out;
}

SteeringSweep steer_sweep(
    const InterpretableModel& model,
    const SteeringVector& vector,
    const SteerSweepOptions& options) {
  return Sweeper(model, vector, options).sweep();
}

}  // namespace mlxterp
