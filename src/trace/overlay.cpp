#include "trace/overlay.h"

#include <algorithm>
#include <sstream>

#include "core/fail.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

std::string shown(const mx::array& x) {
  std::ostringstream dtype;
  dtype << x.dtype();
  return fmt::format(
      "{} ({})",
      dtype.str(),
      fmt::join(std::vector<int>(x.shape().begin(), x.shape().end()), ", "));
}

// The sites of an attached module, by their numbers in the whole catalog.
class Shifted final : public Observer {
 public:
  Shifted(Observer& outer, SiteId first) : outer_(outer), first_(first) {}

  mx::array at(SiteId site, mx::array value) override {
    return site < 0 ? value : outer_.at(first_ + site, std::move(value));
  }
  bool edits(SiteId site) const override {
    return site >= 0 && outer_.edits(first_ + site);
  }
  void offer(SiteId site, std::function<mx::array()> make) override {
    if (site >= 0) outer_.offer(first_ + site, std::move(make));
  }

 private:
  Observer& outer_;
  SiteId first_;
};

int rows_in(const std::vector<PackedRows>& packed) {
  return packed.empty() ? 0 : packed.back().row + packed.back().length;
}

// `f` on each sequence by itself, [1, pos, ...].
template <typename F>
mx::array by_sequence(
    const mx::array& value, std::span<const PackedRows> packed, const F& f) {
  std::vector<mx::array> parts;
  for (const auto& it : packed) {
    auto from = mx::Shape(value.ndim(), 0), to = value.shape();
    from[1] = it.row;
    to[1] = it.row + it.length;
    parts.push_back(f(mx::slice(value, from, to), it));
  }
  return parts.size() == 1 ? parts[0] : mx::concatenate(std::move(parts), 1);
}

// One value for all rows of a batch as one for each: MLX 0.32.4 rotates such a
// view on CUDA in place, once for each row.
mx::array written_out(const mx::array& x) {
  return x.ndim() > 1 && x.shape(0) > 1 &&
                 mx::default_device() == mx::Device::gpu
             ? mx::contiguous(x)
             : x;
}

}  // namespace

mx::array apply_edit(
    const Intervention& edit,
    const mx::array& value,
    const SiteView& at,
    bool* acted) {
  auto changed = edit(value, at);
  if (acted && changed.id() != value.id()) *acted = true;
  if (changed.shape() != value.shape() || changed.dtype() != value.dtype())
    fail(
        ErrorKind::usage,
        "[trace] the intervention on site '{}' returned {}; expected {}",
        at.name,
        shown(changed),
        shown(value));
  // Modules hold indices against what they pick from, where they see them.
  if (mx::issubdtype(changed.dtype(), mx::integer) && !changed.is_tracer())
    changed.eval();
  return written_out(changed);
}

Overlay::Overlay(
    const Overlay* base, const SiteCatalog& sites, const Edit& edit) {
  if (base) *this = *base;
  for (const auto site : sites.match(edit.site))
    steps_[site].emplace_back(edit.apply);
  reach_ = std::max(reach_, edit.apply.reach());
}

Overlay::Overlay(const Overlay* base, SiteId site, Attached attached) {
  if (base) *this = *base;
  reach_ = std::max(reach_, attached.reach);
  if (attached.reads >= 0) reads_.insert(attached.reads);
  steps_[site].emplace_back(std::move(attached));
}

void Standing::check_reached() const {
  std::string missed;
  for (const auto& [site, steps] : overlay_.steps())
    if (!reached_.contains(site))
      missed += (missed.empty() ? "" : ", ") + sites_[site].name;
  if (!missed.empty())
    fail(
        ErrorKind::usage,
        "[trace] the pass never reached these sites, where the model's handle "
        "makes edits or has a module attached: {}; another edit, or the module "
        "above them, bypasses them",
        missed);
}

mx::array Standing::at(SiteId site, mx::array value) {
  if (overlay_.edits(site)) {
    reached_.insert(site);
    const auto before = value;
    const auto& steps = overlay_.at(site);
    for (size_t i = 0; i < steps.size(); ++i) {
      bool acted = false;
      value = stepped(steps[i], site, value, acted);
      if (acted) acted_.emplace(site, i);
    }
    if (inner_) inner_->edited(site, before, value);
  }
  if (inner_) value = inner_->at(site, std::move(value));
  if (overlay_.reads(site)) read_.insert_or_assign(site, value);
  return value;
}

