#include "generate/runner.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

mx::array ints(const std::vector<int>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

// How a pass over these lies, for edits and for layers.
struct Rows {
  PassRows view;
  std::shared_ptr<nn::PackedBatch> packed = std::make_shared<nn::PackedBatch>();
  std::vector<int> last;  // the row of each one's last position

  Rows(
      const std::vector<PromptStretch>& parts,
      int step,
      int batch,
      JointCache* joint) {
    view.step = step;
    view.batch = batch;
    if (joint) {
      packed->joint = &joint->cache;
      packed->padding = joint->padding;
    }
    int row = 0;
    for (const auto& it : parts) {
      PackedRows own{
          .row = row,
          .length = it.length,
          .first = it.first,
          .total = it.total,
          .prompt = it.prompt,
          .index = it.index};
      view.packed.push_back(own);
      packed->sequences.push_back(
          {.row = row,
           .length = it.length,
           .first = it.first,
           .cache = joint ? nullptr : it.cache});
      packed->longest = std::max(packed->longest, it.first + it.length);
      row += it.length;
      last.push_back(row - 1);
      own.row = static_cast<int>(view.kept.size());
      own.first += it.length - 1;
      own.length = 1;
      view.kept.push_back(own);
    }
  }
};

}  // namespace

Runner::Runner(
    const InterpretableModel& model, std::vector<SiteId> saved, int batch)
    : model_(model),
      decoder_(dynamic_cast<const Decoder*>(&model.module())),
      saved_(std::move(saved)),
      batch_(batch) {
  if (const auto* overlay = model.overlay())
    by_position_ = overlay->reach() != Intervention::Reach::sequence;
  if (!decoder_) {
    together_ = false;
    return;
  }
  const auto& sites = model.sites();
  const auto& config = decoder_->config();
  // Of the last layer, what its mixer reads and does not hand on runs of all
  // positions in any case.
  const auto is_late = [&](const SiteCatalog::Site& site) {
    if (site.layer == config.n_layers - 1)
      return site.stage != Stage::before && site.stage != Stage::inside;
    return site.layer < 0;
  };
  const auto look = [&](SiteId id) {
    const auto& site = sites[id];
    if (is_late(site)) head_ = true;
    if (site.layout == Layout::scores) scores_ = true;
    if (site.layout == Layout::scores || site.layout == Layout::other)
      together_ = false;
  };
  for (const auto site : saved_)
    look(site);
  if (const auto* overlay = model.overlay())
    for (const auto& [site, steps] : overlay->steps())
      look(site);
  for (const auto& layer : decoder_->layers)
    if (!layer->attention()) together_ = false;
  if (!config.kv_layers.empty()) together_ = false;
  // Where a source's number matters, not only how far back it is, all count
  // from their own beginning.
  joins_ = together_ && std::ranges::all_of(decoder_->layers, [](auto& layer) {
             const auto& attention = layer->attention()->config();
             return attention.chunk == 0 && attention.alibi.slopes.empty();
           });
}

mx::array Runner::part(
    const mx::array& value, int row, const PromptStretch& it) const {
  auto from = mx::Shape(value.ndim(), 0), to = value.shape();
  from[1] = row;
  to[1] = row + it.length;
  return mx::slice(value, from, to);
}

std::optional<mx::array> Runner::logits_of(
    const mx::array& ids,
    const std::vector<int>& rows,
    Pass& pass,
    bool wanted) const {
  auto x = decoder_->embedded(pass.tap(decoder_->input_site(), ids), pass);
  const auto last = ints(rows);
  const bool cut = !head_ && x.shape(1) > last.shape(0);
  for (const auto& layer : decoder_->layers) {
    if (cut && &layer == &decoder_->layers.back()) pass.keep(last);
    x = (*layer)(x, pass);
  }
  if (!wanted && !head_) return std::nullopt;
  auto logits = decoder_->unembed(decoder_->ln_final(x, pass), pass);
  if (!cut && logits.shape(1) > last.shape(0))
    logits = mx::take(logits, last, 1);
  return logits;
}

mx::array Runner::logits_of_module(const mx::array& ids, Pass& pass) const {
  const auto logits = model_.module()(ids, pass);
  const int n = ids.shape(1);
  if (logits.ndim() != 3 || logits.shape(0) != 1 || logits.shape(1) != n)
    fail(
        ErrorKind::usage,
        "[generate] the model returns {} for 1 row of {} tokens; text is "
        "generated from logits [batch, pos, vocab]",
        fmt::format("[{}]", fmt::join(logits.shape(), ", ")),
        n);
  return mx::slice(logits, {0, n - 1, 0}, logits.shape());
}

Ran Runner::run(
    const std::vector<PromptStretch>& parts,
    int step,
    bool with_logits,
    JointCache* joint) const {
  const Rows rows(parts, step, batch_, joint);
  const bool alone = parts.size() == 1;
  Ran out;
  std::optional<Standing> standing;
  Observer* observer = nullptr;
  const auto* overlay = model_.overlay();
  if (overlay || !saved_.empty()) {
    out.context = std::make_unique<TraceContext>(
        model_.shared_sites(),
        std::vector<Edit>{},
        std::vector<int>{},
        saved_,
        alone ? parts[0].first : 0);
    observer = out.context.get();
  }
  if (overlay)
    observer = &standing.emplace(*overlay, model_.sites(), observer, rows.view);

  auto pass = alone ? Pass(observer, parts[0].cache)
                    : Pass(observer, nullptr, rows.packed);
  std::vector<mx::array> ids;
  for (const auto& it : parts)
    ids.push_back(it.ids);
  const auto given = alone ? ids[0] : mx::concatenate(std::move(ids), 1);
  auto logits = decoder_ ? logits_of(given, rows.last, pass, with_logits)
                         : std::optional(logits_of_module(given, pass));
  if (logits) {
    const int stretches = static_cast<int>(parts.size());
    out.logits = mx::astype(
        mx::reshape(*logits, {stretches, logits->shape(2)}), mx::float32);
    if (standing) standing->check_reached();
  }
  if (standing) out.acted = standing->acted();
  for (const auto site : saved_) {
    const auto value = out.context->value(model_.sites()[site].name);
    auto& each = out.saved.emplace_back();
    for (size_t i = 0; i < parts.size(); ++i)
      each.push_back(
          alone ? value : part(value, rows.view.packed[i].row, parts[i]));
  }
  return out;
}

}  // namespace mlxterp
