#include "models/mixer_names.h"

#include "mlx/random.h"

namespace mx = mlx::core;

namespace mlxterp {

std::vector<std::string> mixer_names(const DecoderConfig& config) {
  std::vector<std::string> names(static_cast<size_t>(config.n_layers), "attn");
  if (!config.mixer) return names;
  // A new one draws its parameters, which nothing evaluates.
  const auto state = mx::random::KeySequence::default_();
  for (size_t i = 0; i < names.size(); ++i)
    names[i] = config.mixer(config, static_cast<int>(i))->name();
  mx::random::KeySequence::default_() = state;
  return names;
}

}  // namespace mlxterp
