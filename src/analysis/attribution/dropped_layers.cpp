#include "analysis/attribution/dropped_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "analysis/gradient_tap.h"
#include "analysis/linear/each_row.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Positions of one pass beyond which a larger one is no faster.
constexpr int positions_that_pay = 4096;

mx::array rows(const mx::array& x, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[0] = from;
  last[0] = to;
  return mx::slice(x, first, last);
}

// Row 0 `whole` times, then `own`, then the others.
mx::array joined(const mx::array& all, const mx::array& own, int whole) {
  std::vector<mx::array> parts;
  if (whole > 0) parts.push_back(mx::repeat(rows(all, 0, 1), whole, 0));
  parts.push_back(own);
  if (all.shape(0) > 1) parts.push_back(rows(all, 1, all.shape(0)));
  return mx::concatenate(std::move(parts), 0);
}

mx::array tiled(const mx::array& x, int times) {
  if (times == 1) return x;
  return mx::concatenate(
      std::vector<mx::array>(static_cast<size_t>(times), x), 0);
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

// One layer at some points, of which rows of cotangents are taken back.
class Layer {
 public:
  // `constant`: what no layer made.
  Layer(
      const DroppedLayers& of,
      int number,
      int length,
      const Stream& in,
      const Carried& constant)
      : of_(of), number_(number), length_(length), in_(in) {
    for (const auto& [name, value] : in.carried)
      if (!constant.contains(name) &&
          mx::issubdtype(value.dtype(), mx::floating))
        names_.push_back(name);
    for (size_t i = 0; i < of.watched.size(); ++i)
      if (of.model.sites()[of.watched[i]].layer == number) taps_.push_back(i);
  }

  // Those of `watched` that are in it.
  const std::vector<size_t>& taps() const { return taps_; }

  struct Below {
    Stream rows;                       // of what enters it
    std::vector<mx::array> gradients;  // by taps(), [row, ...]
  };
  // Rows [row, point, ...] of what leaves it.
  Below back(const Stream& above, bool dropped) const {
    std::vector<mx::array> cotangents{above.x};
    std::vector<std::string> leaving;
    for (const auto& [name, value] : above.carried) {
      cotangents.push_back(value);
      leaving.push_back(name);
    }
    const int n = above.x.shape(0);
    const int at_once =
        std::max(1, positions_that_pay / (points() * in_.x.shape(1)));
    const auto& own = *of_.model.decoder().layers[static_cast<size_t>(number_)];
    std::vector<std::vector<mx::array>> parts;
    for (int row = 0; row < n; row += at_once) {
      const int to = std::min(n, row + at_once);
      auto some = cotangents;
      for (auto& it : some)
        it = rows(it, row, to);
      auto below = each_row(
          [&](const auto& of_rows) {
            return through(of_rows, leaving, dropped);
          },
          some,
          to - row > 1 && maps_rows(own));
      if (parts.empty()) parts.resize(below.size());
      for (size_t i = 0; i < below.size(); ++i)
        parts[i].push_back(below[i]);
      if (n > at_once) mx::eval(std::move(below));
    }
    const auto all = [&](size_t i) {
      return parts[i].size() == 1 ? parts[i][0] : mx::concatenate(parts[i], 0);
    };
    Below out{{all(0)}, {}};
    for (size_t i = 0; i < names_.size(); ++i)
      out.rows.carried.emplace(names_[i], all(1 + i));
    for (size_t i = 0; i < taps_.size(); ++i)
      out.gradients.push_back(all(1 + names_.size() + i));
    return out;
  }

 private:
  int points() const { return in_.x.shape(0); }

  // By what enters, what earlier layers made beside it, and the zeros.
  std::vector<mx::array> through(
      std::vector<mx::array> cotangents,
      const std::vector<std::string>& leaving,
      bool dropped) const {
    const int copies = cotangents[0].shape(0), n = copies * points();
    for (auto& it : cotangents)
      it = mx::flatten(it, 0, 1);
    std::vector<mx::array> inputs{tiled(in_.x, copies)};
    for (const auto& name : names_)
      inputs.push_back(tiled(in_.carried.at(name), copies));
    for (const auto i : taps_)
      inputs.push_back(tiled(of_.zeros[i], copies));
    const auto run = [&](const std::vector<mx::array>& changed) {
      auto zeros = of_.zeros;
      for (size_t i = 0; i < taps_.size(); ++i)
        zeros[taps_[i]] =
            mx::repeat(changed[1 + names_.size() + i], points(), 0);
      GradientTap tap(of_.model.sites().size(), of_.watched);
      tap.zeros = &zeros;
      Dropping dropping(of_.model.sites(), number_, tap);
      HeldObserver observer(
          of_.held, dropped ? static_cast<Observer*>(&dropping) : &tap);
      Stepper stepper(
          of_.model,
          &observer,
          {.lengths = std::vector(static_cast<size_t>(n), length_)});
      stepper.carried() = each(
          in_.carried, [&](const mx::array& x) { return tiled(x, copies); });
      for (size_t i = 0; i < names_.size(); ++i)
        stepper.carried().insert_or_assign(names_[i], changed[1 + i]);
      std::vector<mx::array> out{stepper.layer(number_, changed[0])};
      for (const auto& name : leaving)
        out.push_back(stepper.carried().at(name));
      return out;
    };
    auto below = mx::vjp(run, inputs, cotangents).second;
    for (size_t i = 0; i <= names_.size(); ++i)
      below[i] = mx::unflatten(below[i], 0, {copies, points()});
    return below;
  }

  const DroppedLayers& of_;
  int number_, length_;
  const Stream& in_;
  std::vector<std::string> names_;
  std::vector<size_t> taps_;
};

}  // namespace

void DroppedLayers::walk(
    const Stream& points,
    int length,
    const Top& top,
    const Found& found,
    const std::function<void(int layer)>& on_layer) const {
  Stepper stepper(
      model,
      nullptr,
      {.lengths = std::vector(static_cast<size_t>(points.x.shape(0)), length)});
  stepper.carried() = points.carried;
  const int n = model.decoder().config().n_layers;
  std::vector<Stream> entering;
  auto x = points.x;
  for (int i = 0; i < n; ++i) {
    entering.push_back({x, stepper.carried()});
    x = stepper.layer(i, x);
  }
  // Row 0 is the whole gradient's.
  Stream above{mx::expand_dims(top(x), 0)};
  for (int i = n - 1; i >= from; --i) {
    const Layer layer(
        *this, i, length, entering[static_cast<size_t>(i)], points.carried);
    const auto below = layer.back(above, false);
    const auto first = [](const mx::array& it) { return rows(it, 0, 1); };
    const auto own =
        layer.back({first(above.x), each(above.carried, first)}, true);
    for (size_t k = 0; k < layer.taps().size(); ++k)
      found(
          layer.taps()[k],
          joined(below.gradients[k], own.gradients[k], i - from));
    above = {joined(below.rows.x, own.rows.x, 1)};
    std::vector<mx::array> kept;
    for (const auto& [name, value] : below.rows.carried)
      kept.push_back(
          above.carried
              .emplace(name, joined(value, own.rows.carried.at(name), 1))
              .first->second);
    kept.push_back(above.x);
    if (i > from) mx::eval(std::move(kept));
    on_layer(i);
  }
}

}  // namespace mlxterp
