#include "mlxterp/trace/context.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/evaluate.h"
#include "core/fail.h"
#include "core/machine.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// A trace this thread is inside of. It may be deleted on another.
struct Active {
  TraceContext* context;
  std::weak_ptr<void> life;
};

// The innermost last.
thread_local std::vector<Active> active;

// MLX on a CPU dies where memory cannot be had, so ask before.
void check_memory(const std::vector<mx::array>& values) {
  size_t bytes = 0;
  for (const auto& value : values)
    if (!value.is_available()) bytes += value.nbytes();
  if (const size_t limit = std::min(machine_memory(), address_space_left());
      bytes > limit)
    fail(
        ErrorKind::environment,
        "[trace] the values to save take {:.1f} GB, this process can have "
        "{:.1f} GB; save fewer sites, or shorter or fewer prompts at once",
        static_cast<double>(bytes) / 1e9,
        static_cast<double>(limit) / 1e9);
}

// Whether an edit made its value of the one before, which is then computed in
// any case: one that was replaced must not be. Edits are short; what is further
// away counts as a replacement.
bool made_of(const mx::array& after, const mx::array& before) {
  constexpr size_t far = 64;
  std::vector<mx::array> near = {after};
  for (size_t i = 0; i < near.size() && i < far; ++i) {
    if (near[i].id() == before.id()) return true;
    const auto inputs = near[i].inputs();
    near.insert(near.end(), inputs.begin(), inputs.end());
  }
  return false;
}

// Of a number in a floating dtype.
bool is_nan(mx::array x) {
  switch (x.dtype().val()) {
    case mx::Dtype::Val::float16:
      return std::isnan(static_cast<float>(x.item<mx::float16_t>()));
    case mx::Dtype::Val::bfloat16:
      return std::isnan(static_cast<float>(x.item<mx::bfloat16_t>()));
    case mx::Dtype::Val::float64:
      return std::isnan(x.item<double>());
    default:
      return std::isnan(x.item<float>());
  }
}

}  // namespace

TraceContext::TraceContext(
    std::shared_ptr<const SiteCatalog> sites,
    std::vector<Edit> edits,
    std::vector<int> lengths,
    const std::vector<SiteId>& wanted_sites,
    int offset)
    : sites_(std::move(sites)),
      edits_(std::move(edits)),
      lengths_(std::move(lengths)),
      offset_(offset),
      flags_(sites_->size()),
      values_(sites_->size()) {
  for (const auto site : wanted_sites)
    flags_[static_cast<size_t>(site)] |= wanted;
  for (const auto& edit : edits_) {
    for (const auto site : sites_->match(edit.site)) {
      flags_[static_cast<size_t>(site)] |= changed;
      edits_at_[site].push_back(&edit.apply);
    }
  }
}

TraceContext::TraceContext(
    std::shared_ptr<const SiteCatalog> sites,
    std::vector<Edit> edits,
    std::vector<int> lengths,
    Everything)
    : TraceContext(
          std::move(sites),
          std::move(edits),
          std::move(lengths),
          std::vector<SiteId>{}) {
  for (auto& flags : flags_)
    flags |= wanted;
  offers_.reserve(sites_->size() / 2);
}

mx::array TraceContext::at(SiteId site, mx::array value) {
  if (site < 0) return value;
  auto& flags = flags_[static_cast<size_t>(site)];
  if (flags & changed) {
    const auto& entry = (*sites_)[site];
    const SiteView view{
        .name = entry.name,
        .site = site,
        .layout = entry.layout,
        .lengths = lengths_,
        .offset = offset_};
    const auto before = value;
    for (const auto* edit : edits_at_.at(site))
      value = apply_edit(*edit, value, view);
    edited(site, before, value);
  }
  if (flags & wanted) values_[static_cast<size_t>(site)] = value;
  flags |= reached;
  return value;
}

void TraceContext::edited(
    SiteId site, const mx::array& before, const mx::array& after) {
  if (!mx::issubdtype(after.dtype(), mx::inexact) || after.is_tracer()) return;
  Guard::Edited own{std::nullopt, after};
  if (made_of(after, before)) own.before = before;
  // Arrays that are held are not written in place: of small ones that is cheap.
  constexpr size_t small = 1 << 16;
  const bool hides = (*sites_)[site].layout == Layout::scores;
  if (after.size() <= small && !hides &&
      mx::issubdtype(after.dtype(), mx::floating)) {
    // Nothing less itself but a NaN or an infinity makes a NaN.
    const auto any = mx::sum(mx::subtract(after, after));
    guards_.push_back({site, any, std::move(own)});
    return;
  }
  guards_.push_back({site, fault(site, own)});
}

// 1: an infinity, 2 and more: a NaN.
mx::array TraceContext::fault(SiteId site, const Guard::Edited& edited) const {
  const auto& [before, after] = edited;
  // In scores -inf hides a position.
  auto infinite = (*sites_)[site].layout == Layout::scores ? mx::isposinf(after)
                                                           : mx::isinf(after);
  if (before) infinite = mx::logical_and(infinite, mx::isfinite(*before));
  return mx::maximum(
      mx::astype(mx::any(infinite), mx::int32),
      mx::multiply(
          mx::array(2), mx::astype(mx::any(mx::isnan(after)), mx::int32)));
}

bool TraceContext::edits(SiteId site) const {
  return is(site, changed);
}

