// Products of few rows with all of SmolLM2's matrices, beside what no product
// can be faster than, reading them once, and beside the BLAS's own. All by as
// many threads as the BLAS may use, in turn, the fastest of many.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "benchmarks/timing.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/trace/model.h"
#include "ratios.h"

namespace mx = mlx::core;
using namespace mlxterp;
using namespace mlxterp::bench;

namespace {

volatile uint64_t sink;

uint64_t sum(const char* from, const char* to) {
  uint64_t total[8] = {};
  for (; to - from >= 64; from += 64) {
    uint64_t line[8];
    std::memcpy(line, from, sizeof(line));
    for (size_t i = 0; i < 8; ++i)
      total[i] += line[i];
  }
  return std::accumulate(total, total + 8, uint64_t{0});
}

void read(const std::vector<mx::array>& all, size_t threads) {
  const auto part = [&](size_t i) {
    uint64_t total = 0;
    for (const auto& x : all) {
      const auto* data = x.data<char>();
      const size_t lines = x.nbytes() / 64;
      total +=
          sum(data + lines * i / threads * 64,
              data + lines * (i + 1) / threads * 64);
    }
    sink = total;
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; ++i)
    others.emplace_back(part, i);
  part(0);
  for (auto& other : others)
    other.join();
}

// Of each the fastest of 10, in turn.
std::vector<double> times(const std::vector<std::function<void()>>& all) {
  constexpr int runs = 10;
  std::vector<double> best(all.size(), 1e9);
  for (int i = 0; i < runs; ++i)
    for (size_t j = 0; j < all.size(); ++j)
      best[j] = std::min(best[j], seconds(all[j]));
  return best;
}

}  // namespace

int main() {
  const auto model = InterpretableModel::load("demo");
  const auto threads = static_cast<size_t>(std::max(blas_threads(), 1));
  std::vector<mx::array> numbers, halves;
  std::vector<nn::Matrix> in_half;
  double bytes = 0;
  for (const auto& [path, matrix] : model.decoder().matrices()) {
    numbers.push_back(matrix->dense());
    bytes += static_cast<double>(numbers.back().nbytes());
    auto half = mx::astype(numbers.back(), mx::bfloat16);
    half.eval();
    halves.push_back(half);
    in_half.emplace_back(half);
    in_half.back().read_as(mx::float32);
  }
  for (const int rows : {1, 2, 4, 8, 12, 16, 24, 32}) {
    std::vector<mx::array> inputs;
    for (const auto& w : numbers)
      inputs.push_back(mx::random::normal({rows, w.shape(1)}));
    mx::eval(inputs);
    const auto each = [&](const auto& product) {
      return [&, product] {
        std::vector<mx::array> out;
        for (size_t i = 0; i < numbers.size(); ++i)
          out.push_back(product(i));
        mx::eval(out);
      };
    };
    const auto time = times(
        {[&] { read(numbers, threads); },
         each(
             [&](size_t i) { return nn::Matrix(numbers[i]).times(inputs[i]); }),
         each([&](size_t i) { return in_half[i].times(inputs[i]); }),
         each([&](size_t i) {
           return mx::matmul(inputs[i], mx::transpose(numbers[i]));
         }),
         [&] { model(prompt(rows, 3)).eval(); }});
    fmt::print(
        "{:2} rows: reading {:6.1f} ms ({:.1f} GB/s), ours {:6.1f}, in half "
        "precision {:6.1f}, BLAS {:6.1f}; a pass {:6.1f} ms\n",
        rows,
        1e3 * time[0],
        bytes / time[0] / 1e9,
        1e3 * time[1],
        1e3 * time[2],
        1e3 * time[3],
        1e3 * time[4]);
    std::fflush(stdout);
    const auto what = fmt::format("{} rows: ", rows);
    if (rows <= 16)
      row(what + "ours / reading", time[1] / time[0], "times", 1 / 0.7);
    row(what + "ours / BLAS", time[1] / time[3], "times", 1.05);
    if (rows <= 4)
      row(what + "half precision / float32", time[2] / time[1], "times", 0.8);
  }
}
