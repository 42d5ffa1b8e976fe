#include "mlxterp/analysis/logit_attribution.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/logit_direction.h"
#include "analysis/readout.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Kind = LogitPart::Kind;

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array dot(const mx::array& a, const mx::array& b) {
  return mx::sum(mx::multiply(a, b), -1);
}

std::string at(int layer, const char* site) {
  return fmt::format("layers.{}.{}", layer, site);
}

// Of an MLP beside experts, a norm of both divides what its neurons wrote.
bool has_neurons(const DecoderLayer& layer) {
  return layer.mlp && !layer.moe;
}

// Taking one prompt apart. A direction is a vector [d] that a part is
// multiplied with; each step backwards makes one of what stands before it.
class Decomposition {
 public:
  Decomposition(
      const InterpretableModel& model,
      Unit unit,
      const std::vector<int>& ids,
      const Readout& metric)
      : decoder_(model.decoder()),
        config_(decoder_.config()),
        unit_(unit),
        position_(metric.position_in(static_cast<int>(ids.size()))),
        edited_(model.overlay() != nullptr),
        run_(model.run(ids, {.save = sites()})) {
    const auto columns = metric.columns();
    const auto logits = edited_
                            ? mx::take(
                                  mx::expand_dims(of("logits"), 0),
                                  mx::array(
                                      columns.data(),
                                      {static_cast<int>(columns.size())},
                                      mx::int32),
                                  1)
                            : decoder_.unembed.of_tokens(
                                  mx::expand_dims(of("ln_final"), 0), columns);
    model_ = metric.values(wide(logits), std::nullopt, {});

    const auto tokens = [&](const mx::array& x) {
      const auto one = [&](int id) { return wide(mx::take(x, id, 0)); };
      const auto first = one(columns[0]);
      const auto y =
          columns.size() == 1 ? first : mx::subtract(first, one(columns[1]));
      return mx::multiply(y, mx::array(config_.logit_scale));
    };
    const auto normed = logit_direction(decoder_, columns);
    const auto stream = before(decoder_.ln_final, normed, of("ln_final.scale"));

    scale_back(stream);
    auto embed = of("layers.0.resid_pre");
    if (decoder_.pos_embed) {
      const auto positions = of("pos_embed");
      embed = mx::subtract(embed, positions);
      add(Kind::embed, -1, dot(embed, streams_[0]));
      add(Kind::pos_embed, -1, dot(positions, streams_[0]));
    } else {
      add(Kind::embed, -1, dot(embed, streams_[0]));
    }
    for (int i = 0; i < config_.n_layers; ++i) {
      const size_t first = values_.size();
      const auto& within = streams_[static_cast<size_t>(i)];
      attention(i, within);
      feed_forward(i, within);
      if (layer_of(i).ple)
        add(Kind::ple_out, i, dot(of(at(i, "ple_out")), within));
      if (!edited_) continue;
      const auto before =
          i == 0 ? of("layers.0.resid_pre") : of(at(i - 1, "resid_post"));
      const auto all = mx::subtract(
          dot(of(at(i, "resid_post")), streams_[static_cast<size_t>(i) + 1]),
          dot(before, within));
      add(Kind::edits, i, mx::subtract(all, sum_from(first)));
    }
    if (const auto& bias = decoder_.ln_final.bias)
      add(Kind::ln_final_bias, -1, dot(wide(*bias), normed));
    if (const auto& bias = decoder_.unembed.bias)
      add(Kind::unembed_bias, -1, tokens(*bias));
    // A cap bends the logits: what stands behind it is no summand.
    if (Stepper::edits_head(model) && config_.logit_softcap == 0)
      add(Kind::edits, -1, mx::subtract(mx::sum(*model_), sum_from(0)));
  }

  struct Result {
    std::vector<LogitPart> parts;
    float model = 0;
    /** What the stream before each layer, and at the end, is multiplied with
     * from there on. */
    std::vector<float> factors = {};
  };

