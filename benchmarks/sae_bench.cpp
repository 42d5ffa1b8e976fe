// What features of a sparse autoencoder cost beside the pass: 64 of 16,384 read
// along, all of them, and with its error in the site's place; and how long it
// takes to read a file of one.

#include <filesystem>
#include <memory>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/attach.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/module.h"
#include "mlxterp/sae/save.h"
#include "ratios.h"
#include "timing.h"

namespace mx = mlx::core;
using namespace mlxterp;

namespace {

constexpr const char* site = "layers.15.resid_post";
constexpr int d_sae = 16384;
const auto prompt = bench::prompt(64, 3);

const InterpretableModel& model() {
  static const auto loaded = InterpretableModel::load("demo");
  return loaded;
}

Sae random_sae(int d = model().decoder().config().d_model) {
  Sae sae{
      .W_enc = mx::random::normal({d, d_sae}, mx::random::key(1)),
      .b_enc = mx::zeros({d_sae}),
      .W_dec = mx::random::normal({d_sae, d}, mx::random::key(2)),
      .b_dec = mx::zeros({d}),
      .threshold = mx::full({d_sae}, 30.0f, mx::float32),
      .activation = SaeActivation::jump_relu};
  mx::eval(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, *sae.threshold);
  return sae;
}

InterpretableModel attached(AttachOptions::Mode mode) {
  return attach_sae(model(), random_sae(), {.mode = mode, .site = site});
}

InterpretableModel some() {
  std::vector<int> features;
  for (int i = 0; i < 64; ++i)
    features.push_back(i * 255);
  return model().attach(
      site,
      std::make_shared<SaeFeatures>(random_sae(), features),
      {.name = "sae", .by_position = true});
}

void run(benchmark::State& state, const InterpretableModel& of, bool acts) {
  std::vector<std::string> save = {"logits"};
  if (acts) save.push_back(std::string(site) + ".sae.acts");
  for (auto _ : state)
    benchmark::DoNotOptimize(of.run(prompt, {.save = save}));
}

void forward_plain(benchmark::State& state) {
  run(state, model(), false);
}
void read_64_features(benchmark::State& state) {
  run(state, some(), true);
}
void read_all_features(benchmark::State& state) {
  run(state, attached(AttachOptions::Mode::read), true);
}
void with_error(benchmark::State& state) {
  run(state, attached(AttachOptions::Mode::replace_with_error), false);
}

// Of Gemma 2 2B's width, float32: 302 MB.
void load(benchmark::State& state) {
  const auto folder =
      std::filesystem::temp_directory_path() / "mlxterp_sae_bench";
  save_saelens(random_sae(2304), folder, /*overwrite=*/true);
  for (auto _ : state) {
    const auto sae = load_sae(folder.string());
    mx::eval(sae.W_enc, sae.W_dec);
  }
  std::filesystem::remove_all(folder);
}

// The time of all threads, which a busy machine leaves as it is.
BENCHMARK(forward_plain)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->Repetitions(5);
BENCHMARK(read_64_features)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->Repetitions(5);
BENCHMARK(read_all_features)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->Repetitions(5);
BENCHMARK(with_error)
    ->Unit(benchmark::kMillisecond)
    ->MeasureProcessCPUTime()
    ->Repetitions(5);
BENCHMARK(load)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(5);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  bench::Recorder recorder;
  benchmark::RunSpecifiedBenchmarks(&recorder);
  const double plain = recorder.cpu("forward_plain");
  fmt::print("\n");
  bench::row(
      "64 of 16,384 features read, of a forward",
      recorder.cpu("read_64_features") / plain,
      "",
      1.3);
  bench::row(
      "attached with its error, unedited, of a forward",
      recorder.cpu("with_error") / plain,
      "",
      1.1);
  bench::row(
      "all 16,384 features read, of a forward",
      recorder.cpu("read_all_features") / plain,
      "",
      2.5);
  bench::row(
      "an SAE of 16,384 x 2304 is read", recorder.wall("load"), "s", 0.3);
}
