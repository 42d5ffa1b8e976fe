// What is analysed of a model whose matrices stay packed is what is of the
// same model unpacked.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <vector>

#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/weights.h"
#include "mlxterp/trace/model.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
namespace fs = std::filesystem;

const fs::path root = MLXTERP_SOURCE_DIR "/tests/parity/quantized";
const fs::path gguf = MLXTERP_SOURCE_DIR "/tests/models/fixtures/packed.gguf";

const std::vector<int> clean{3, 14, 15, 92, 65, 35, 89, 7},
    corrupt{3, 14, 21, 92, 65, 35, 89, 9};

struct Both {
  InterpretableModel packed, unpacked;
};

Both load_both(const fs::path& folder) {
  const auto load = [&](bool packed) {
    return InterpretableModel::load(
        folder.string(), {.dtype = mx::float32, .packed = packed});
  };
  return {load(true), load(false)};
}

std::vector<fs::path> folders() {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(root))
    all.push_back(entry.path());
  std::ranges::sort(all);
  all.push_back(gguf);
  return all;
}

// The largest difference, of the largest number.
double off(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double size = 0, most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    EXPECT_TRUE(std::isfinite(a[i]) && std::isfinite(b[i]));
    size = std::max(size, std::abs(static_cast<double>(b[i])));
    most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  EXPECT_GT(size, 0);
  return most / size;
}

class PackedModel : public testing::Test {
 protected:
  template <typename Of>
  void compare(const char* what, const Of& of) {
    double largest = 0;
    size_t count = 0;
    for (const auto& folder : folders()) {
      const auto [packed, unpacked] = load_both(folder);
      const std::vector<float> a = of(packed), b = of(unpacked);
      const auto by = off(a, b);
      EXPECT_LE(by, 1e-3) << what << " of " << folder;
      largest = std::max(largest, by);
      count += a.size();
    }
    EXPECT_GT(count, 17u);
    std::printf(
        "%s: %zu numbers, largest difference of their size %.2g\n",
        what,
        count,
        largest);
  }
};

TEST_F(PackedModel, SweepsOfEverySite) {
  for (const char* site : {"resid_pre", "attn_out", "mlp_out", "z", "pattern"})
    compare(site, [&](const InterpretableModel& model) {
      const bool heads = site == std::string("z");
      return patch(
                 model,
                 {.clean = {clean},
                  .corrupt = {corrupt},
                  .site = site,
                  .by = heads ? std::vector{Axis::layer, Axis::head}
                              : std::vector{Axis::layer, Axis::position},
                  .metric = logit_diff(4, 9)})
          .metric;
    });
}

TEST_F(PackedModel, Gradients) {
  compare("attributions", [&](const InterpretableModel& model) {
    const auto all = attribute(
        model,
        {.clean = {clean},
         .corrupt = {corrupt},
         .sites = {"resid_pre", "mlp_out", "z"},
         .metric = logit_diff(4, 9)});
    std::vector<float> out;
    for (const auto& each : all) {
      const auto some = each.attributions();
      out.insert(out.end(), some.begin(), some.end());
    }
    return out;
  });
}

TEST_F(PackedModel, EditedHeads) {
  compare("logits", [&](const InterpretableModel& model) {
    const auto run = model.run(
        clean,
        {.save = {"logits"},
         .edits = {
             {"layers.0.attn.z", on_heads({1}, scale(0.5f))},
             {"layers.0.attn.result", on_heads({2}, scale(2))}}});
    auto logits = mx::contiguous(mx::flatten(run["logits"]));
    logits.eval();
    return std::vector(
        logits.data<float>(), logits.data<float>() + logits.size());
  });
}

TEST_F(PackedModel, WeightsByName) {
  for (const char* name : {"W_Q", "W_O", "W_E", "W_U", "W_in", "W_out"})
    compare(name, [&](const InterpretableModel& model) {
      auto all = mx::contiguous(
          mx::flatten(mx::astype(weight(model.decoder(), name), mx::float32)));
      all.eval();
      return std::vector(all.data<float>(), all.data<float>() + all.size());
    });
}

}  // namespace
}  // namespace mlxterp
