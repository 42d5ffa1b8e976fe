// Every family answers to the same names, its checkpoint's own included.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

#include "mlxterp/core/error.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;

// The sites that the error for an unknown name says to see.
std::vector<std::string> places_named(
    const SiteCatalog& sites, const std::string& name) {
  std::string message;
  try {
    sites.find(name);
  } catch (const Error& error) {
    message = error.what();
  }
  const std::string see = "it is not a module here, see ";
  const auto at = message.find(see);
  EXPECT_NE(at, message.npos) << name << ": " << message;
  if (at == message.npos) return {};
  std::vector<std::string> places;
  std::istringstream list(message.substr(at + see.size()));
  for (std::string place; std::getline(list >> std::ws, place, ',');)
    places.push_back(place);
  EXPECT_FALSE(places.empty()) << message;
  return places;
}

TEST(Names, MeanTheSameInEveryFamily) {
  size_t families = 0, modules = 0, elsewhere = 0, n_capped = 0, alone = 0;
  for (const auto& folder :
       fs::directory_iterator(MLXTERP_SOURCE_DIR "/tests/parity/families")) {
    if (folder.path().filename() == "opt-post-norm") continue;
    const auto checkpoint = Checkpoint::open(folder.path());
    const auto family = family_of(checkpoint.config());
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
    const auto& layers = model.decoder().layers;
    const auto attends = std::ranges::find_if(layers, [](const auto& layer) {
      return layer->attention() != nullptr;
    });
    const auto at = attends - layers.begin();
    const auto in_layer = [&](const std::string& asked) {
      return name(fmt::format(fmt::runtime(asked), at).c_str());
    };
    if (attends != layers.end()) {
      EXPECT_EQ(
          in_layer("blocks.{}.attn.hook_pattern"),
          fmt::format("layers.{}.attn.pattern", at));
      EXPECT_EQ(in_layer("attentions[{}]"), in_layer("layers.{}.attn"));
      EXPECT_EQ(in_layer("attentions_output[{}]"), in_layer("layers.{}.attn"));
      EXPECT_EQ(
          in_layer("attention_probabilities[{}]"),
          fmt::format("layers.{}.attn.pattern", at));
    }
    if (layers[1]->feeds_forward()) {
      EXPECT_EQ(name("blocks.1.hook_mlp_out"), "layers.1.mlp_out");
      EXPECT_EQ(name("mlps[1]"), name("layers.1.mlp"));
      EXPECT_EQ(name("mlps_input[1]"), name("layers.1.mlp.input"));
    } else {
      ++alone;
      for (const auto* none :
           {"layers.1.mlp", "layers.1.mlp_out", "layers.1.resid_mid"})
        EXPECT_FALSE(sites.contains(none)) << none;
    }
    EXPECT_EQ(name("logits"), "logits");
    // nnterp's, of lists.
    EXPECT_EQ(name("layers[1]"), "layers.1.resid_post");
    EXPECT_EQ(name("layers[1].output"), "layers.1.resid_post");
    EXPECT_EQ(name("layers_input[1]"), "layers.1.resid_pre");
    EXPECT_EQ(name("token_embeddings"), name("embed_tokens"));
    // A module of the checkpoint stands before what is done with its value.
    const auto& config = model.decoder().config();
    const bool capped = config.logit_softcap != 0 || config.logit_scale != 1;
    EXPECT_EQ(name("lm_head"), capped ? "unembed.raw" : "logits");
    EXPECT_EQ(name("lm_head.output"), capped ? "unembed.raw" : "logits");
    const bool followed = config.embed_factor != 1 || config.embed_norm;
    EXPECT_EQ(name("embed_tokens"), followed ? "embed.raw" : "embed");
    n_capped += capped;

    // The path of a module in the checkpoint is a site. Where the checkpoint
    // keeps several as one, or apart for each expert or head, the error names
    // the sites that have the values.
    for (const auto& tensor : checkpoint.tensors()) {
      const auto path = tensor.name.substr(0, tensor.name.rfind('.'));
      ++modules;
      if (sites.contains(path)) {
        EXPECT_TRUE(sites.contains(path + ".input")) << path;
        for (auto above = path; above.find('.') != above.npos;) {
          above.resize(above.rfind('.'));
          const bool list = above.ends_with("layers") ||
                            above.ends_with(".h") || above.ends_with(".blocks");
          EXPECT_TRUE(
              list || sites.contains(above) ||
              !places_named(sites, above).empty())
              << above;
        }
        continue;
      }
      ++elsewhere;
      for (const auto& place : places_named(sites, path))
        EXPECT_TRUE(sites.contains(place)) << path << ": " << place;
    }
    ++families;
  }
  EXPECT_GE(families, 60u);
  EXPECT_GT(modules, 1800u);
  EXPECT_GT(elsewhere, 250u);
  EXPECT_GE(n_capped, 6u);
  EXPECT_EQ(alone, 3u);
}

}  // namespace
}  // namespace mlxterp
