#include "trace/site_suggestions.h"

#include <gtest/gtest.h>

#include "mlxterp/core/error.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

const std::vector<std::string> names = {
    "embed",
    "logits",
    "tokens",
    "layers.0.attn.pattern",
    "layers.0.attn.z",
    "layers.0.resid_post",
    "layers.1.attn.pattern",
    "layers.1.attn.z",
    "layers.1.resid_post",
};

TEST(SuggestSites, SaysHowManyLayersThereAre) {
  for (const auto* asked :
       {"layers.40.attn.z", "layers.2", "layers.40.nonsense", "layers.-1.z"})
    EXPECT_EQ(suggest_sites(asked, names), "; the model has 2 layers, 0 to 1")
        << asked;
  EXPECT_EQ(
      suggest_sites("layers.3.z", {"input", "output"}),
      "; the model has no layers");
}

TEST(SuggestSites, NamesWhatHoldsAWordOrAPatternsPiece) {
  const std::pair<const char*, const char*> all[] = {
      {"resid_post", "; did you mean layers.*.resid_post?"},
      {"*pattern*", "; did you mean layers.*.attn.pattern?"},
      {"*.pattern", "; did you mean layers.*.attn.pattern?"},
      {"pattern", "; did you mean layers.*.attn.pattern?"},
      {"*resid*", "; did you mean layers.*.resid_post?"}};
  for (const auto& [asked, suggestion] : all)
    EXPECT_EQ(suggest_sites(asked, names), suggestion) << asked;
}

TEST(SuggestSites, NamesTheNearestOfOtherNames) {
  EXPECT_NE(
      suggest_sites("layers.1.atn.z", names).find("mean layers.1.attn.z,"),
      std::string::npos);
  EXPECT_NE(
      suggest_sites("logit", names).find("mean logits"), std::string::npos);
  EXPECT_EQ(suggest_sites(std::string(201, 'x'), names), "");
  EXPECT_EQ(suggest_sites("x", {}), "");
}

// However a layer is called.
TEST(SuggestSites, IsWhatAModelSays) {
  const auto model = test::tiny_model();
  const auto message = [&](const std::string& name) {
    try {
      model.sites().match(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unknown_name);
      return std::string(error.what());
    }
    ADD_FAILURE() << name;
    return std::string();
  };
  for (const auto* name :
       {"layers.40.mlp_out",
        "blocks.40.hook_mlp_out",
        "model.layers.40.self_attn",
        "layers_output[40]"})
    EXPECT_NE(message(name).find("has 3 layers, 0 to 2"), std::string::npos)
        << message(name);
  EXPECT_NE(
      message("resid_post").find("mean layers.*.resid_post"),
      std::string::npos);
  EXPECT_NE(
      message("*pattern*").find("mean layers.*.attn.pattern"),
      std::string::npos);
  EXPECT_NE(
      message("hook_resid_post").find("layers.*.resid_post"),
      std::string::npos);
}

}  // namespace
}  // namespace mlxterp
