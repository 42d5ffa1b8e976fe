#include "trace/stepper.h"

#include <algorithm>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

Stepper::Stepper(
    const InterpretableModel& model, Observer* observer, PassRows rows)
    : decoder_(model.decoder()), sites_(model.sites()), observer_(observer) {
  const auto* overlay = model.overlay();
  if (!overlay) return;
  edits_head_ = edits_head(model);
  observer_ = &standing_.emplace(*overlay, sites_, observer, std::move(rows));
}

bool Stepper::edits_head(const InterpretableModel& model) {
  if (!model.overlay()) return false;
  // The head's sites are the last that the decoder numbers.
  const SiteId first = model.decoder().ln_final.input_site();
  return std::ranges::any_of(model.overlay()->steps(), [&](const auto& step) {
    return step.first >= first && model.sites()[step.first].layer < 0;
  });
}

Pass Stepper::pass() {
  return observer_ ? Pass(*observer_) : Pass();
}

mx::array Stepper::embed(const mx::array& ids) {
  auto own = pass();
  auto x = decoder_.embedded(own.tap(decoder_.input_site(), ids), own);
  carried_ = std::move(own.carried());
  return x;
}

mx::array Stepper::through(int i, const mx::array& x, Pass own) {
  own.carried() = std::move(carried_);
  auto y = (*decoder_.layers[static_cast<size_t>(i)])(x, own);
  carried_ = std::move(own.carried());
  return y;
}

mx::array Stepper::layer(int i, const mx::array& x) {
  return through(i, x, pass());
}

mx::array Stepper::layer(
    int i,
    const mx::array& x,
    std::shared_ptr<const nn::PackedBatch> packed,
    std::optional<mx::array> last) {
  return through(i, x, Pass(*observer_, std::move(packed), std::move(last)));
}

mx::array Stepper::head(const mx::array& x, const std::vector<int>& tokens) {
  auto own = pass();
  const auto normed = decoder_.ln_final(x, own);
  if (tokens.empty()) return decoder_.unembed(normed, own);
  if (!edits_head_) return decoder_.unembed.of_tokens(normed, tokens);
  const mx::array ids(
      tokens.data(), {static_cast<int>(tokens.size())}, mx::int32);
  return mx::take(decoder_.unembed(normed, own), ids, -1);
}

}  // namespace mlxterp
