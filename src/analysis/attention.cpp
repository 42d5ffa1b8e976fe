#include "mlxterp/analysis/attention.h"

#include <limits>

#include "analysis/any_model.h"
#include "analysis/int_array.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Bits of what each destination attends to, averaged: [head].
mx::array mean_entropy(const mx::array& pattern) {
  // p log p is 0 at 0.
  const auto logs = mx::log2(mx::maximum(pattern, mx::array(1e-30f)));
  return mx::negative(mx::mean(mx::sum(mx::multiply(pattern, logs), -1), -1));
}

const float* values(mx::array& x) {
  x = mx::contiguous(x);
  x.eval();
  return x.data<float>();
}

int checked_layer(int layer, int layers) {
  const int out = layer < 0 ? layers + layer : layer;
  if (out < 0 || out >= layers)
    fail(
        ErrorKind::out_of_range,
        "[attention] there is no layer {}; the model has layers 0 to {}",
        layer,
        layers - 1);
  return out;
}

}  // namespace

Attention attention(
    const InterpretableModel& model,
    const Inputs& prompt,
    const AttentionOptions& options) {
  const auto& decoder = model.decoder();
  const auto& config = decoder.config();
  const auto rows = model.token_ids(prompt);
  if (rows.size() != 1 || rows[0].empty())
    fail(
        ErrorKind::usage,
        "[attention] {} prompts{}; give one of at least one token",
        rows.size(),
        rows.size() == 1 ? " without a token" : "");
  Attention out;
  out.ids = rows[0];
  if (options.layer) {
    out.layer = checked_layer(*options.layer, config.n_layers);
    require_attention(decoder, out.layer, "attention");
  }
  const auto scores = head_scores(model, rows);
  out.first_token = scores[HeadKind::first_token];
  out.previous_token = scores[HeadKind::previous_token];
  out.current_token = scores[HeadKind::current_token];
  out.entropy = {config.n_layers, config.n_heads, {}};

  const auto length = static_cast<int>(out.ids.size());
  const PassRows pass{.lengths = {length}};
  Stepper first(model, nullptr, pass);
  auto x = first.embed(mx::expand_dims(int_array(out.ids), 0));
  auto carried = std::move(first.carried());
  const auto through = [&](int i, Observer* observer) {
    Stepper stepper(model, observer, pass);
    stepper.carried() = std::move(carried);
    x = stepper.layer(i, x);
    carried = std::move(stepper.carried());
  };
  for (int i = 0; i < config.n_layers; ++i) {
    const auto* attn = decoder.layers[static_cast<size_t>(i)]->attention();
    if (!attn) {
      through(i, nullptr);
      out.entropy.values.insert(
          out.entropy.values.end(),
          static_cast<size_t>(config.n_heads),
          std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    const auto site = attn->pattern_site();
    TraceContext context(model.shared_sites(), {}, pass.lengths, {site});
    through(i, &context);
    auto pattern = mx::astype(
        mx::squeeze(context.value(model.sites()[site].name), 0), mx::float32);
    auto entropy = mean_entropy(pattern);
    mx::eval(x, entropy);
    const auto* bits = values(entropy);
    out.entropy.values.insert(
        out.entropy.values.end(), bits, bits + config.n_heads);
    if (i == out.layer) {
      const auto* weights = values(pattern);
      out.pattern.assign(weights, weights + pattern.size());
    }
    if (options.progress)
      options.progress(
          "Looking at heads",
          static_cast<double>(i + 1) / static_cast<double>(config.n_layers));
  }
  return out;
}

}  // namespace mlxterp
