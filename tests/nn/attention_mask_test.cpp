// Who sees whom, against two loops: short prompts, whose mask is made here, and
// long ones, whose mask MLX makes; with windows and stretches, in one pass and
// in pieces.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/nn/attention.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// Of each layer: nothing, a short window, one longer than the short prompts,
// likewise stretches, and both at once.
constexpr int layers = 6;
const std::vector<int> windows = {0, 4, 290, 0, 0, 7};
const std::vector<int> chunks = {0, 0, 0, 5, 270, 11};

std::shared_ptr<Decoder> decoder(mx::Dtype dtype) {
  auto config = test::tiny_config();
  config.context = 1024;
  config.n_layers = layers;
  config.windows = windows;
  config.chunks = chunks;
  auto decoder = test::tiny_decoder(config);
  for (const auto& [path, weight] : decoder->mutable_parameters()) {
    *weight = mx::astype(*weight, dtype);
    weight->eval();
  }
  return decoder;
}

std::vector<int> prompt(int n) {
  std::vector<int> ids;
  for (int i = 0; i < n; ++i)
    ids.push_back((31 * i + i * i / 7) % 97);
  return ids;
}

bool sees(int layer, int dest, int src) {
  const auto at = static_cast<size_t>(layer);
  return src <= dest && (windows[at] == 0 || src > dest - windows[at]) &&
         (chunks[at] == 0 || src / chunks[at] == dest / chunks[at]);
}

std::vector<float> values(const mx::array& x) {
  auto flat = mx::contiguous(mx::astype(x, mx::float32));
  flat.eval();
  return {flat.data<float>(), flat.data<float>() + flat.size()};
}

// Positions [from, n) of a pass that has `pattern` [1, head, dest, src] and z
// [1, dest, head, d], for v [1, src, kv_head, d] of all positions.
void expect_masked(
    const mx::array& pattern,
    const mx::array& z,
    const mx::array& v,
    int from,
    int layer,
    double tolerance,
    const std::string& what) {
  const int heads = pattern.shape(1), dest = pattern.shape(2),
            src = pattern.shape(3), kv = v.shape(2), d = v.shape(3);
  ASSERT_EQ(from + dest, src) << what;
  ASSERT_EQ(v.shape(1), src) << what;
  const auto p = values(pattern), x = values(v), y = values(z);
  const double largest = test::max_magnitude(v);
  size_t wrong = 0, off = 0, compared = 0;
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < dest; ++i) {
      const auto row = static_cast<size_t>((h * dest + i) * src);
      std::vector<double> mixed(static_cast<size_t>(d));
      double sum = 0;
      for (int j = 0; j < src; ++j) {
        const float weight = p[row + static_cast<size_t>(j)];
        wrong += (weight > 0) != sees(layer, from + i, j);
        sum += weight;
        for (int k = 0; k < d; ++k)
          mixed[static_cast<size_t>(k)] +=
              static_cast<double>(weight) *
              x[static_cast<size_t>((j * kv + h / (heads / kv)) * d + k)];
      }
      EXPECT_NEAR(sum, 1, std::max(1e-5, tolerance)) << what;
      for (int k = 0; k < d; ++k) {
        const double error = std::abs(
            mixed[static_cast<size_t>(k)] -
            y[static_cast<size_t>((i * heads + h) * d + k)]);
        off += !(error <= tolerance * largest);
        ++compared;
      }
    }
  EXPECT_EQ(wrong, 0u) << what << ": sources seen that should not be, or not";
  EXPECT_EQ(off, 0u) << what << ": values of z";
  EXPECT_EQ(compared, static_cast<size_t>(heads) * dest * d) << what;
}

std::string site(int layer, const char* name) {
  return fmt::format("layers.{}.attn.{}", layer, name);
}

TEST(AttentionMask, LongAndShortPromptsSeeTheSame) {
  // Float32 has attention of ours, bfloat16 MLX's; both are given the mask.
  for (const auto& [dtype, tolerance] :
       {std::pair{mx::float32, 1e-5}, {mx::bfloat16, 0.02}}) {
    const InterpretableModel model(decoder(dtype), {}, families()[0].renames);
    for (const int n : {1, 7, 200, 256, 257, 320}) {
      const auto run =
          model.run(prompt(n), {.save = {"layers.*.attn.{pattern,z,v}"}});
      for (int i = 0; i < layers; ++i)
        expect_masked(
            run[site(i, "pattern")],
            run[site(i, "z")],
            run[site(i, "v")],
            0,
            i,
            tolerance,
            fmt::format("{} tokens, layer {}", n, i));
    }
  }
}

TEST(AttentionMask, EditedPatternsAreMaskedAsOthers) {
  const InterpretableModel model(
      decoder(mx::float32), {}, families()[0].renames);
  for (const int n : {200, 320}) {
    // An edit that changes nothing takes the explicit way.
    const auto run = model.run(
        prompt(n),
        {.save = {"layers.*.attn.{pattern,z,v}"},
         .edits = {{"layers.*.attn.scores", scale(1.0f)}}});
    for (int i = 0; i < layers; ++i)
      expect_masked(
          run[site(i, "pattern")],
          run[site(i, "z")],
          run[site(i, "v")],
          0,
          i,
          1e-5,
          fmt::format("{} tokens, edited, layer {}", n, i));
  }
}

TEST(AttentionMask, PiecesSeeWhatCameBefore) {
  const InterpretableModel model(
      decoder(mx::float32), {}, families()[0].renames);
  const auto ids = prompt(450);
  const auto whole = model.run(ids, {.save = {"layers.*.attn.v"}});
  // The second piece's mask is small, the third one's large.
  nn::KvCache cache;
  int from = 0;
  for (const int length : {280, 20, 150}) {
    const auto run = model.run(
        std::vector<int>(ids.begin() + from, ids.begin() + from + length),
        {.save = {"layers.*.attn.{pattern,z}"}, .cache = &cache});
    for (int i = 0; i < layers; ++i) {
      auto stop = whole[site(i, "v")].shape();
      stop[1] = from + length;
      expect_masked(
          run[site(i, "pattern")],
          run[site(i, "z")],
          mx::slice(whole[site(i, "v")], mx::Shape(4, 0), stop),
          from,
          i,
          1e-5,
          fmt::format("{} tokens behind {}, layer {}", length, from, i));
    }
    from += length;
  }
}

}  // namespace
}  // namespace mlxterp
