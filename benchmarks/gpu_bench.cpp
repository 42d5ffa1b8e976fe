// The patching sweep at the size where a GPU works: a random Llama of 1.2 B
// parameters in bfloat16, 16 layers x 32 positions. On another device it says
// so and ends. benchmarks/peers/gpu_floor.py is the floor under torch's tools.
//   gpu_bench            the sweeps
//   gpu_bench forward    plain passes, for benchmarks/peers/gpu_forward.py
//   gpu_bench decode     text, for the same and peers/gpu_decode_torch.py
//   gpu_bench jlens      a Jacobian lens of Gemma 2 2B's shape, for
//                        peers/gpu_jlens_torch.py

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "benchmarks/timing.h"
#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/generate/generate.h"

namespace mx = mlx::core;

using namespace mlxterp;
using namespace mlxterp::bench;

namespace {

// bfloat16 numbers of some 0.02; norms' gains are 1.
InterpretableModel random_model(const DecoderConfig& config) {
  auto decoder = std::make_shared<Decoder>(config);
  for (const auto& [path, weight] : decoder->mutable_parameters()) {
    *weight = mx::astype(
        weight->ndim() == 1
            ? mx::full(weight->shape(), config.norm.plus_one ? 0.0f : 1.0f)
            : mx::multiply(
                  mx::random::normal(weight->shape()), mx::array(0.02f)),
        mx::bfloat16);
    weight->eval();
  }
  return InterpretableModel(decoder);
}

// The card's own rate, on a product of an MLP's size, in operations a second.
double rate_of_products() {
  const auto a = mx::astype(mx::random::normal({8192, 2048}), mx::bfloat16);
  const auto b = mx::astype(mx::random::normal({2048, 8192}), mx::bfloat16);
  mx::eval(a, b);
  double product = 1;
  for (int i = 0; i < 20; ++i)
    product = std::min(product, seconds([&] {
                         auto y = mx::matmul(a, b);
                         y.eval();
                       }));
  const double rate = 2.0 * 8192 * 2048 * 8192 / product;
  fmt::print("matmul {:.0f} TFLOP/s\n", rate / 1e12);
  return rate;
}

void fit_lens() {
  DecoderConfig c;
  c.model_type = "gemma2";
  c.vocab = 32768;  // the lens does not meet it
  c.d_model = 2304;
  c.n_layers = 26;
  c.n_heads = 8;
  c.n_kv_heads = 4;
  c.d_head = 256;
  c.d_mlp = 9216;
  c.context = 8192;
  c.rope = {.dims = 256, .theta = 10000.0f};
  c.tied = true;
  c.norm.plus_one = true;
  c.post_norms = true;
  c.activation = nn::Activation::gelu_tanh;
  c.embed_scale = 48;
  c.attention_scale = 1.0f / 16;
  c.attention_softcap = 50;
  const auto model = random_model(c);
  const double rate = rate_of_products();
  constexpr int length = 128;
  JacobianOptions options;
  options.tolerance = 0;
  // One product of matrices for each position and layer, d products of rows
  // with it, and attention: what there is no way around.
  const double d = c.d_model, f = c.d_mlp, positions = length - 17;
  const double heads = c.n_heads * c.d_head, kv = c.n_kv_heads * c.d_head;
  const double of_position =
      2 * d * d * f + 2 * d * d * d + 2 * d * d * (2 * heads + 2 * kv);
  const double needed = (c.n_layers - 1) * positions * of_position;
  for (int i = 0; i < 4; ++i) {
    const auto held = static_cast<double>(mx::get_active_memory());
    mx::reset_peak_memory();
    const double time = seconds(
        [&] { fit_jacobian_lens(model, {prompt(length, 3 + i)}, options); });
    fmt::print(
        "a prompt of {} tokens {:6.2f} s, {:.2f} PFLOP needed: {:3.0f}% of the "
        "card's own rate  {:.1f} GB over the weights\n",
        length,
        time,
        needed / 1e15,
        100 * needed / time / rate,
        (static_cast<double>(mx::get_peak_memory()) - held) / 1e9);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (mx::default_device() != mx::Device::gpu) {
    fmt::print("no GPU here\n");
    return 0;
  }
  if (argc > 1 && argv[1] == std::string_view("jlens")) {
    fit_lens();
    return 0;
  }
  DecoderConfig config;
  config.model_type = "llama";
  config.vocab = 128256;
  config.d_model = 2048;
  config.n_layers = 16;
  config.n_heads = 32;
  config.n_kv_heads = 8;
  config.d_head = 64;
  config.d_mlp = 8192;
  config.context = 4096;
  config.rope = {.dims = 64, .theta = 500000.0f};
  config.tied = true;
  const auto model = random_model(config);

  if (argc > 1 && argv[1] == std::string_view("forward")) {
    for (const auto& [batch, length] :
         {std::pair{1, 1}, {1, 16}, {1, 128}, {1, 512}, {8, 16}, {8, 512}}) {
      const Inputs inputs(
          Inputs::Rows(static_cast<size_t>(batch), prompt(length, 3)));
      double forward = 1;
      for (int i = 0; i < 20; ++i)
        forward = std::min(forward, seconds([&] {
                             auto y = model(inputs);
                             y.eval();
                           }));
      fmt::print("forward {} x {} {:.2f} ms\n", batch, length, forward * 1e3);
    }
    return 0;
  }

  if (argc > 1 && argv[1] == std::string_view("decode")) {
    const auto run = [&](const char* what, int rows, GenerateOptions how) {
      how.max_tokens = 128;
      how.ends = false;
      double best = 1e9;
      for (int i = 0; i < 4; ++i)
        best = std::min(
            best,
            generate(
                model,
                Inputs::Rows(static_cast<size_t>(rows), prompt(16, 3)),
                how)
                .decode_seconds);
      fmt::print(
          "decode {:<28}{:6.2f} ms a step, {:6.0f} tokens/s\n",
          what,
          best / 127 * 1e3,
          127 * rows / best);
      std::fflush(stdout);
    };
    run("1 row", 1, {});
    GenerateOptions steer, save;
    steer.edits = {{"layers.8.resid_post", add_vector(mx::zeros({2048}))}};
    save.save = {"layers.*.resid_post"};
    run("1 row, steered", 1, steer);
    run("1 row, 16 residuals saved", 1, save);
    run("8 rows", 8, {});
    run("8 rows, steered", 8, steer);
    return 0;
  }

  const double rate = rate_of_products();
  const auto options = [](int length, int seed) {
    return PatchOptions{
        .clean = prompt(length, seed),
        .corrupt = prompt(length, seed + 1),
        .metric = logit_diff(100, 200)};
  };
  const auto report = [&](const char* what, const PatchOptions& sweep_options) {
    mx::reset_peak_memory();
    Sweep sweep;
    const double time = seconds([&] { sweep = patch(model, sweep_options); });
    const double per_row = 2.0 * 2048 * (2 * 2048 + 2 * 512 + 3 * 8192);
    const double flops = static_cast<double>(sweep.rows) * per_row;
    fmt::print(
        "{:<26} {:4} cells {:8.4f} s  {:5.0f} TFLOP/s, {:3.0f}% of the card's "
        "own  peak {:.1f} GB\n",
        what,
        sweep.cells(),
        time,
        flops / time / 1e12,
        100 * flops / time / rate,
        static_cast<double>(mx::get_peak_memory()) / 1e9);
    std::fflush(stdout);
    return sweep;
  };
  report("first sweep", options(32, 3));
  report("the same shapes", options(32, 3));
  for (int i = 0; i < 5; ++i)
    report("other prompts", options(32, 5 + i));
  report("new shapes, 29 tokens", options(29, 3));
  report("new shapes, 40 tokens", options(40, 3));
  auto heads = options(32, 3);
  heads.site = "z";
  heads.by = {Axis::layer, Axis::head};
  report("z by head", heads);
  report("z by head again", heads);

  // Against one pass a cell, in every eighth cell.
  auto some = options(32, 3);
  some.positions = {0, 9, 18, 31};
  some.layers = {0, 5, 15};
  const auto fast = patch(model, some);
  some.one_pass_per_cell = true;
  const auto slow = patch(model, some);
  float worst = 0, size = 0;
  for (size_t i = 0; i < fast.cells(); ++i) {
    worst = std::max(worst, std::abs(fast.metric[i] - slow.metric[i]));
    size = std::max(size, std::abs(slow.metric[i] - slow.corrupt));
  }
  fmt::print(
      "against one pass a cell: {} cells, largest difference {:.3g} of effects "
      "up to {:.3g}\n",
      fast.cells(),
      worst,
      size);
}