  // Evaluates. The parts, and what the model says.
  Result parts() {
    auto all = values_;
    all.push_back(*model_);
    mx::eval(all);
    std::vector<LogitPart> out;
    for (size_t i = 0; i < values_.size(); ++i) {
      const auto& [kind, layer] = kinds_[i];
      const auto* data = values_[i].data<float>();
      const bool units = kind == Kind::head || kind == Kind::neuron;
      for (size_t u = 0; u < values_[i].size(); ++u)
        out.push_back(
            {.kind = kind,
             .layer = layer,
             .unit = units ? static_cast<int>(u) : -1,
             .value = data[u]});
    }
    Result result{std::move(out), model_->item<float>()};
    result.factors.assign(static_cast<size_t>(config_.n_layers) + 1, 1.0f);
    for (int i = config_.n_layers; i-- > 0;) {
      const auto at_end = static_cast<size_t>(i);
      result.factors[at_end] = result.factors[at_end + 1];
      if (layer_of(i).layer_scalar)
        result.factors[at_end] *= of(at(i, "layer_scalar")).item<float>();
    }
    return result;
  }

 private:
  std::vector<std::string> sites() const {
    std::vector<std::string> out = {
        "layers.0.resid_pre", "ln_final", "ln_final.scale"};
    if (decoder_.pos_embed) out.emplace_back("pos_embed");
    if (edited_) out.insert(out.end(), {"layers.*.resid_post", "logits"});
    for (int i = 0; i < config_.n_layers; ++i) {
      const auto& layer = *decoder_.layers[static_cast<size_t>(i)];
      if (unit_ == Unit::head && layer.attention()) {
        out.push_back(at(i, "attn.z"));
        if (layer.ln1_post) out.push_back(at(i, "ln1_post.scale"));
      } else {
        out.push_back(at(i, "attn_out"));
      }
      if (unit_ == Unit::neuron && has_neurons(layer)) {
        out.push_back(at(i, "mlp.post"));
        if (layer.ln2_post) out.push_back(at(i, "ln2_post.scale"));
      } else if (layer.feeds_forward()) {
        out.push_back(at(i, "mlp_out"));
      }
      if (layer.ple) out.push_back(at(i, "ple_out"));
      if (layer.layer_scalar) out.push_back(at(i, "layer_scalar"));
    }
    return out;
  }

  const DecoderLayer& layer_of(int i) const {
    return *decoder_.layers[static_cast<size_t>(i)];
  }

  // What a layer adds is multiplied by its scalar and those of all later ones.
  void scale_back(const mx::array& stream) {
    streams_ = {stream};
    for (int i = config_.n_layers; i-- > 0;)
      streams_.push_back(
          layer_of(i).layer_scalar
              ? mx::multiply(streams_.back(), of(at(i, "layer_scalar")))
              : streams_.back());
    std::ranges::reverse(streams_);
  }

  // Of all parts from one on.
  mx::array sum_from(size_t first) const {
    auto sum = mx::array(0.0f);
    for (size_t i = first; i < values_.size(); ++i)
      sum = mx::add(sum, mx::sum(values_[i]));
    return sum;
  }

  // A site's value at the position, flat.
  mx::array of(const std::string& site) const {
    return mx::flatten(wide(mx::take(run_[site], position_, 1)));
  }

  // The direction before a norm, whose divisor is a number.
  mx::array before(
      const nn::Norm& norm,
      const mx::array& direction,
      const mx::array& scale) const {
    return mx::divide(before_gain(norm, config_.norm, direction), scale);
  }

  // Before a factor of the residual stream and a norm, where there is one.
  struct Before {
    mx::array direction;
    std::optional<mx::array> bias;  // what the norm's adds
  };
  Before before_written(
      const std::optional<nn::Norm>& post,
      const std::string& scale,
      const mx::array& stream) const {
    auto direction = mx::multiply(stream, mx::array(config_.residual_scale));
    if (!post) return {direction, std::nullopt};
    std::optional<mx::array> bias;
    if (post->bias) bias = dot(wide(*post->bias), direction);
    return {before(*post, direction, of(scale)), bias};
  }

