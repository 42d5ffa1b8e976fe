#include "mlxterp/analysis/tuned_lens.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "core/fail.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/npz.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr size_t logits_budget = size_t{256} << 20;

std::string name_of(int layer, const char* part) {
  return fmt::format("translators_{}_{}", layer, part);
}

mx::array rows(const mx::array& x, int from, int to) {
  return mx::slice(x, {from, 0}, {to, x.shape(1)});
}

// W h + b, in float32.
mx::array translated(
    const mx::array& h, const mx::array& weight, const mx::array& bias) {
  return mx::addmm(bias, mx::astype(h, mx::float32), mx::transpose(weight));
}

// Logits of residuals in the model's dtype, as float32.
mx::array read(const Decoder& decoder, const mx::array& h) {
  Pass pass;
  return mx::astype(
      decoder.unembed(decoder.ln_final(h, pass), pass), mx::float32);
}

// A stretch of text as the model sees it.
struct Stretch {
  std::vector<mx::array> residuals;  // of each layer, [pos, d_model]
  int length = 0;
};

Stretch run(const InterpretableModel& model, std::vector<int> ids) {
  const int layers = model.decoder().config().n_layers;
  std::vector<std::string> save;
  for (int i = 0; i < layers; ++i)
    save.push_back(fmt::format("layers.{}.resid_post", i));
  Stretch out;
  out.length = static_cast<int>(ids.size());
  const auto values = model.run(std::move(ids), {.save = save});
  for (const auto& name : save)
    out.residuals.push_back(mx::squeeze(values[name], 0));
  return out;
}

int chunk_of(const InterpretableModel& model) {
  const auto row =
      static_cast<size_t>(model.decoder().config().vocab) * sizeof(float);
  return static_cast<int>(std::max<size_t>(1, logits_budget / row));
}

void check_length(
    const InterpretableModel& model, int length, const char* function) {
  const int context = model.decoder().config().context;
  if (length < 2 || length > context)
    fail(
        ErrorKind::usage,
        "[{}] stretches of {} tokens; take 2 to {}, the model's context",
        function,
        length,
        context);
}

// Of each W and b.
struct Gradients {
  std::vector<std::optional<mx::array>> weights, biases;
  double loss = 0;  // mean over layers and positions

  explicit Gradients(size_t layers) : weights(layers), biases(layers) {}

  static void add(std::optional<mx::array>& sum, const mx::array& part) {
    sum = sum ? mx::add(*sum, part) : part;
  }
};

// Of the mean over layers and positions of the KL divergence from what the last
// residual says to what each says through its translator.
Gradients gradients(
    const InterpretableModel& model,
    const TunedLens& lens,
    const Stretch& stretch) {
  const auto& decoder = model.decoder();
  const auto layers = stretch.residuals.size();
  Gradients out(layers);
  const float share =
      1.0f / static_cast<float>(layers) / static_cast<float>(stretch.length);
  const int step = chunk_of(model);
  for (int from = 0; from < stretch.length; from += step) {
    const int to = std::min(stretch.length, from + step);
    const auto target = read(decoder, rows(stretch.residuals.back(), from, to));
    const auto log_p =
        mx::subtract(target, mx::logsumexp(target, -1, /*keepdims=*/true));
    const auto p = mx::exp(log_p);
    mx::eval(log_p, p);
    for (size_t i = 0; i < layers; ++i) {
      const auto h = rows(stretch.residuals[i], from, to);
      const auto loss = [&](const std::vector<mx::array>& parameters)
          -> std::vector<mx::array> {
        const auto logits = read(
            decoder,
            mx::astype(translated(h, parameters[0], parameters[1]), h.dtype()));
        const auto log_q =
            mx::subtract(logits, mx::logsumexp(logits, -1, /*keepdims=*/true));
        // By row first: a sum of everything at once would round.
        const auto kl =
            mx::sum(mx::multiply(p, mx::subtract(log_p, log_q)), -1);
        return {mx::multiply(mx::sum(kl), mx::array(share))};
      };
      const auto [value, slopes] = mx::value_and_grad(
          loss, std::vector{0, 1})({lens.weights[i], lens.biases[i]});
      Gradients::add(out.weights[i], slopes[0]);
      Gradients::add(out.biases[i], slopes[1]);
      auto part = value[0];
      mx::eval(part, *out.weights[i], *out.biases[i]);
      out.loss += static_cast<double>(part.item<float>());
    }
  }
  return out;
}

