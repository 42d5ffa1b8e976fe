// Our half of against_mlx_lm.py and of peers/upstream.py, which say what is
// asked on stdin. usage: mlxterp_worker FOLDER cpu|gpu

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/trace/model.h"

namespace mx = mlx::core;

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Bytes a second that all cores together read of what no cache holds: the
// best of five.
double stream_rate() {
  const std::vector<uint64_t> data(size_t{1} << 26, 1);
  const size_t parts = std::max(1u, std::thread::hardware_concurrency());
  std::vector<uint64_t> sums(parts);
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    const auto begin = Clock::now();
    std::vector<std::thread> threads;
    for (size_t i = 0; i < parts; ++i)
      threads.emplace_back([&, i] {
        uint64_t sum = 0;
        for (size_t at = data.size() * i / parts;
             at < data.size() * (i + 1) / parts;
             ++at)
          sum += data[at];
        sums[i] = sum;
      });
    for (auto& thread : threads)
      thread.join();
    best = std::min(best, since(begin));
  }
  uint64_t sum = 0;
  for (const auto part : sums)
    sum += part;
  return sum == data.size() ? static_cast<double>(sum * 8) / best : 0;
}

// The rest of the line, as the model reads it.
std::vector<int> line_of_text(const mlxterp::InterpretableModel& model) {
  std::string text;
  std::getline(std::cin >> std::ws, text);
  return model.tokenizer().encode(text);
}

// Every layer at every position, the winners as text: the seconds and the ids.
void lens(const mlxterp::InterpretableModel& model) {
  const auto ids = line_of_text(model);
  const auto begin = Clock::now();
  const auto read = mlxterp::logit_lens(model, ids, {.top_k = 1});
  std::vector<std::string> text;
  for (const int id : read.top_ids)
    text.push_back(model.tokenizer().decode(std::vector{id}));
  const double seconds = since(begin);
  fmt::print("{} {}\n", seconds, fmt::join(read.top_ids, " "));
}

// The faster of two steps of training and the loss that the first began with;
// a step before them takes what a first one costs.
void tune(const mlxterp::InterpretableModel& model) {
  int length = 0;
  std::cin >> length;
  std::vector<Clock::time_point> ends;
  float loss = 0;
  mlxterp::train_tuned_lens(
      model,
      line_of_text(model),
      {.steps = 3, .length = length, .on_step = [&](int step, float of_step) {
         ends.push_back(Clock::now());
         if (step == 0) loss = of_step;
       }});
  const std::chrono::duration<double> best =
      std::min(ends[1] - ends[0], ends[2] - ends[1]);
  fmt::print("{} {}\n", best.count(), loss);
}

// BATCH LENGTH TOKENS KIND: the seconds of the prompts, of the tokens behind
// the first, and the ids. KIND steer adds a vector in every position, save
// keeps each layer's resid_post.
void decode(const mlxterp::InterpretableModel& model) {
  using namespace mlxterp;
  int batch = 0, length = 0, tokens = 0;
  std::string kind;
  std::cin >> batch >> length >> tokens >> kind;
  Inputs::Rows rows(static_cast<size_t>(batch));
  for (size_t row = 0; row < rows.size(); ++row)
    for (int i = 0; i < length; ++i)
      rows[row].push_back(
          (7919 * i + 31 * static_cast<int>(row)) % 40000 + 100);
  GenerateOptions options;
  options.max_tokens = tokens;
  options.ends = false;
  const auto& config = model.decoder().config();
  if (kind == "steer")
    options.edits = {
        {fmt::format("layers.{}.resid_post", config.n_layers / 2),
         add_vector(mx::zeros({config.d_model}))}};
  if (kind == "save") options.save = {"layers.*.resid_post"};
  const auto made = generate(model, rows, options);
  fmt::print(
      "{} {} {}\n",
      made.prefill_seconds,
      made.decode_seconds,
      fmt::join(made.texts[0].ids(), " "));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mlxterp;
  const bool gpu = argc > 2 && std::string(argv[2]) == "gpu";
  mx::set_default_device(gpu ? mx::Device::gpu : mx::Device::cpu);
  const auto model = InterpretableModel::load(argv[1]);
  fmt::print("ready {}\n", blas().name);
  std::fflush(stdout);
  std::string word;
  while (std::cin >> word) {
    if (word == "stream") {
      fmt::print("{}\n", stream_rate());
    } else if (word == "lens") {
      lens(model);
    } else if (word == "tune") {
      tune(model);
    } else if (word == "decode") {
      decode(model);
    } else {
      int batch = 0, length = 0;
      std::cin >> batch >> length;
      std::vector<int> row;
      for (int i = 0; i < length; ++i)
        row.push_back((7919 * i) % 40000 + 100);
      const Inputs inputs(
          Inputs::Rows(static_cast<size_t>(std::max(batch, 1)), row));
      const auto begin = Clock::now();
      auto logits = model(inputs);
      logits.eval();
      const double seconds = since(begin);
      fmt::print("{} {}\n", seconds, mx::max(logits).item<float>());
    }
    std::fflush(stdout);
  }
}
