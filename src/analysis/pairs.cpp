#include "analysis/pairs.h"

#include <algorithm>

#include "analysis/any_model.h"
#include "analysis/int_array.h"
#include "analysis/means.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

int Pair::shared() const {
  const auto n = static_cast<int>(std::min(run.size(), source.size()));
  int p = 0;
  while (p < n && source_of(p) == p &&
         run[static_cast<size_t>(p)] == source[static_cast<size_t>(p)])
    ++p;
  return p;
}

mx::array aligned(
    const mx::array& source, const Pair& pair, const mx::array& run) {
  if (pair.position_map.empty()) return source;
  std::vector<int> from;
  for (int p = 0; p < run.shape(1); ++p) {
    const bool real = p < static_cast<int>(pair.run.size());
    const int at = real ? pair.source_of(p) : -1;
    from.push_back(at < 0 ? source.shape(1) + p : at);
  }
  return mx::take(mx::concatenate({source, run}, 1), int_array(from), 1);
}

std::vector<Pair> make_pairs(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options) {
  const auto clean = model.token_ids(options.clean);
  const auto corrupt = model.token_ids(options.corrupt);
  if (clean.size() != corrupt.size())
    fail(
        ErrorKind::usage,
        "[{}] {} clean and {} corrupted prompts; give the same number of each",
        who,
        clean.size(),
        corrupt.size());
  const bool denoise = options.direction == Direction::denoise;
  std::vector<Pair> pairs;
  for (size_t i = 0; i < clean.size(); ++i) {
    if (clean[i].size() != corrupt[i].size() && options.position_map.empty())
      fail(
          ErrorKind::usage,
          "[{}] pair {}: the clean prompt has {} tokens, the corrupted "
          "one {}; make them equally long, or give a position map",
          who,
          i,
          clean[i].size(),
          corrupt[i].size());
    const auto* decoder = decoder_of(model);
    if (decoder && !decoder->config().same_angles(
                       static_cast<int>(clean[i].size()),
                       static_cast<int>(corrupt[i].size())))
      fail(
          ErrorKind::usage,
          "[{}] this model's RoPE scaling differs between lengths {} and {}; "
          "make the prompts equally long",
          who,
          clean[i].size(),
          corrupt[i].size());
    Pair pair{
        denoise ? corrupt[i] : clean[i], denoise ? clean[i] : corrupt[i], {}};
    if (!options.position_map.empty()) {
      pair.position_map.assign(pair.run.size(), -1);
      for (const auto& [in_clean, in_corrupt] : options.position_map) {
        const int at = denoise ? in_corrupt : in_clean;
        const int from = denoise ? in_clean : in_corrupt;
        if (at < 0 || from < 0 || static_cast<size_t>(at) >= pair.run.size() ||
            static_cast<size_t>(from) >= pair.source.size())
          fail(
              ErrorKind::out_of_range,
              "[{}] the mapped positions {} (clean) and {} (corrupted) "
              "are out of range; the prompts have {} and {} tokens",
              who,
              in_clean,
              in_corrupt,
              clean[i].size(),
              corrupt[i].size());
        pair.position_map[static_cast<size_t>(at)] = from;
      }
    }
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

Grid make_grid(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options,
    const LayerSite& site,
    const std::vector<Pair>& pairs) {
  std::vector<size_t> lengths;
  for (const auto& pair : pairs)
    lengths.push_back(pair.run.size());
  return make_grid(
      model,
      site,
      {options.by,
       options.layers,
       options.positions,
       options.heads,
       options.neurons},
      lengths,
      who);
}

std::vector<Readout> readouts(
    const char* who,
    const InterpretableModel& model,
    const Metric& metric,
    const std::vector<Pair>& pairs) {
  std::vector<Readout> out;
  for (size_t i = 0; i < pairs.size(); ++i) {
    out.push_back(readout(model, metric, i, pairs.size()));
    for (const auto* ids : {&pairs[i].run, &pairs[i].source})
      check_length(out[i], ids->size(), who);
  }
  return out;
}

std::vector<Place> of_pair(const std::vector<Place>& cell, const Pair& pair) {
  std::vector<Place> out;
  for (auto place : cell) {
    if (place.to < 0) place.to = static_cast<int>(pair.run.size()) - 1;
    if (pair.position_map.empty()) {
      out.push_back(place);
      continue;
    }
    for (int p = place.from; p <= place.to; ++p)
      if (pair.position_map[static_cast<size_t>(p)] >= 0)
        out.push_back({place.first_layer, place.last_layer, p, p, place.unit});
  }
  return out;
}

}  // namespace mlxterp