  // Parts `x` of a product with W, [d_model, parts * width], each a row.
  void through(
      const nn::Linear& w,
      const mx::array& x,
      int parts,
      const Before& behind,
      int layer,
      Kind kind,
      Kind bias_kind) {
    const auto each = mx::squeeze(
        mx::matmul(
            mx::expand_dims(behind.direction, 0), wide(w.weight.numbers())),
        0);
    add(kind,
        layer,
        mx::sum(mx::reshape(mx::multiply(each, x), {parts, -1}), 1));
    auto bias = behind.bias;
    if (w.bias) {
      const auto own = dot(wide(*w.bias), behind.direction);
      bias = bias ? mx::add(*bias, own) : own;
    }
    if (bias) add(bias_kind, layer, *bias);
  }

  void attention(int i, const mx::array& stream) {
    const auto& layer = *decoder_.layers[static_cast<size_t>(i)];
    if (unit_ != Unit::head || !layer.attention())
      return add(Kind::attn_out, i, dot(of(at(i, "attn_out")), stream));
    through(
        layer.attention()->o_proj,
        of(at(i, "attn.z")),
        config_.n_heads,
        before_written(layer.ln1_post, at(i, "ln1_post.scale"), stream),
        i,
        Kind::head,
        Kind::attn_bias);
  }

  void feed_forward(int i, const mx::array& stream) {
    const auto& layer = *decoder_.layers[static_cast<size_t>(i)];
    if (!layer.feeds_forward()) return;
    if (unit_ != Unit::neuron || !has_neurons(layer))
      return add(Kind::mlp_out, i, dot(of(at(i, "mlp_out")), stream));
    const auto post = of(at(i, "mlp.post"));
    through(
        layer.mlp->down_proj,
        post,
        static_cast<int>(post.size()),
        before_written(layer.ln2_post, at(i, "ln2_post.scale"), stream),
        i,
        Kind::neuron,
        Kind::mlp_bias);
  }

  void add(Kind kind, int layer, const mx::array& value) {
    kinds_.emplace_back(kind, layer);
    values_.push_back(mx::contiguous(value));
  }

  const Decoder& decoder_;
  const DecoderConfig& config_;
  Unit unit_;
  int position_;
  bool edited_;
  ActivationCache run_;
  std::vector<std::pair<Kind, int>> kinds_;
  std::vector<mx::array> values_;
  std::optional<mx::array> model_;
  /** The direction that each layer's parts are read by; last: the final one. */
  std::vector<mx::array> streams_;
};

void check(
    const InterpretableModel& model, const LogitAttributionOptions& options) {
  if (options.metric.kind != Metric::Kind::logit &&
      options.metric.kind != Metric::Kind::logit_diff)
    fail(
        ErrorKind::usage,
        "[logit_attribution] '{}' is not a sum over components; use logit or "
        "logit_diff",
        printable(options.metric.name));
  const auto& layers = model.decoder().layers;
  if (options.unit == Unit::neuron &&
      std::ranges::none_of(
          layers, [](const auto& l) { return has_neurons(*l); }))
    fail(
        ErrorKind::usage,
        "[logit_attribution] {}; use component or head",
        std::ranges::any_of(
            layers, [](const auto& l) { return l->feeds_forward(); })
            ? "the layers of this model have mixtures of experts, whose "
              "neurons have no site"
            : "the layers of this model have no MLP, and so no neurons");
}

