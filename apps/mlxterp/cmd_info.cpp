// mlxterp info: what a model is, and how it runs on this machine.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "arguments.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/report/info.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

// GFLOP/s of a product such as a small model's MLP makes, best of several.
double matmul_speed() {
  constexpr int m = 512, k = 576, n = 1536;
  const auto a = mx::random::normal({m, k}), b = mx::random::normal({k, n});
  mx::eval(a, b);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(150);
  double best = 0;
  do {
    const auto start = Clock::now();
    mx::matmul(a, b).eval();
    mx::synchronize();
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, 2.0 * m * k * n / took.count() / 1e9);
  } while (Clock::now() < end);
  return best;
}

void run(const ModelArguments& arguments) {
  arguments.check();
  const auto checkpoint = Checkpoint::open(arguments.path());
  for (const auto& sentence : checkpoint.warnings())
    warn(sentence);
  auto info =
      report::model_info(checkpoint, arguments.model, arguments.options());
  if (!info.no_tokenizer.empty()) warn(info.no_tokenizer);
  const bool on_cpu = mx::default_device() == mx::Device::cpu;
  if (on_cpu) bound_blas_threads();  // as loading does
  info.matmul_gflops = matmul_speed();
  if (arguments.json) {
    print(report::to_json(info) + "\n");
    if (on_cpu) require_right_products(blas());
    return;
  }
  view::Table table({{""}, {""}});
  for (const auto& [what, is] : report::rows(info))
    table.add({what, is});
  print(table.text(view::terminal(STDOUT_FILENO)));
  if (!on_cpu) return;
  const auto found = blas();
  require_right_products(found);
  if (found.slow)
    warn(
        "this BLAS is many times slower than OpenBLAS; install "
        "libopenblas-dev and build again");
}

}  // namespace

Run add_info(CLI::App& app) {
  const auto arguments = std::make_shared<ModelArguments>();
  app.description("What a model is and how it runs on this machine");
  arguments->add_to(app);
  app.footer("Example:\n  mlxterp info demo");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
