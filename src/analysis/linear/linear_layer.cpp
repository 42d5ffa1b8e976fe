#include "analysis/linear/linear_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "analysis/gradient_tap.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Positions of one pass beyond which a larger one is no faster.
constexpr int positions_that_pay = 4096;

mx::array part(const mx::array& x, int axis, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = from;
  last[static_cast<size_t>(axis)] = to;
  return mx::slice(x, first, last);
}

mx::array tiled(const mx::array& x, int times) {
  if (times == 1) return x;
  return mx::concatenate(
      std::vector<mx::array>(static_cast<size_t>(times), x), 0);
}

// `some` in place of the positions of `all` from `from` on.
mx::array with_positions(
    const mx::array& all, const mx::array& some, int from) {
  const int to = from + some.shape(1);
  std::vector<mx::array> parts;
  if (from > 0) parts.push_back(part(all, 1, 0, from));
  parts.push_back(some);
  if (to < all.shape(1)) parts.push_back(part(all, 1, to, all.shape(1)));
  return parts.size() == 1 ? some : mx::concatenate(std::move(parts), 1);
}

// `back` of all rows [row, ...] at once, or mapped over them one by one, so
// that what does not depend on them is there once.
std::vector<mx::array> each_row(
    const std::function<std::vector<mx::array>(const std::vector<mx::array>&)>&
        back,
    const std::vector<mx::array>& rows,
    bool mapped) {
  if (!mapped) return back(rows);
  const auto one = [&](std::vector<mx::array> row) {
    for (auto& it : row)
      it = mx::expand_dims(it, 0);
    auto out = back(row);
    for (auto& it : out)
      it = mx::squeeze(it, 0);
    return out;
  };
  return mx::vmap(one)(rows);
}

// Keeps what a layer writes from being differentiated.
class Dropping final : public Observer {
 public:
  Dropping(const SiteCatalog& sites, int layer, Observer& inner)
      : inner_(inner) {
    for (const auto* it : {"attn_out", "mlp_out", "ple_out"})
      for (const auto site :
           sites.lookup(fmt::format("layers.{}.{}", layer, it)))
        written_.insert(site);
  }

  mx::array at(SiteId site, mx::array value) override {
    value = inner_.at(site, std::move(value));
    return written_.contains(site) ? mx::stop_gradient(value) : value;
  }
  bool edits(SiteId site) const override {
    return inner_.edits(site) || written_.contains(site);
  }
  void offer(SiteId, std::function<mx::array()>) override {}

 private:
  std::set<SiteId> written_;
  Observer& inner_;
};

}  // namespace

LinearLayer::LinearLayer(
    const InterpretableModel& model,
    const HeldSites& held,
    int number,
    int length,
    const Stream& entering,
    const Carried& constant)
    : model_(model),
      held_(held),
      number_(number),
      length_(length),
      entering_(entering) {
  for (const auto& [name, value] : entering.carried)
    if (!constant.contains(name) && mx::issubdtype(value.dtype(), mx::floating))
      made_.push_back(name);
}

void LinearLayer::watch(SiteId site, const mx::array& zero) {
  watched_.push_back(site);
  zeros_.push_back(zero);
}

LinearLayer::Below LinearLayer::back(
    const Stream& above, int from, bool dropped) const {
  std::vector<mx::array> cotangents{mx::astype(above.x, entering_.x.dtype())};
  std::vector<std::string> leaving;
  for (const auto& [name, value] : above.carried) {
    cotangents.push_back(value);
    leaving.push_back(name);
  }
  const int n = above.x.shape(0);
  const int at_once =
      std::max(1, positions_that_pay / (points() * entering_.x.shape(1)));
  // MLX cannot map the product of chosen experts over rows, nor on a GPU those
  // of packed weights.
  const bool maps =
      !model_.decoder().layers[static_cast<size_t>(number_)]->moe &&
      mx::default_device() == mx::Device::cpu;
  std::vector<std::vector<mx::array>> parts(1 + made_.size() + watched_.size());
  for (int row = 0; row < n; row += at_once) {
    const int to = std::min(n, row + at_once);
    auto some = cotangents;
    for (auto& it : some)
      it = part(it, 0, row, to);
    auto below = each_row(
        [&](const auto& rows) { return through(rows, leaving, from, dropped); },
        some,
        maps && to - row > 1);
    for (size_t i = 0; i < below.size(); ++i)
      parts[i].push_back(below[i]);
    if (n > at_once) mx::eval(std::move(below));
  }
  const auto all = [&](size_t i) {
    return parts[i].size() == 1 ? parts[i][0] : mx::concatenate(parts[i], 0);
  };
  Below out{{all(0)}, {}};
  for (size_t i = 0; i < made_.size(); ++i)
    out.rows.carried.emplace(made_[i], all(1 + i));
  for (size_t i = 0; i < watched_.size(); ++i)
    out.gradients.push_back(all(1 + made_.size() + i));
  return out;
}

std::vector<mx::array> LinearLayer::through(
    std::vector<mx::array> cotangents,
    const std::vector<std::string>& leaving,
    int from,
    bool dropped) const {
  const int copies = cotangents[0].shape(0), n = copies * points();
  const int to = from + cotangents[0].shape(2);
  for (auto& it : cotangents)
    it = mx::flatten(it, 0, 1);
  const auto in = tiled(entering_.x, copies);
  const auto beside = each(
      entering_.carried, [&](const mx::array& x) { return tiled(x, copies); });
  // By what enters, what earlier layers made beside it, and the zeros.
  std::vector<mx::array> inputs{part(in, 1, from, to)};
  for (const auto& name : made_)
    inputs.push_back(part(beside.at(name), 1, from, to));
  for (const auto& zero : zeros_)
    inputs.push_back(tiled(zero, copies));
  const auto run = [&](const std::vector<mx::array>& changed) {
    std::vector<mx::array> zeros;
    for (size_t i = 0; i < zeros_.size(); ++i)
      zeros.push_back(mx::repeat(changed[1 + made_.size() + i], points(), 0));
    GradientTap tap(model_.sites().size(), watched_);
    tap.zeros = &zeros;
    Dropping dropping(model_.sites(), number_, tap);
    HeldObserver observer(
        held_, dropped ? static_cast<Observer*>(&dropping) : &tap);
    const bool plain = !held_.any() && !dropped && watched_.empty();
    Stepper stepper(
        model_,
        plain ? nullptr : &observer,
        {.lengths = std::vector(static_cast<size_t>(n), length_)});
    stepper.carried() = beside;
    for (size_t i = 0; i < made_.size(); ++i)
      stepper.carried().insert_or_assign(
          made_[i], with_positions(beside.at(made_[i]), changed[1 + i], from));
    const auto x = stepper.layer(number_, with_positions(in, changed[0], from));
    std::vector<mx::array> out{part(x, 1, from, to)};
    for (const auto& name : leaving)
      out.push_back(part(find(stepper.carried(), name), 1, from, to));
    return out;
  };
  auto below = mx::vjp(run, inputs, cotangents).second;
  for (size_t i = 0; i <= made_.size(); ++i)
    below[i] = mx::unflatten(below[i], 0, {copies, points()});
  return below;
}

}  // namespace mlxterp