// What the stream says at the layers' borders: running sums, less what it is
// still to be multiplied with.
std::vector<float> accumulated(
    const std::vector<LogitPart>& parts,
    int layers,
    const std::vector<float>& factors) {
  std::vector<double> by_layer(static_cast<size_t>(layers) + 1);
  double biases = 0;
  for (const auto& part : parts)
    if (part.kind == Kind::ln_final_bias || part.kind == Kind::unembed_bias ||
        (part.kind == Kind::edits && part.layer < 0)) {
      biases += static_cast<double>(part.value);
    } else {
      const int border = part.layer + 1;
      by_layer[static_cast<size_t>(border)] += static_cast<double>(part.value);
    }
  std::vector<float> out;
  double sum = 0;
  for (size_t i = 0; i < by_layer.size(); ++i) {
    sum += by_layer[i];
    out.push_back(
        static_cast<float>(biases + sum / static_cast<double>(factors[i])));
  }
  return out;
}

}  // namespace

const char* name(LogitPart::Kind kind) {
  switch (kind) {
    case Kind::embed:
      return "embed";
    case Kind::pos_embed:
      return "pos_embed";
    case Kind::attn_out:
      return "attn_out";
    case Kind::mlp_out:
      return "mlp_out";
    case Kind::ple_out:
      return "ple_out";
    case Kind::head:
      return "head";
    case Kind::neuron:
      return "neuron";
    case Kind::attn_bias:
      return "attn_bias";
    case Kind::mlp_bias:
      return "mlp_bias";
    case Kind::edits:
      return "edits";
    case Kind::ln_final_bias:
      return "ln_final_bias";
    case Kind::unembed_bias:
      break;
  }
  return "unembed_bias";
}

std::string LogitPart::name() const {
  if (unit >= 0)
    return fmt::format("L{}{}{}", layer, kind == Kind::head ? 'H' : 'N', unit);
  if (layer >= 0) return at(layer, mlxterp::name(kind));
  return mlxterp::name(kind);
}

LogitAttribution logit_attribution(
    const InterpretableModel& model, const LogitAttributionOptions& options) {
  check(model, options);
  const auto prompts = model.token_ids(options.prompts);
  std::vector<Readout> metrics;
  for (size_t i = 0; i < prompts.size(); ++i) {
    metrics.push_back(readout(model, options.metric, i, prompts.size()));
    metrics[i].position_in(static_cast<int>(prompts[i].size()));
  }
  LogitAttribution out;
  const auto& config = model.decoder().config();
  std::vector<double> sums, squares, running;
  double said = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (options.progress)
      options.progress(
          "Attributing",
          static_cast<double>(i) / static_cast<double>(prompts.size()));
    auto [parts, value, factors] =
        Decomposition(model, options.unit, prompts[i], metrics[i]).parts();
    const auto own = accumulated(parts, config.n_layers, factors);
    running.resize(own.size());
    for (size_t layer = 0; layer < own.size(); ++layer)
      running[layer] += static_cast<double>(own[layer]);
    sums.resize(parts.size());
    squares.resize(parts.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto x = static_cast<double>(parts[p].value);
      if (!std::isfinite(x))
        fail(
            ErrorKind::usage,
            "[logit_attribution] {} is {} in prompt {}; does the model "
            "overflow in this precision?",
            parts[p].name(),
            x,
            i);
      sums[p] += x;
      squares[p] += x * x;
    }
    said += static_cast<double>(value);
    if (i == 0) out.parts = std::move(parts);
  }
  if (options.progress) options.progress("Attributing", 1.0);
  const auto n = static_cast<double>(prompts.size());
  double sum = 0;
  for (size_t p = 0; p < sums.size(); ++p) {
    const double mean = sums[p] / n;
    out.parts[p].value = static_cast<float>(mean);
    out.parts[p].spread = static_cast<float>(
        std::sqrt(std::max(0.0, squares[p] / n - mean * mean)));
    sum += mean;
  }
  out.layers = config.n_layers;
  for (const double all : running)
    out.accumulated.push_back(static_cast<float>(all / n));
  out.sum = static_cast<float>(sum);
  out.model = static_cast<float>(said / n);
  out.softcap = config.logit_softcap;
  out.prompts = prompts.size();
  out.ids = prompts[0];
  return out;
}

}  // namespace mlxterp
