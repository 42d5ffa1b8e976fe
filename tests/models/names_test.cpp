// Every family answers to the same names, its checkpoint's own included.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "mlxterp/core/error.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;

TEST(Names, MeanTheSameInEveryFamily) {
  size_t families = 0, modules = 0;
  for (const auto& folder :
       fs::directory_iterator(MLXTERP_SOURCE_DIR "/tests/parity/families")) {
    if (folder.path().filename() == "opt-post-norm") continue;
    const auto checkpoint = Checkpoint::open(folder.path());
    const auto& family = family_of(checkpoint.config());
    const InterpretableModel model(
        std::make_shared<Decoder>(family.configure(checkpoint.config())),
        {},
        family.renames);
    const auto& sites = model.sites();
    const auto name = [&](const char* asked) {
      return sites[sites.find(asked)].name;
    };
    SCOPED_TRACE(folder.path().filename().string());
    EXPECT_EQ(name("layers.0"), "layers.0.resid_post");
    EXPECT_EQ(name("blocks.0.hook_resid_post"), "layers.0.resid_post");
    EXPECT_EQ(name("layers_output[0]"), "layers.0.resid_post");
    EXPECT_EQ(name("blocks.1.hook_resid_pre"), "layers.1.resid_pre");
    EXPECT_EQ(name("blocks.1.hook_attn_out"), "layers.1.attn_out");
    EXPECT_EQ(name("blocks.1.hook_mlp_out"), "layers.1.mlp_out");
    EXPECT_EQ(name("blocks.1.attn.hook_pattern"), "layers.1.attn.pattern");
    EXPECT_EQ(name("lm_head"), "logits");
    EXPECT_EQ(name("logits"), "logits");

    // The path of a module in the checkpoint is a site, unless the checkpoint
    // keeps several modules as one or one for each expert or head.
    for (const auto& tensor : checkpoint.tensors()) {
      const auto path = tensor.name.substr(0, tensor.name.rfind('.'));
      const auto own = rename(path, family.renames);
      const bool fused = std::any_of(
          family.fused.begin(), family.fused.end(), [&](const Fused& f) {
            return own.ends_with(f.part);
          });
      if (fused || own.find("experts") != own.npos ||
          own.find("_norm.") != own.npos || tensor.name.ends_with(".bias"))
        continue;
      EXPECT_TRUE(sites.contains(path)) << path;
      EXPECT_TRUE(sites.contains(path + ".input")) << path;
      ++modules;
    }
    ++families;
  }
  EXPECT_GE(families, 60u);
  EXPECT_GT(modules, 800u);
}

}  // namespace
}  // namespace mlxterp
