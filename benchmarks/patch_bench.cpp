// Patching sweeps on the demo model, in plain forward passes of the same run.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "mlx/transforms.h"
#include "mlxterp/analysis/patch.h"

namespace {

using namespace mlxterp;
using Clock = std::chrono::steady_clock;

template <typename F>
double seconds(const F& f) {
  const auto begin = Clock::now();
  f();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <typename F>
double median(int times, const F& f) {
  std::vector<double> all;
  for (int i = 0; i < times; ++i)
    all.push_back(seconds(f));
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const auto model = InterpretableModel::load(argc > 1 ? argv[1] : "demo");
  const std::string clean =
      "When Mary and John went to the store, John gave a drink to";
  const std::string corrupt =
      "When Mary and John went to the store, Mary gave a drink to";
  // Differs from its first token on.
  const std::string other =
      "As Anna and Tom left for the shop, Tom gave some food to";
  const auto forward = [&] {
    auto y = model(clean);
    y.eval();
  };
  forward();
  std::string rows;
  const auto row = [&](const char* what, PatchOptions options) {
    patch(model, options);
    Sweep sweep;
    double one = 0, all = 0;
    std::vector<double> ratios;
    for (int i = 0; i < 5; ++i) {
      one = median(5, forward);
      all = seconds([&] { sweep = patch(model, options); });
      ratios.push_back(all / (one * static_cast<double>(sweep.cells())));
    }
    std::sort(ratios.begin(), ratios.end());
    fmt::print(
        "{:<28} {:4} cells {:7.1f} ms  forward {:6.1f} ms  {:.4f} of one pass "
        "a cell\n",
        what,
        sweep.cells(),
        all * 1e3,
        one * 1e3,
        ratios[ratios.size() / 2]);
    std::fflush(stdout);
  };
  const auto metric = logit_diff(" Mary", " John");
  row("resid_pre, IOI", {.clean = clean, .corrupt = corrupt, .metric = metric});
  row("resid_pre, no shared prefix",
      {.clean = clean, .corrupt = other, .metric = metric});
  row("z by head, IOI",
      {.clean = clean,
       .corrupt = corrupt,
       .site = "z",
       .by = {Axis::layer, Axis::head},
       .metric = metric});
}
