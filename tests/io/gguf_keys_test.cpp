// No key of the metadata is passed over that says something of the model.

#include "io/gguf_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/io/gguf_model.h"

namespace mlxterp {
namespace {

using testing::gguf::entry;
using testing::gguf::Model;
using testing::gguf::number;
using testing::gguf::real;
using testing::gguf::word;

// Every key of llama.cpp's, in every architecture: it is said to be harmless,
// or another value of it makes another config, or it is refused by its name.
TEST(GgufKeys, NoKeyIsIgnored) {
  size_t read = 0, refused = 0, harmless = 0;
  std::map<std::string, GgufArchitecture> all;
  for (const auto& architecture : gguf_architectures())
    all.emplace(architecture.name, architecture);
  EXPECT_EQ(all.size(), 48u);
  for (const auto& [name, architecture] : all)
    for (const GgufKey& rule : gguf_keys()) {
      const auto key = name + "." + std::string(rule.field);
      SCOPED_TRACE(key);
      const auto eps = architecture.eps.key;
      Model model(name);
      model.set("attention.key_length", 6);
      if (eps == "attention.layer_norm_epsilon")
        model.set_real("attention.layer_norm_epsilon", 1e-5f);
      if (name == "deepseek2") {
        model.set("attention.value_length", 6);
        model.set("rope.dimension_count", 2);
      }
      model.add_what_is_its_own(7);
      model.metadata["type"] = word(name + ".rope.scaling.type", "yarn");
      model.set_real("rope.scaling.factor", 4);
      if (!architecture.rotary) {
        model.metadata.erase("type");
        model.metadata.erase("rope.scaling.factor");
      }
      // OLMo 3 is an OLMo 2 with one.
      if (name == "gemma2" || name == "gemma3" ||
          (architecture.window_period > 0 &&
           (rule.field.find("swa") != std::string_view::npos ||
            rule.field.find("sliding_window_") != std::string_view::npos)))
        model.set("attention.sliding_window", 8);
      if (rule.field == "rope.scale_linear") {  // an older name of the factor
        model.metadata.erase("type");
        model.metadata.erase("rope.scaling.factor");
      }
      if (name == "minicpm") model.set_real("embedding_scale", 2);
      // Read where the list of layers is not there.
      if (rule.field == "full_attention_interval")
        model.metadata.erase("attention.recurrent_layers");
      if (rule.field.starts_with("expert_") && name == "gemma4") {
        model.set("expert_count", 4);
        model.set("expert_used_count", 2);
        model.set("expert_feed_forward_length", 8);
      }
      if (rule.field.starts_with("expert_") && name == "granitehybrid") {
        model.set("expert_count", 4);
        model.set("expert_shared_feed_forward_length", 8);
      }
      // A number, of the kind the file takes; else 3 as an integer.
      const auto outcome = [&](auto... value) -> std::string {
        try {
          auto changed = model;
          changed.metadata.erase(std::string(rule.field));
          if (rule.field.ends_with("rms_epsilon"))
            changed.metadata.erase("eps");
          if (rule.field == "rope.scaling.type") changed.metadata.erase("type");
          (changed.metadata.emplace(std::string(rule.field) + "?", value(key)),
           ...);
          return changed.config().dump();
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::bad_data);
          return error.what();
        }
      };
      const auto plain = model.config().dump();
      bool changes = false, named = false;
      for (const auto& said :
           {outcome([](auto k) { return number(k, 3); }),
            outcome([](auto k) { return real(k, 3.5f); }),
            outcome([](auto k) { return word(k, "linear"); })}) {
        changes |= said[0] == '{' && said != plain;
        if (said[0] == '{') continue;
        named |= said.find(key) != said.npos;
        named |= said.find("gemma3 models rotate all") != said.npos ||
                 said.find("vocab_size") != said.npos ||
                 said.find("fewer key heads") != said.npos ||
                 said.find("key heads, which do not divide") != said.npos ||
                 said.find("keys of 6 and values of 3") != said.npos ||
                 said.find("some must stay") != said.npos;
      }
      const bool own =
          std::ranges::find(architecture.fields, rule.field, &GgufField::key) !=
          architecture.fields.end();
      if (rule.use == GgufKey::Use::harmless && !own) {
        EXPECT_FALSE(changes || named);
        ++harmless;
      } else if (
          (name == "gpt2" && rule.field == "rope.dimension_count") ||
          (name == "deepseek2" && rule.field == "attention.head_count_kv") ||
          (rule.field.ends_with("rms_epsilon") && eps != rule.field)) {
        ++harmless;  // nothing turns, it is of the latent, there is no such
                     // norm
      } else if (
          // What is read of it is said by another key or a tensor, too.
          (rule.field == "expert_shared_feed_forward_length" &&
           (name == "ernie4_5-moe" || name == "granite")) ||
          (rule.field.starts_with("ssm.") && name == "granite" && own) ||
          // Text turns by one number, whichever of three it is.
          (rule.field == "rope.dimension_sections" && own)) {
        ++harmless;
      } else {
        EXPECT_TRUE(changes || named);
        ++(changes ? read : refused);
      }
    }
  EXPECT_GE(read, 48 * 12u);
  EXPECT_GE(refused, 48 * 50u);
  EXPECT_GE(harmless, 48 * 6u + 2);
  EXPECT_LE(harmless, 48 * 6u + 30);
}

// Some converters write what a model does not have as what changes nothing.
TEST(GgufKeys, NeutralValuesAreNoReasonToRefuse) {
  Model model("llama");
  model.set("expert_used_count", 0);
  model.set_real("attention.clamp_kqv", 0);
  model.set_real("logit_scale", 1);
  model.metadata["causal"] =
      entry("llama.attention.causal", testing::gguf::boolean, "\1");
  EXPECT_EQ(model.config()["model_type"], "llama");
  model.metadata["causal"] = entry(
      "llama.attention.causal",
      testing::gguf::boolean,
      std::string_view("\0", 1));
  model.refused({"llama.attention.causal", "false"});
}

}  // namespace
}  // namespace mlxterp