// SGD with Nesterov's momentum, as torch and mlx.optimizers have it.
class Optimizer {
 public:
  Optimizer(const TunedLensOptions& options, size_t layers)
      : options_(options), weights_(layers), biases_(layers) {}

  void step(TunedLens& lens, Gradients& slopes, float rate) {
    auto squares = mx::array(0.0f);
    for (const auto* all : {&slopes.weights, &slopes.biases})
      for (const auto& slope : *all)
        squares = mx::add(squares, mx::sum(mx::square(*slope)));
    const float norm = std::sqrt(squares.item<float>());
    const float factor =
        norm > options_.clip ? options_.clip / (norm + 1e-6f) : 1.0f;
    std::vector<mx::array> all;
    for (size_t i = 0; i < weights_.size(); ++i) {
      move(lens.weights[i], weights_[i], *slopes.weights[i], factor, rate);
      move(lens.biases[i], biases_[i], *slopes.biases[i], factor, rate);
      all.insert(
          all.end(),
          {lens.weights[i], lens.biases[i], *weights_[i], *biases_[i]});
    }
    mx::eval(std::move(all));
  }

 private:
  void move(
      mx::array& parameter,
      std::optional<mx::array>& velocity,
      const mx::array& slope,
      float factor,
      float rate) const {
    const auto g = mx::multiply(slope, mx::array(factor));
    const mx::array momentum(options_.momentum);
    velocity = velocity ? mx::add(mx::multiply(momentum, *velocity), g) : g;
    parameter = mx::subtract(
        parameter,
        mx::multiply(
            mx::array(rate), mx::add(g, mx::multiply(momentum, *velocity))));
  }

  const TunedLensOptions& options_;
  std::vector<std::optional<mx::array>> weights_, biases_;
};

void check(const TunedLensOptions& options) {
  const auto positive = [](float x) { return std::isfinite(x) && x > 0; };
  if (options.steps < 1 || !positive(options.learning_rate) ||
      !positive(options.clip) || !(options.momentum >= 0) ||
      options.momentum >= 1)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] {} steps, learning rate {}, clip {}, momentum {}; "
        "take a step at least, positive rates, and a momentum from 0 to 1",
        options.steps,
        options.learning_rate,
        options.clip,
        options.momentum);
}

}  // namespace

TunedLens::TunedLens(int layers, int d_model) : d_model_(d_model) {
  if (layers < 1 || layers > limits::layers || d_model < 1 ||
      d_model > limits::d_model)
    fail(
        ErrorKind::usage,
        "[TunedLens] {} layers of {} features; take 1 to {} of 1 to {}",
        layers,
        d_model,
        limits::layers,
        limits::d_model);
  const auto identity = mx::eye(d_model);
  for (int i = 0; i < layers; ++i) {
    weights.push_back(identity);
    biases.push_back(mx::zeros({d_model}));
  }
}

mx::array TunedLens::operator()(const mx::array& h, int layer) const {
  if (layer < 0 || layer >= layers())
    fail(
        ErrorKind::out_of_range,
        "[TunedLens] layer {} is out of range; there are {}",
        layer,
        layers());
  if (h.ndim() < 1 || h.shape(-1) != d_model_)
    fail(
        ErrorKind::usage,
        "[TunedLens] a residual of {} features; this lens reads {}",
        h.ndim() < 1 ? 0 : h.shape(-1),
        d_model_);
  const auto i = static_cast<size_t>(layer);
  return mx::astype(translated(h, weights[i], biases[i]), h.dtype());
}

void TunedLens::check_fits(const InterpretableModel& model) const {
  const auto& config = model.decoder().config();
  if (layers() != config.n_layers || d_model_ != config.d_model)
    fail(
        ErrorKind::usage,
        "[TunedLens] it reads {} layers of {} features, the model has {} of "
        "{}; use the lens that was trained on this model",
        layers(),
        d_model_,
        config.n_layers,
        config.d_model);
}

