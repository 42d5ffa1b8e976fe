// Attribution patching on the demo model, in plain forward passes of the same
// run.

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "benchmarks/timing.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/attribute.h"

namespace {

using namespace mlxterp;
using namespace mlxterp::bench;

double middle(std::vector<double> all) {
  std::ranges::sort(all);
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
  const std::vector<std::string> all = {
      "resid_pre",
      "resid_mid",
      "resid_post",
      "attn_out",
      "mlp_out",
      "z",
      "q",
      "k",
      "v",
      "mlp.post"};
  const auto forward = [&] {
    auto y = model(clean);
    y.eval();
  };
  const auto row = [&](const char* what,
                       const std::string& corrupted,
                       const std::vector<std::string>& sites,
                       const std::vector<Axis>& by,
                       int steps,
                       AttributionMethod method = AttributionMethod::atp,
                       int rounds = 9) {
    const AttributeOptions options{
        .clean = clean,
        .corrupt = corrupted,
        .sites = sites,
        .by = by,
        .metric = logit_diff(" Mary", " John"),
        .method = method,
        .steps = steps};
    attribute(model, options);
    forward();
    std::vector<double> ratios, ones, times;
    for (int i = 0; i < rounds; ++i) {
      // Between two forwards: the machine's mood changes.
      const double before = seconds(forward);
      times.push_back(seconds([&] { attribute(model, options); }));
      ones.push_back((before + seconds(forward)) / 2);
      ratios.push_back(times.back() / ones.back());
    }
    fmt::print(
        "{:<36} {:7.1f} ms  forward {:6.1f} ms  {:5.2f} forward passes\n",
        what,
        middle(times) * 1e3,
        middle(ones) * 1e3,
        middle(ratios));
    std::fflush(stdout);
  };
  using enum Axis;
  row("resid_pre, IOI", corrupt, {"resid_pre"}, {layer, position}, 1);
  row("z by head, IOI", corrupt, {"z"}, {layer, head}, 1);
  row("all 10 sites, IOI", corrupt, all, {layer, position}, 1);
  row("all 10 sites, no shared prefix", other, all, {layer, position}, 1);
  row("resid_pre, IOI, 5 steps", corrupt, {"resid_pre"}, {layer, position}, 5);
  const auto nodes = std::vector<std::string>{"q", "k"};
  using enum AttributionMethod;
  row("q and k, QK fix", corrupt, nodes, {layer, position, head}, 1, qk_fix);
  row("q and k, AtP*", corrupt, nodes, {layer, position, head}, 1, atp_star, 5);
  row("mlp_out, GradDrop",
      corrupt,
      {"mlp_out"},
      {layer, position},
      1,
      grad_drop,
      5);
}
