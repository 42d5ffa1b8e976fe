#include "mlxterp/generate/prompt_cache.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "core/fail.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// One edit or attached module that stands at a site, and how (-1: an edit).
using Stands = std::tuple<SiteId, std::shared_ptr<const void>, int>;

// Whose values a cache holds: the modules, the weights they had, and what stood
// at each site. They are held, so that nothing else takes their place in
// memory.
struct Known {
  std::shared_ptr<const nn::Module> root;
  std::vector<mx::array> weights;
  std::vector<Stands> standing;

  bool same_weights(const Known& other) const {
    return std::ranges::equal(
        weights, other.weights, {}, &mx::array::id, &mx::array::id);
  }
  friend bool operator==(const Known& a, const Known& b) {
    return a.root == b.root && a.standing == b.standing && a.same_weights(b);
  }
};

Known known_of(const InterpretableModel& model) {
  Known out{.root = model.shared_module(), .weights = {}, .standing = {}};
  for (const auto& [path, weight] : model.parameters())
    out.weights.push_back(*weight);
  if (!model.overlay()) return out;
  for (const auto& [site, steps] : model.overlay()->steps())
    for (const auto& step : steps) {
      if (const auto* edit = std::get_if<Intervention>(&step)) {
        out.standing.emplace_back(site, edit->identity(), -1);
        continue;
      }
      const auto& attached = std::get<Overlay::Attached>(step);
      out.standing.emplace_back(
          site, attached.module, static_cast<int>(attached.mode));
    }
  // Those of one site stay in the order they act in.
  std::ranges::stable_sort(
      out.standing, {}, [](const Stands& it) { return std::get<0>(it); });
  return out;
}

int equal_beginning(const std::vector<int>& a, const std::vector<int>& b) {
  const auto end = std::ranges::mismatch(a, b).in1;
  return static_cast<int>(end - a.begin());
}

}  // namespace

struct PromptCache::State {
  struct Entry {
    Known known;
    std::vector<int> ids;
    nn::KvCache cache;
  };
  size_t most;
  std::vector<Entry> entries = {};  // used last, last
};

PromptCache::PromptCache(size_t most)
    : state_(std::make_shared<State>(State{.most = most})) {
  if (most == 0)
    fail(ErrorKind::usage, "[PromptCache] it must keep 1 beginning at least");
}

size_t PromptCache::size() const {
  return state_->entries.size();
}

void PromptCache::clear() {
  state_->entries.clear();
}

bool PromptCache::serves(const InterpretableModel& model) {
  const auto& config = model.decoder().config();
  const auto* overlay = model.overlay();
  return config.same_angles(1, config.context) &&
         (!overlay || overlay->reach() == Intervention::Reach::value);
}

nn::KvCache PromptCache::find(
    const InterpretableModel& model, const std::vector<int>& ids, int most) {
  auto& entries = state_->entries;
  const auto known = known_of(model);
  // What weights made that are no longer the model's is of no use to anybody.
  std::erase_if(entries, [&](const auto& it) {
    return it.known.root == known.root && !it.known.same_weights(known);
  });
  std::optional<nn::KvCache> best;
  size_t used = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].known != known) continue;
    const int n = std::min(most, equal_beginning(entries[i].ids, ids));
    if (n <= (best ? best->positions() : 0)) continue;
    auto cut = entries[i].cache.first(n);
    if (!cut) continue;
    best = std::move(cut);
    used = i;
  }
  if (!best) return {};
  std::rotate(
      entries.begin() + static_cast<long>(used),
      entries.begin() + static_cast<long>(used) + 1,
      entries.end());
  return *best;
}

void PromptCache::keep(
    const InterpretableModel& model,
    std::vector<int> ids,
    const nn::KvCache& cache) {
  const int positions = cache.positions();
  if (positions == 0) return;
  ids.resize(static_cast<size_t>(positions));
  auto known = known_of(model);
  auto& entries = state_->entries;
  // What it goes on from is a part of it.
  std::erase_if(entries, [&](const auto& it) {
    return it.known == known && it.ids.size() <= ids.size() &&
           std::equal(it.ids.begin(), it.ids.end(), ids.begin());
  });
  entries.push_back({std::move(known), std::move(ids), cache});
  if (entries.size() > state_->most) entries.erase(entries.begin());
}

}  // namespace mlxterp