void TunedLens::save(const std::filesystem::path& path, bool overwrite) const {
  auto arrays = path, config = path;
  arrays.replace_extension(".npz");
  config.replace_extension(".json");
  std::error_code ignored;
  if (!overwrite && std::filesystem::exists(config, ignored))
    fail(
        ErrorKind::usage,
        "[TunedLens] '{}' exists; choose another name or ask for it to be "
        "overwritten",
        printable(config.string()));
  std::vector<std::pair<std::string, mx::array>> named;
  for (int i = 0; i < layers(); ++i) {
    named.emplace_back(name_of(i, "weight"), weights[static_cast<size_t>(i)]);
    named.emplace_back(name_of(i, "bias"), biases[static_cast<size_t>(i)]);
  }
  save_npz(arrays, named, overwrite);
  const nlohmann::ordered_json json = {
      {"num_layers", layers()}, {"hidden_dim", d_model_}};
  write_file_atomically(config, json.dump(2), overwrite);
}

TunedLens TunedLens::load(const std::filesystem::path& path) {
  constexpr const char* function = "TunedLens";
  auto arrays = path, config = path;
  arrays.replace_extension(".npz");
  config.replace_extension(".json");
  const auto shown = printable(arrays.string());
  const auto json = parse_json(
      read_text(config, limits::config_bytes, function),
      function,
      fmt::format("'{}'", printable(config.string())));
  const auto number = [&](const char* key, int most) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    if (!json.is_object() || found == json.end() ||
        !found->is_number_integer() || *found < 1 || *found > most)
      fail(
          ErrorKind::bad_data,
          "[TunedLens] '{}' has no {} from 1 to {}; is it a tuned lens?",
          printable(config.string()),
          key,
          most);
    return found->get<int>();
  };
  TunedLens lens(
      number("num_layers", limits::layers),
      number("hidden_dim", limits::d_model));
  std::map<std::string, mx::array> named;
  for (auto& [name, array] : load_npz(arrays))
    named.insert_or_assign(name, array);
  const auto take = [&](int layer, const char* part, mx::array& into) {
    const auto name = name_of(layer, part);
    const auto found = named.find(name);
    if (found == named.end())
      fail(
          ErrorKind::bad_data,
          "[TunedLens] '{}' has no {}; its .json speaks of {} layers",
          shown,
          name,
          lens.layers());
    const auto& array = found->second;
    if (array.shape() != into.shape() ||
        !mx::issubdtype(array.dtype(), mx::floating))
      fail(
          ErrorKind::bad_data,
          "[TunedLens] {} in '{}' is no {} of floating-point numbers; its "
          ".json speaks of {} features",
          name,
          shown,
          into.ndim() == 2 ? "square matrix" : "vector",
          lens.d_model());
    into = mx::astype(array, mx::float32);
    if (!mx::all(mx::isfinite(into)).item<bool>())
      fail(
          ErrorKind::bad_data,
          "[TunedLens] {} in '{}' holds NaN or infinity; train it again with "
          "a smaller learning rate",
          name,
          shown);
  };
  for (int i = 0; i < lens.layers(); ++i) {
    take(i, "weight", lens.weights[static_cast<size_t>(i)]);
    take(i, "bias", lens.biases[static_cast<size_t>(i)]);
  }
  return lens;
}

TunedLens train_tuned_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLensOptions& options) {
  check(options);
  check_length(model, options.length, "train_tuned_lens");
  const auto length = static_cast<size_t>(options.length);
  if (ids.size() < length)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] the text has {} tokens, a step reads {}; give more "
        "text, or a shorter length",
        ids.size(),
        options.length);
  const auto& config = model.decoder().config();
  TunedLens lens(config.n_layers, config.d_model);
  Optimizer optimizer(options, lens.weights.size());
  size_t at = 0;
  for (int step = 0; step < options.steps; ++step) {
    const auto begin = ids.begin() + static_cast<long>(at);
    auto stretch =
        run(model, std::vector<int>(begin, begin + static_cast<long>(length)));
    auto slopes = gradients(model, lens, stretch);
    if (!std::isfinite(slopes.loss))
      fail(
          ErrorKind::usage,
          "[train_tuned_lens] the loss of step {} is {}; take a smaller "
          "learning rate, or float32",
          step,
          slopes.loss);
    optimizer.step(
        lens,
        slopes,
        options.learning_rate * (1.0f - static_cast<float>(step) /
                                            static_cast<float>(options.steps)));
    if (options.on_step) options.on_step(step, static_cast<float>(slopes.loss));
    if (options.progress)
      options.progress(
          "Training translators",
          static_cast<double>(step + 1) / options.steps);
    at += length;
    if (at + length > ids.size()) at = 0;
  }
  return lens;
}