const mx::array& Standing::read_by(
    const Overlay::Attached& it, SiteId site, const mx::array& value) const {
  if (it.reads < 0) return value;
  const auto found = read_.find(it.reads);
  if (found == read_.end())
    fail(
        ErrorKind::usage,
        "[attach] the module at site '{}' reads '{}', which the pass has not "
        "reached by then; name one that stands before it",
        sites_[site].name,
        sites_[it.reads].name);
  return found->second;
}

bool Standing::edits_within(const Overlay::Attached& it) const {
  for (SiteId i = 0; i < it.sites; ++i)
    if (edits(it.first + i)) return true;
  return false;
}

mx::array Standing::stepped(
    const Overlay::Step& step,
    SiteId site,
    const mx::array& value,
    bool& acted) {
  if (const auto* attached = std::get_if<Overlay::Attached>(&step)) {
    auto made = through(*attached, site, value);
    if (attached->mode == AttachOptions::Mode::read) return value;
    return mx::astype(std::move(made), value.dtype());
  }
  const auto& edit = std::get<Intervention>(step);
  const auto at = view(site, value);
  if (at.packed.empty() || edit.reach() != Overlay::Reach::sequence)
    return apply_edit(edit, value, at, &acted);
  if (at.layout == Layout::scores) return apply_edit(edit, value, at, &acted);
  return by_sequence(
      value, at.packed, [&](const mx::array& one, const PackedRows& it) {
        const std::vector<int> length = {it.length};
        auto own = at;
        own.lengths = length;
        own.packed = {};
        if (it.prompt >= 0) {
          one_ = {it};
          one_[0].row = 0;
          own.packed = one_;
          own.offset = it.first;
        }
        return apply_edit(edit, one, own, &acted);
      });
}

mx::array Standing::through(
    const Overlay::Attached& it, SiteId site, const mx::array& value) {
  Shifted shifted(*this, it.first);
  const auto run = [&](const mx::array& x) {
    Pass pass(shifted);
    const auto& given = read_by(it, site, x);
    auto y = (*it.module)(given, pass);
    if (it.mode != AttachOptions::Mode::read && y.shape() != x.shape())
      fail(
          ErrorKind::usage,
          "[attach] the module at site '{}' returned {}; expected {}. Return "
          "that shape, or attach it with mode 'read'",
          sites_[site].name,
          shown(y),
          shown(x));
    if (it.mode != AttachOptions::Mode::read) y = written_out(y);
    if (it.error < 0) return y;
    if (!edits_within(it)) {
      at(it.error, mx::subtract(x, y));
      return x;
    }
    Pass plain;
    return mx::add(
        y, at(it.error, mx::subtract(x, (*it.module)(given, plain))));
  };
  if (rows_.packed.empty() || it.reach != Overlay::Reach::sequence)
    return run(value);
  const auto rows = rows_;
  auto y = by_sequence(
      value, rows.packed, [&](const mx::array& one, const PackedRows& of) {
        rows_ = {.lengths = {of.length}};
        if (of.prompt >= 0) {
          rows_ = {.packed = {of}, .step = rows.step, .batch = rows.batch};
          rows_.packed[0].row = 0;
        }
        return run(one);
      });
  rows_ = rows;
  return y;
}

SiteView Standing::view(SiteId site, const mx::array& value) {
  const auto& entry = sites_[site];
  SiteView out{
      .name = entry.name,
      .site = site,
      .layout = entry.layout,
      .lengths = rows_.lengths,
      .offset = rows_.offset,
      .step = rows_.step,
      .batch = rows_.batch};
  if (rows_.packed.empty()) return out;
  if (entry.layout == Layout::scores) {
    const int dest = value.shape(2), src = value.shape(3);
    // Text is generated one prompt at a time where scores are looked at.
    if (rows_.batch > 0)
      scores_ = rows_.packed;
    else
      scores_ = {{.length = dest, .first = src - dest, .total = src}};
    out.packed = scores_;
  } else {
    const bool all = value.shape(1) == rows_in(rows_.packed);
    out.packed = all ? rows_.packed : rows_.kept;
  }
  return out;
}

}  // namespace mlxterp
