// What naming every value costs: a tap nobody listens to, the graph of a
// traced pass against a plain one, memory for one saved residual.

#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/trace/model.h"
#include "ratios.h"

namespace mx = mlx::core;
using namespace mlxterp;

namespace {

const std::vector<int> prompt = {
    504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282};

const InterpretableModel& model() {
  static const auto loaded = InterpretableModel::load("demo");
  return loaded;
}

// The same handing on of a value, with a tap in between and without.
template <bool tapped>
void hand_on(benchmark::State& state) {
  Pass pass;
  benchmark::DoNotOptimize(pass);
  mx::array x(1.0f);
  for (auto _ : state) {
    auto y = tapped ? pass.tap(7, std::move(x)) : mx::array(std::move(x));
    benchmark::DoNotOptimize(y);
    x = std::move(y);
  }
}

void tap_inactive(benchmark::State& state) {
  hand_on<true>(state);
}
void tap_absent(benchmark::State& state) {
  hand_on<false>(state);
}

void graph_plain(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(model()(prompt));
}

void graph_traced(benchmark::State& state) {
  for (auto _ : state) {
    const auto trace = model().trace(prompt);
    benchmark::DoNotOptimize(trace.output());
  }
}

void forward_plain(benchmark::State& state) {
  for (auto _ : state)
    model()(prompt).eval();
}

void forward_one_saved(benchmark::State& state) {
  for (auto _ : state) {
    auto trace = model().trace(prompt);
    trace.save("layers.15.resid_post");
    trace.save("logits");
  }
}

BENCHMARK(tap_inactive)->Repetitions(9);
BENCHMARK(tap_absent)->Repetitions(9);
BENCHMARK(graph_plain)->Unit(benchmark::kMillisecond)->Repetitions(9);
BENCHMARK(graph_traced)->Unit(benchmark::kMillisecond)->Repetitions(9);
BENCHMARK(forward_plain)->Unit(benchmark::kMillisecond)->Repetitions(5);
BENCHMARK(forward_one_saved)->Unit(benchmark::kMillisecond)->Repetitions(5);

// Bytes that `f` had in use at its worst, over what was in use before.
template <typename F>
double peak_of(F&& f) {
  mx::clear_cache();
  mx::reset_peak_memory();
  const auto before = mx::get_active_memory();
  f();
  return static_cast<double>(mx::get_peak_memory() - before);
}

}  // namespace

int main(int argc, char** argv) {
  // What is compared runs by turns: the machine's mood is then in both.
  std::string by_turns = "--benchmark_enable_random_interleaving=true";
  std::vector<char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, by_turns.data());
  int count = argc + 1;
  benchmark::Initialize(&count, arguments.data());
  benchmark::SetDefaultTimeUnit(benchmark::kNanosecond);
  model();
  bench::Recorder seen;
  benchmark::RunSpecifiedBenchmarks(&seen);

  // Long enough that activations, not the logits, are what counts.
  const std::vector<int> long_prompt(256, 504);
  const auto plain = peak_of([&] { model()(long_prompt).eval(); });
  const auto saved = peak_of([&] {
    model().run(long_prompt, {.save = {"layers.15.resid_post", "logits"}});
  });
  const auto traced = peak_of([&] {
    auto trace = model().trace(long_prompt);
    trace.save("layers.15.resid_post");
    trace.save("logits");
  });
  fmt::print("\n");
  bench::row(
      "an inactive tap",
      (seen.cpu("tap_inactive") - seen.cpu("tap_absent")) * 1e9,
      "ns",
      5);
  bench::row(
      "graph of a traced pass, every site available",
      seen.cpu("graph_traced") * 1e3,
      "ms",
      5);
  bench::row(
      "  against a plain pass",
      seen.cpu("graph_traced") / seen.cpu("graph_plain"),
      "x",
      1.10);
  bench::row(
      "forward with one residual saved, against none",
      seen.wall("forward_one_saved") / seen.wall("forward_plain"),
      "x",
      1.05);
  bench::row(
      "peak memory with one residual saved, run()", saved / plain, "x", 1.05);
  bench::row(
      "peak memory with one residual saved, trace()",
      traced / plain,
      "x",
      1.05);
}