namespace {

// Sums over positions of how one set of logits does; evaluated.
struct Sums {
  double kl = 0, cross_entropy = 0, agreement = 0;
};

Sums compare(
    const mx::array& logits,
    const mx::array& log_p,
    const mx::array& winners,
    const std::optional<mx::array>& next) {
  const auto log_q =
      mx::subtract(logits, mx::logsumexp(logits, -1, /*keepdims=*/true));
  auto kl = mx::sum(
      mx::sum(mx::multiply(mx::exp(log_p), mx::subtract(log_p, log_q)), -1));
  auto agree = mx::sum(
      mx::astype(mx::equal(mx::argmax(logits, -1), winners), mx::float32));
  auto nats = next ? mx::negative(mx::sum(mx::take_along_axis(
                         rows(log_q, 0, next->shape(0)), *next, 1)))
                   : mx::array(0.0f);
  mx::eval(kl, agree, nats);
  return {
      static_cast<double>(kl.item<float>()),
      static_cast<double>(nats.item<float>()),
      static_cast<double>(agree.item<float>())};
}

LensQuality mean(const Sums& sums, double positions, double targets) {
  return {
      static_cast<float>(sums.kl / positions),
      static_cast<float>(sums.cross_entropy / targets),
      static_cast<float>(sums.agreement / positions)};
}

}  // namespace

LensEvaluation evaluate_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLens* lens,
    int length,
    const Progress& progress) {
  check_length(model, length, "evaluate_lens");
  if (ids.size() < 2)
    fail(
        ErrorKind::usage,
        "[evaluate_lens] the text has {} tokens; give 2 at least",
        ids.size());
  if (lens) lens->check_fits(model);
  const auto& decoder = model.decoder();
  const auto layers = static_cast<size_t>(decoder.config().n_layers);
  std::vector<Sums> logit(layers), tuned(lens ? layers : 0);
  Sums own;
  double positions = 0, targets = 0;
  const auto add = [](Sums& sum, const Sums& part) {
    sum.kl += part.kl;
    sum.cross_entropy += part.cross_entropy;
    sum.agreement += part.agreement;
  };
  const int step = chunk_of(model);
  for (size_t at = 0; at + 1 < ids.size(); at += static_cast<size_t>(length)) {
    const size_t end = std::min(ids.size(), at + static_cast<size_t>(length));
    const std::vector<int> some(
        ids.begin() + static_cast<long>(at),
        ids.begin() + static_cast<long>(end));
    const auto stretch = run(model, some);
    for (int from = 0; from < stretch.length; from += step) {
      const int to = std::min(stretch.length, from + step);
      const auto target =
          read(decoder, rows(stretch.residuals.back(), from, to));
      const auto log_p =
          mx::subtract(target, mx::logsumexp(target, -1, /*keepdims=*/true));
      const auto winners = mx::argmax(target, -1);
      // The last position of a stretch has nothing behind it.
      const int known = std::min(to, stretch.length - 1) - from;
      std::optional<mx::array> next;
      if (known > 0)
        next = mx::array(some.data() + from + 1, {known, 1}, mx::int32);
      mx::eval(log_p, winners);
      positions += to - from;
      targets += known;
      add(own, compare(target, log_p, winners, next));
      for (size_t i = 0; i < layers; ++i) {
        const auto h = rows(stretch.residuals[i], from, to);
        add(logit[i], compare(read(decoder, h), log_p, winners, next));
        if (lens)
          add(tuned[i],
              compare(
                  read(decoder, (*lens)(h, static_cast<int>(i))),
                  log_p,
                  winners,
                  next));
      }
    }
    if (progress)
      progress(
          "Reading the text",
          static_cast<double>(end) / static_cast<double>(ids.size()));
  }
  LensEvaluation out;
  for (const auto& sums : logit)
    out.logit.push_back(mean(sums, positions, targets));
  for (const auto& sums : tuned)
    out.tuned.push_back(mean(sums, positions, targets));
  out.cross_entropy = mean(own, positions, targets).cross_entropy;
  out.positions = static_cast<size_t>(positions);
  return out;
}

}  // namespace mlxterp
