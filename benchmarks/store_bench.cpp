// How fast a text becomes an activation store, against the bare forward over
// the same tokens in the same run: of the last layer, of all layers at once,
// and of an early one, behind which no layer is run.

#include <filesystem>
#include <fstream>

#include "mlx/transforms.h"
#include "mlxterp/analysis/activation_store.h"
#include "ratios.h"
#include "timing.h"

namespace mx = mlx::core;
namespace fs = std::filesystem;
using namespace mlxterp;

namespace {

constexpr int batch = 8, length = 128, batches = 8, repeats = 3;

void at_least(const char* what, double value, double least) {
  fmt::print(
      "{:<52} {:>9.3f} {:<6} {} {:g}\n",
      what,
      value,
      "x",
      value >= least ? "at least" : "UNDER",
      least);
}

}  // namespace

int main(int argc, char** argv) {
  const auto model = InterpretableModel::load(argc > 1 ? argv[1] : "demo");
  const auto last = fmt::format(
      "layers.{}.resid_post", model.decoder().config().n_layers - 1);
  Inputs::Rows prompts;
  for (int i = 0; i < batch * batches; ++i)
    prompts.push_back(bench::prompt(length, i + 1));
  const double tokens = batch * batches * length;
  const auto bare = [&] {
    for (int i = 0; i < batches; ++i) {
      const Inputs::Rows rows(
          prompts.begin() + i * batch, prompts.begin() + (i + 1) * batch);
      model.run(rows, {.save = {last}});
    }
  };
  const auto folder = fs::temp_directory_path() / "mlxterp-store-bench";
  const auto stored = [&](const std::vector<std::string>& sites) {
    fs::remove_all(folder);
    StoreOptions options;
    options.batch_size = batch;
    store_activations(model, prompts, sites, folder, options);
  };
  bare();
  // By turns, the fastest of each: noise only ever adds.
  double forward = 1e9, one = 1e9, all = 1e9, early = 1e9;
  for (int i = 0; i < repeats; ++i) {
    forward = std::min(forward, bench::seconds(bare));
    one = std::min(one, bench::seconds([&] { stored({last}); }));
    all =
        std::min(all, bench::seconds([&] { stored({"layers.*.resid_post"}); }));
    early = std::min(
        early, bench::seconds([&] { stored({"layers.2.resid_post"}); }));
  }
  fs::remove_all(folder);
  fmt::print(
      "bare forward to the last layer: {:.0f} tokens/s\n", tokens / forward);
  at_least("store of the last layer, against it", forward / one, 0.8);
  at_least("store of every layer's stream, against it", forward / all, 0.8);
  at_least("store of layer 2, against it", forward / early, 2);
}
