// A random Llama in 4 bit that stays packed: what it takes in memory, and how
// fast it is beside the same numbers unpacked. On a GPU shaped as an 8B, on a
// CPU a sixth of it.
//   packed_bench FOLDER    writes the checkpoint there first, if it is missing

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/timing.h"
#include "mlx/device.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace {

using namespace mlxterp;
using namespace mlxterp::bench;

struct Shape {
  int layers, d_model, heads, kv_heads, d_mlp, vocab;
};

void write(const fs::path& folder, const Shape& s) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << fmt::format(
      R"({{"model_type": "llama", "vocab_size": {}, "hidden_size": {},
 "num_hidden_layers": {}, "num_attention_heads": {}, "num_key_value_heads": {},
 "head_dim": {}, "intermediate_size": {}, "max_position_embeddings": 4096,
 "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
 "tie_word_embeddings": false,
 "quantization": {{"group_size": 64, "bits": 4, "mode": "affine"}}}})",
      s.vocab,
      s.d_model,
      s.layers,
      s.heads,
      s.kv_heads,
      s.d_model / s.heads,
      s.d_mlp);
  std::vector<std::pair<std::string, mx::array>> tensors;
  const auto matrix = [&](const std::string& name, int rows, int columns) {
    auto words = mx::random::bits({rows, columns / 8});
    // Of a standard deviation of 0.02.
    auto scales = mx::full({rows, columns / 64}, 0.0043f, mx::bfloat16);
    auto biases = mx::full({rows, columns / 64}, -0.0323f, mx::bfloat16);
    mx::eval(words, scales, biases);
    tensors.emplace_back(name + ".weight", words);
    tensors.emplace_back(name + ".scales", scales);
    tensors.emplace_back(name + ".biases", biases);
  };
  const auto norm = [&](const std::string& name) {
    tensors.emplace_back(name + ".weight", mx::ones({s.d_model}, mx::bfloat16));
  };
  const int kv = s.d_model / s.heads * s.kv_heads;
  matrix("model.embed_tokens", s.vocab, s.d_model);
  matrix("lm_head", s.vocab, s.d_model);
  norm("model.norm");
  for (int i = 0; i < s.layers; ++i) {
    const auto layer = fmt::format("model.layers.{}.", i);
    norm(layer + "input_layernorm");
    norm(layer + "post_attention_layernorm");
    matrix(layer + "self_attn.q_proj", s.d_model, s.d_model);
    matrix(layer + "self_attn.k_proj", kv, s.d_model);
    matrix(layer + "self_attn.v_proj", kv, s.d_model);
    matrix(layer + "self_attn.o_proj", s.d_model, s.d_model);
    matrix(layer + "mlp.gate_proj", s.d_mlp, s.d_model);
    matrix(layer + "mlp.up_proj", s.d_mlp, s.d_model);
    matrix(layer + "mlp.down_proj", s.d_model, s.d_mlp);
  }
  save_safetensors(folder / "model.safetensors", tensors, {}, false);
}

double gb(size_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

InterpretableModel load(const fs::path& folder, bool packed) {
  LoadOptions options{.packed = packed};
  std::optional<InterpretableModel> model;
  const double time = seconds(
      [&] { model = InterpretableModel::load(folder.string(), options); });
  fmt::print(
      "load {:8} {:7.2f} s, holds {:6.2f} GB, peak {:6.2f} GB\n",
      packed ? "packed" : "unpacked",
      time,
      gb(mx::get_active_memory()),
      gb(mx::get_peak_memory()));
  std::fflush(stdout);
  return *std::move(model);
}

}  // namespace

int main(int argc, char** argv) {
  const fs::path folder =
      argc > 1 ? fs::path(argv[1]) : fs::temp_directory_path() / "packed_bench";
  const bool gpu = mx::default_device() == mx::Device::gpu;
  const Shape shape = gpu ? Shape{32, 4096, 32, 8, 14336, 128256}
                          : Shape{16, 2560, 20, 4, 8192, 32064};
  if (!fs::exists(folder / "model.safetensors")) write(folder, shape);
  mx::clear_cache();
  mx::reset_peak_memory();
  const double file = gb(fs::file_size(folder / "model.safetensors"));
  const double allowed = gpu ? 1.25 * file + 1 : 1.2 * file;
  fmt::print(
      "{} layers, d_model {}, 4 bit: the file has {:.2f} GB\n",
      shape.layers,
      shape.d_model,
      file);

  const auto report = [&](const char* what, double time) {
    fmt::print(
        "{:24} {:8.2f} ms, peak {:6.2f} GB, {:.2f} times the file\n",
        what,
        1e3 * time,
        gb(mx::get_peak_memory()),
        gb(mx::get_peak_memory()) / file);
    std::fflush(stdout);
  };
  const std::vector<int> lengths =
      gpu ? std::vector{1, 2, 8, 16, 32, 64, 96, 128, 512}
          : std::vector{1, 16, 128};
  std::vector<double> times;
  const auto forward = [&](const InterpretableModel& model) {
    std::vector<double> out;
    for (const int length : lengths) {
      const Inputs inputs(Inputs::Rows{prompt(length, 3)});
      double best = 1e9;
      for (int i = 0; i < (gpu ? 10 : 3); ++i)
        best = std::min(best, seconds([&] { model(inputs).eval(); }));
      out.push_back(best);
    }
    return out;
  };
  {
    const auto model = load(folder, true);
    report("trace of 128 tokens", seconds([&] {
             const auto run = model.run(
                 prompt(128, 3), {.save = {"layers.*.resid_post", "logits"}});
             run["logits"].eval();
           }));
    const int n = gpu ? 32 : 8;
    report("sweep, a cell each", seconds([&] {
             patch(
                 model,
                 {.clean = prompt(n, 3),
                  .corrupt = prompt(n, 4),
                  .metric = logit_diff(100, 200),
                  .memory = gpu ? 1'000'000'000u : 50'000'000u});
           }));
    fmt::print("allowed {:.2f} GB\n", allowed);
    times = forward(model);
  }
  mx::clear_cache();
  mx::reset_peak_memory();
  const auto model = load(folder, false);
  const auto unpacked = forward(model);
  for (size_t i = 0; i < lengths.size(); ++i)
    fmt::print(
        "forward 1 x {:3}: packed {:8.2f} ms, unpacked {:8.2f} ms, ratio "
        "{:.2f}\n",
        lengths[i],
        1e3 * times[i],
        1e3 * unpacked[i],
        times[i] / unpacked[i]);
}
