#include "analysis/qk_fix.h"

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/nn/attention.h"
#include "nn/attend.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Heads before positions.
mx::array vectors(const mx::array& x) {
  return nn::swap_pos_head(mx::astype(x, mx::float32));
}

// Beyond that the softmax is of one source, to the last bit.
constexpr float far = 80.0f;

void check_unedited(const InterpretableModel& model, int layer) {
  const auto* overlay = model.overlay();
  for (const auto* step :
       {"position_bias", "scores", "sinks", "sink_share", "pattern"})
    for (const auto site :
         model.sites().lookup(fmt::format("layers.{}.attn.{}", layer, step)))
      if (overlay && overlay->edits(site))
        fail(
            ErrorKind::usage,
            "[attribute] the QK fix makes patterns again, and an edit stands "
            "at '{}', which it would leave out; choose the method atp or "
            "grad-drop, or take the edit away",
            model.sites()[site].name);
}

}  // namespace

bool is_query(const std::string& relative) {
  return relative == "attn.q" || relative == "attn.rot_q";
}

bool is_key(const std::string& relative) {
  return relative == "attn.k" || relative == "attn.rot_k";
}

std::vector<QkReader> qk_readers(
    const InterpretableModel& model, const std::string& relative, int layer) {
  const auto& layers = model.decoder().layers;
  const auto* own = layers[static_cast<size_t>(layer)]->attention();
  const bool before_norm = relative == "attn.q" || relative == "attn.k";
  if (before_norm &&
      own->config().qk_norm == nn::AttentionConfig::QkNorm::together)
    fail(
        ErrorKind::usage,
        "[attribute] layer {} normalises all its heads together, so that no "
        "head's '{}' is its own; the QK fix can be had of rot_q and rot_k",
        layer,
        relative);
  std::vector<QkReader> out;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto* it = layers[i]->attention();
    const bool reads =
        it && (it == own || (is_key(relative) && !it->config().own_kv &&
                             it->config().kv_layer == layer));
    if (!reads) continue;
    check_unedited(model, static_cast<int>(i));
    const auto* keys =
        it->config().own_kv
            ? it
            : layers[static_cast<size_t>(it->config().kv_layer)]->attention();
    out.push_back(
        {it, it->rot_q_site(), keys->rot_k_site(), it->pattern_site()});
  }
  return out;
}

mx::array query_fix(
    const nn::Attention& attention,
    const QueriesAndKeys& run,
    const mx::array& patched,
    const mx::array& gradient) {
  const auto k = vectors(run.k);
  const auto change = mx::subtract(
      attention.pattern(vectors(patched), k),
      attention.pattern(vectors(run.q), k));
  return mx::swapaxes(mx::sum(mx::multiply(gradient, change), -1), 1, 2);
}

mx::array key_fix(
    const nn::Attention& attention,
    const QueriesAndKeys& run,
    const mx::array& patched,
    const mx::array& gradient) {
  const auto& config = attention.config();
  const auto q = vectors(run.q);
  const auto sinks = nn::as_scores(attention.sinks);
  const auto scores = nn::scores_of(config, q, vectors(run.k));
  // In column t the scores of a patched key t.
  const auto other = nn::scores_of(config, q, vectors(patched));
  const auto pattern = nn::weights_of(scores, sinks).pattern;
  auto all = scores;
  if (sinks) {
    auto one = scores.shape();
    one.back() = 1;
    const auto of_nothing =
        mx::broadcast_to(mx::astype(*sinks, mx::float32), one);
    all = mx::concatenate({scores, of_nothing}, -1);
  }
  const auto total = mx::logsumexp(all, -1, /*keepdims=*/true);
  const auto mean = mx::sum(mx::multiply(gradient, pattern), -1, true);

  // The sum of exponentials grows by the share u, every weight falls by 1 + u:
  // sum of change times g is u / (1 + u) (g_t - sum of p g), with or without a
  // sink.
  const auto grown = mx::subtract(
      mx::exp(mx::minimum(mx::subtract(other, total), mx::array(far))),
      pattern);
  const auto share = mx::divide(grown, mx::add(grown, mx::array(1.0f)));
  const auto closed = mx::multiply(share, mx::subtract(gradient, mean));

  // 1 + u cancels where a source holds nearly everything. That is at most the
  // largest of a row: of it the softmax is made again.
  const int sources = scores.shape(-1);
  const auto largest = mx::equal(
      mx::arange(sources),
      mx::astype(mx::argmax(scores, -1, /*keepdims=*/true), mx::int32));
  const auto again =
      nn::weights_of(mx::where(largest, other, scores), sinks).pattern;
  const auto whole =
      mx::sum(mx::multiply(gradient, mx::subtract(again, pattern)), -1, true);

  const auto change = mx::sum(mx::where(largest, whole, closed), 2);
  const int kv_heads = run.k.shape(2);
  const auto grouped = mx::reshape(
      change, {change.shape(0), kv_heads, change.shape(1) / kv_heads, sources});
  return mx::swapaxes(mx::sum(grouped, 2), 1, 2);
}

}  // namespace mlxterp
