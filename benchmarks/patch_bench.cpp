// Patching sweeps on the demo model, in plain forward passes of the same run;
// and how their cost grows, on a small model of random weights.
//   patch_bench [MODEL]    both
//   patch_bench growth     only the latter

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/ratios.h"
#include "benchmarks/timing.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/patch.h"

namespace mx = mlx::core;

namespace {

using namespace mlxterp;
using bench::seconds;

template <typename F>
double median(int times, const F& f) {
  std::vector<double> all;
  for (int i = 0; i < times; ++i)
    all.push_back(seconds(f));
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

InterpretableModel random_model(int layers) {
  DecoderConfig config;
  config.model_type = "llama";
  config.vocab = 4096;
  config.d_model = 256;
  config.n_layers = layers;
  config.n_heads = 8;
  config.n_kv_heads = 4;
  config.d_head = 32;
  config.d_mlp = 768;
  config.context = 512;
  config.rope = {.dims = 32};
  config.tied = true;
  auto decoder = std::make_shared<Decoder>(config);
  for (const auto& [path, weight] : decoder->mutable_parameters()) {
    *weight = weight->ndim() == 1
                  ? mx::ones(weight->shape())
                  : mx::multiply(
                        mx::random::normal(weight->shape()), mx::array(0.05f));
    weight->eval();
  }
  return InterpretableModel(decoder);
}

// Two prompts that differ from their first token on.
PatchOptions sweep_of(int length) {
  const auto prompt = [&](int seed) {
    std::vector<int> ids;
    for (int i = 0; i < length; ++i)
      ids.push_back((seed + 797 * (i + 1) * seed) % 4096);
    return ids;
  };
  return {
      .clean = prompt(3), .corrupt = prompt(5), .metric = logit_diff(100, 200)};
}

// Cells times what each has yet to compute: both grow with layers and prompt,
// so twice of either is four times the work.
void growth() {
  struct Size {
    const char* what;
    int layers, length;
    InterpretableModel model;
    double best = 1e9;
    Sweep sweep = {};
  };
  std::array sizes = {
      Size{"", 8, 24, random_model(8)},
      Size{"twice the layers", 16, 24, random_model(16)},
      Size{"twice the prompt", 8, 48, random_model(8)},
      Size{"twice both", 16, 48, random_model(16)},
  };
  // In turns, so that what else the machine does meets all of them.
  for (int i = 0; i < 9; ++i)
    for (auto& it : sizes)
      it.best = std::min(it.best, seconds([&] {
                           it.sweep = patch(it.model, sweep_of(it.length));
                         }));
  fmt::print("\nlayers  tokens  cells  rows of a layer       ms\n");
  for (const auto& it : sizes)
    fmt::print(
        "{:>6}  {:>6}  {:>5}  {:>15}  {:>7.1f}\n",
        it.layers,
        it.length,
        it.sweep.cells(),
        it.sweep.rows,
        it.best * 1e3);
  for (size_t i = 1; i < sizes.size(); ++i)
    bench::row(
        sizes[i].what,
        sizes[i].best / sizes[0].best,
        "x",
        i == 3 ? 4.4 * 4.4 : 4.4);

  const auto& largest = sizes.back();
  for (const size_t megabytes : {8, 16, 32}) {
    auto options = sweep_of(largest.length);
    options.memory = megabytes * 1000000;
    mx::clear_cache();
    const auto before = mx::get_active_memory();
    mx::reset_peak_memory();
    const double time = seconds([&] { patch(largest.model, options); });
    bench::row(
        fmt::format("peak of {} MB given, {:.0f} ms", megabytes, time * 1e3),
        static_cast<double>(mx::get_peak_memory() - before) / 1e6,
        "MB",
        static_cast<double>(megabytes));
  }
}

void demo(const std::string& name) {
  const auto model = InterpretableModel::load(name);
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

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "demo";
  if (what != "growth") demo(std::string(what));
  growth();
}
