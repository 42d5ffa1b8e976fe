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
  return decoder_.embedded(own.tap(decoder_.input_site(), ids), own);
}

mx::array Stepper::layer(int i, const mx::array& x) {
  auto own = pass();
  return (*decoder_.layers[static_cast<size_t>(i)])(x, own);
}

mx::array Stepper::layer(
    int i,
    const mx::array& x,
    std::shared_ptr<const nn::PackedBatch> packed,
    std::optional<mx::array> last) {
  Pass own(*observer_, std::move(packed), std::move(last));
  return (*decoder_.layers[static_cast<size_t>(i)])(x, own);
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