void TraceContext::offer(SiteId site, std::function<mx::array()> make) {
  if (site < 0) return;
  flags_[static_cast<size_t>(site)] |= reached;
  if (is(site, wanted)) offers_.emplace_back(site, std::move(make));
}

void TraceContext::check_reached() const {
  std::string missed;
  for (size_t i = 0; i < flags_.size(); ++i) {
    if (flags_[i] & reached || !(flags_[i] & changed)) continue;
    missed += (missed.empty() ? "" : ", ") + (*sites_)[SiteId(i)].name;
  }
  if (!missed.empty())
    fail(
        ErrorKind::usage,
        "[trace] the pass never reached these edited sites: {}; another edit, "
        "or the module above them, bypasses them",
        missed);
}

// MLX's streams belong to a thread: its own words say nothing of traces.
void TraceContext::check_thread() const {
  if (thread_ != std::this_thread::get_id())
    fail(
        ErrorKind::usage,
        "[trace] the trace was begun on another thread; read, save and end it "
        "there, "
        "or start one here");
}

const mx::array& TraceContext::handle(SiteId site) {
  check_thread();
  auto& value = values_[static_cast<size_t>(site)];
  if (!value) {
    const auto made =
        std::find_if(offers_.rbegin(), offers_.rend(), [&](const auto& offer) {
          return offer.first == site && offer.second;
        });
    if (made == offers_.rend())
      fail(
          ErrorKind::usage,
          "[trace] the pass never reached site '{}'; an edit, or the module "
          "above it, bypasses it",
          (*sites_)[site].name);
    value = std::exchange(made->second, nullptr)();
  }
  return *value;
}

mx::array TraceContext::value(std::string_view name) {
  const auto site = sites_->find(name);
  if (ended_)
    fail(
        ErrorKind::usage,
        "[trace] '{}' cannot be read: the trace has ended",
        (*sites_)[site].name);
  return handle(site);
}

Saved TraceContext::save(std::string_view name) {
  const auto site = sites_->find(name);
  if (ended_)
    fail(
        ErrorKind::usage,
        "[trace] '{}' cannot be saved: the trace has ended",
        (*sites_)[site].name);
  for (const auto& state : saved_)
    if (state->site == site) return Saved(state);
  save(site);
  return Saved(saved_.back());
}

void TraceContext::save(SiteId site) {
  saved_.push_back(std::make_shared<Saved::State>(
      Saved::State{site, (*sites_)[site].name, handle(site), nullptr}));
}

void TraceContext::finish(
    std::vector<mx::array> kept, const std::function<void()>& between) {
  if (ended_) return;
  check_thread();
  ended_ = true;
  offers_.clear();  // first: the graph falls apart faster where none holds it
  values_.clear();
  const auto guards = std::move(guards_);
  if (saved_.empty() && kept.empty()) return;
  try {
    auto values = std::move(kept);
    for (const auto& state : saved_)
      values.push_back(state->value);
    check_memory(values);
    for (const auto& guard : guards)
      values.push_back(guard.fault);
    evaluate(std::move(values), between);
    check_guards(guards);
  } catch (...) {
    abandon(std::current_exception());
    throw;
  }
}

void TraceContext::check_guards(const Guards& guards) const {
  for (const auto& [site, any, looked_at] : guards) {
    if (looked_at && !is_nan(any)) continue;
    auto found = looked_at ? fault(site, *looked_at) : any;
    if (const int what = found.item<int>())
      fail(
          ErrorKind::usage,
          "[trace] the intervention on site '{}' returned {}; check its "
          "arithmetic for x/0, inf-inf or a scale beyond the dtype",
          (*sites_)[site].name,
          what == 1 ? "an infinity" : "NaN");
  }
}

std::vector<mx::array> TraceContext::guards() const {
  std::vector<mx::array> all;
  for (const auto& guard : guards_)
    all.push_back(guard.fault);
  return all;
}

void TraceContext::check() const {
  check_thread();
  check_guards(guards_);
}

void TraceContext::abandon(const std::exception_ptr& error) {
  ended_ = true;
  offers_.clear();
  values_.clear();
  guards_.clear();
  for (const auto& state : saved_) {
    // An array whose evaluation failed may look evaluated: keep none.
    state->value = mx::array(0);
    state->error = error;
  }
}

ActivationCache TraceContext::saved() {
  finish();
  std::vector<std::pair<SiteId, mx::array>> values;
  for (const auto& state : saved_) {
    if (state->error) std::rethrow_exception(state->error);
    values.emplace_back(state->site, state->value);
  }
  return {sites_, std::move(values), lengths_};
}

void TraceContext::push(TraceContext& context) {
  active.push_back({&context, context.life_});
}

void TraceContext::pop(TraceContext& context) {
  // Traces need not end in the order they began.
  std::erase_if(active, [&](const Active& it) {
    return it.context == &context || it.life.expired();
  });
}

TraceContext* TraceContext::current() {
  while (!active.empty() && active.back().life.expired())
    active.pop_back();
  return active.empty() ? nullptr : active.back().context;
}

const Saved::State& Saved::state() const {
  if (!state_)
    fail(
        ErrorKind::usage,
        "[Saved] nothing was saved; assign it from .save() inside a trace");
  return *state_;
}

const mx::array& Saved::value() const {
  if (state().error) std::rethrow_exception(state().error);
  return state().value;
}

const std::string& Saved::name() const {
  return state().name;
}

}  // namespace mlxterp
