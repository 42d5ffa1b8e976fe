// Steps of training an SAE at the size of SmolLM2's layer 15: tokens a second,
// and the share of the dense products, the choice of the largest, the sums by
// index and the optimiser; on a GPU at a size that fills one, with products in
// bfloat16. The model's own share is what `mlxterp sae train` prints.

#include <benchmark/benchmark.h>

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/train.h"

namespace mx = mlx::core;

namespace {

struct Size {
  int width, features, rows, k;
};

void train(benchmark::State& state, mlxterp::SaeRecipe recipe) {
  const bool gpu = mx::default_device() == mx::Device::gpu;
  const auto [width, features, rows, k] =
      gpu ? Size{2048, 65536, 8192, 64} : Size{576, 4608, 2048, 32};
  auto options = mlxterp::sae_preset("saelens", recipe);
  options.bfloat16 = gpu;
  options.k = k;
  options.features = features;
  options.batch_size = rows;
  options.tokens = int64_t{rows} * 1000;
  // Some are dead, so that the auxiliary loss is paid for.
  options.dead_after = int64_t{rows} * 4;
  auto x = mx::random::normal({rows, width});
  x.eval();
  mlxterp::SaeTrainer trainer(options, x);
  // Until there are dead ones and every kernel has run.
  for (int i = 0; i < 6; ++i)
    trainer.step(x);
  const auto before = trainer.times();
  for (auto _ : state)
    benchmark::DoNotOptimize(trainer.step(x).loss);
  const auto& after = trainer.times();
  const double products = after.products - before.products;
  const double choice = after.choice - before.choice;
  const double sparse = after.sparse - before.sparse;
  const double optimiser = after.optimiser - before.optimiser;
  const double all = products + choice + sparse + optimiser;
  state.SetItemsProcessed(state.iterations() * rows);  // tokens
  state.counters["products"] = products / all;
  state.counters["choice"] = choice / all;
  state.counters["sparse"] = sparse / all;
  state.counters["optimiser"] = optimiser / all;
  state.counters["dead"] = trainer.dead_share();
}

}  // namespace

BENCHMARK_CAPTURE(train, topk, mlxterp::SaeRecipe::topk)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(train, batch_topk, mlxterp::SaeRecipe::batch_topk)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(train, matryoshka, mlxterp::SaeRecipe::matryoshka)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(train, relu_l1, mlxterp::SaeRecipe::relu_l1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(train, jump_relu, mlxterp::SaeRecipe::jump_relu)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_MAIN();
