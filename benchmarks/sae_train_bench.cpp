// Steps of training an SAE at the size of SmolLM2's layer 15: tokens a second,
// and the share of the dense products, the choice of the largest, the sums by
// index and the optimiser. The model's own share is what `mlxterp sae train`
// prints.

#include <benchmark/benchmark.h>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/train.h"

namespace mx = mlx::core;

namespace {

constexpr int width = 576, features = 4608, rows = 2048;

void train(benchmark::State& state, mlxterp::SaeRecipe recipe) {
  auto options = mlxterp::sae_preset("saelens", recipe);
  options.features = features;
  options.batch_size = rows;
  options.tokens = int64_t{rows} * 1000;
  // Some are dead, so that the auxiliary loss is paid for.
  options.dead_after = int64_t{rows} * 4;
  auto x = mx::random::normal({rows, width});
  x.eval();
  mlxterp::SaeTrainer trainer(options, x);
  for (auto _ : state)
    benchmark::DoNotOptimize(trainer.step(x).loss);
  const auto& times = trainer.times();
  const double all =
      times.products + times.choice + times.sparse + times.optimiser;
  state.SetItemsProcessed(state.iterations() * rows);  // tokens
  state.counters["products"] = times.products / all;
  state.counters["choice"] = times.choice / all;
  state.counters["sparse"] = times.sparse / all;
  state.counters["optimiser"] = times.optimiser / all;
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
