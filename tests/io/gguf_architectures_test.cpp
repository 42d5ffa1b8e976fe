// The config.json made for each architecture, where the metadata says little or
// contradicts itself. What the weights become: tests/models/gguf_families_test.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "io/gguf_keys.h"
#include "mlxterp/io/checkpoint.h"
#include "tests/bad_input.h"
#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using testing::raw;
using testing::TempFolder;
using testing::gguf::entry;
using testing::gguf::number;
using testing::gguf::real;
using testing::gguf::word;

/** A file of that architecture with the metadata that all but GPT-2 share and
 * an embedding of 6 tokens; the keys are without the architecture's name. */
struct Model {
  std::string name;
  std::map<std::string, std::string> metadata = {};
  std::map<std::string, std::vector<float>> vectors = {};

  explicit Model(std::string architecture) : name(std::move(architecture)) {
    set("block_count", 2);
    set("context_length", 32);
    set("embedding_length", 12);
    set("feed_forward_length", 16);
    set("attention.head_count", 2);
    metadata["eps"] = real(name + ".attention.layer_norm_rms_epsilon", 1e-5f);
  }

  void set(const std::string& key, uint32_t value) {
    metadata[key] = number(name + "." + key, value);
  }

  void set_real(const std::string& key, float value) {
    metadata[key] = real(name + "." + key, value);
  }

  std::string bytes() const {
    testing::gguf::File file;
    file.entries.push_back(word("general.architecture", name));
    for (const auto& [key, bytes_of] : metadata)
      file.entries.push_back(bytes_of);
    file.tensors.push_back(
        testing::gguf::tensor("token_embd.weight", {12, 6}, 0, 0));
    file.data = testing::floats(72);
    for (const auto& [tensor, values] : vectors) {
      file.data.resize((file.data.size() + 31) / 32 * 32);
      file.tensors.push_back(
          testing::gguf::tensor(tensor, {values.size()}, 0, file.data.size()));
      for (const float value : values)
        file.data += raw(value);
    }
    file.data.resize((file.data.size() + 31) / 32 * 32);
    return file.bytes();
  }

  json config() const {
    const TempFolder folder;
    return json::parse(
        Checkpoint::open(folder.write("m.gguf", bytes())).config());
  }

  void refused(const std::vector<std::string>& says) const {
    const TempFolder folder;
    testing::expect_refused(
        [&] {
          return Checkpoint::open(folder.write("m.gguf", bytes())).config();
        },
        ErrorKind::bad_data,
        says);
  }
};

std::vector<std::string> types(const json& config) {
  return config.at("layer_types").get<std::vector<std::string>>();
}

TEST(GgufArchitectures, Gemma2SaysWhatIsLeftOut) {
  Model model("gemma2");
  model.set("attention.key_length", 4);
  auto config = model.config();
  EXPECT_EQ(config["query_pre_attn_scalar"], 4);
  EXPECT_EQ(config["sliding_window"], 4096);
  EXPECT_EQ(config["attn_logit_softcapping"], 50.0);
  EXPECT_EQ(config["final_logit_softcapping"], 30.0);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_FALSE(config.contains("hidden_act"));
  EXPECT_EQ(
      types(config),
      (std::vector<std::string>{"sliding_attention", "full_attention"}));
  // The 27B is known by its layers alone.
  model.set("block_count", 46);
  EXPECT_EQ(model.config()["query_pre_attn_scalar"], 6);
}

// Files older than the keys: as llama.cpp computes without them.
TEST(GgufArchitectures, DeepseekSaysWhatIsLeftOut) {
  Model model("deepseek2");
  model.set("attention.key_length", 6);
  model.set("attention.value_length", 4);
  model.set("rope.dimension_count", 2);
  auto config = model.config();
  EXPECT_EQ(config["model_type"], "youtu");  // no layer has experts
  EXPECT_EQ(config["qk_rope_head_dim"], 2);
  EXPECT_EQ(config["qk_nope_head_dim"], 4);
  EXPECT_EQ(config["v_head_dim"], 4);
  EXPECT_EQ(config["n_group"], 1);
  EXPECT_EQ(config["topk_group"], 1);
  EXPECT_EQ(config["routed_scaling_factor"], 1);
  EXPECT_EQ(config["norm_topk_prob"], false);
  EXPECT_EQ(config["first_k_dense_replace"], 0);
  EXPECT_TRUE(config["q_lora_rank"].is_null());
  // Those of newer files count more.
  model.set("attention.key_length_mla", 8);
  model.set("attention.value_length_mla", 5);
  EXPECT_EQ(model.config()["qk_nope_head_dim"], 6);
  EXPECT_EQ(model.config()["v_head_dim"], 5);
  model.set("rope.dimension_count", 8);
  model.refused({"rotates 8 of 8", "some must stay"});
}

TEST(GgufArchitectures, Gemma3sWindowsAndRotations) {
  Model model("gemma3");
  model.set("block_count", 62);
  model.set("attention.key_length", 4);
  EXPECT_EQ(model.config()["query_pre_attn_scalar"], 6);
  EXPECT_TRUE(model.config()["sliding_window"].is_null());
  EXPECT_FALSE(model.config().contains("layer_types"));
  EXPECT_FALSE(model.config().contains("final_logit_softcapping"));
  model.set("block_count", 7);
  model.set("attention.sliding_window", 5);
  model.set_real("rope.freq_base", 1e6f);
  model.metadata["type"] = word("gemma3.rope.scaling.type", "linear");
  model.set_real("rope.scaling.factor", 8);
  auto config = model.config();
  EXPECT_EQ(config["query_pre_attn_scalar"], 4);
  EXPECT_EQ(config["sliding_window"], 5);
  const auto layers = types(config);
  ASSERT_EQ(layers.size(), 7u);
  for (size_t i = 0; i < 7; ++i)
    EXPECT_EQ(layers[i], i == 5 ? "full_attention" : "sliding_attention") << i;
  EXPECT_EQ(
      config["rope_parameters"],
      (json{
          {"full_attention",
           {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
          {"sliding_attention",
           {{"rope_type", "default"}, {"rope_theta", 10000.0}}}}));
  // One flag a layer, as newer files have it.
  const auto flags = [&](const std::string& each) {
    model.metadata["flags"] = entry(
        "gemma3.attention.sliding_window_pattern",
        testing::gguf::array,
        raw(uint32_t{testing::gguf::boolean}) + raw(uint64_t{each.size()}) +
            each);
  };
  flags(std::string("\1\0\0\1\1\1\1", 7));
  EXPECT_EQ(types(model.config())[1], "full_attention");
  EXPECT_EQ(types(model.config())[3], "sliding_attention");
  flags(std::string("\1\0", 2));
  model.refused({"sliding_window_pattern", "2 entries"});
}

TEST(GgufArchitectures, StretchesOfTheRotationInTensors) {
  Model model("phi3");
  model.set("attention.sliding_window", 0);
  model.set("rope.scaling.original_context_length", 16);
  EXPECT_FALSE(model.config().contains("sliding_window"));
  model.vectors["rope_factors_long.weight"] = {1.5f, 2, 3};
  model.refused({"lacks rope_factors_short.weight"});
  model.vectors["rope_factors_short.weight"] = {1, 1, 1.25f};
  auto config = model.config();
  EXPECT_EQ(
      config["rope_scaling"],
      (json{
          {"rope_type", "longrope"},
          {"original_max_position_embeddings", 16},
          {"attention_factor", 1.0},
          {"short_factor", {1.0, 1.0, 1.25}},
          {"long_factor", {1.5, 2.0, 3.0}}}));
  model.set_real("rope.scaling.attn_factor", 1.25f);
  EXPECT_EQ(model.config()["rope_scaling"]["attention_factor"], 1.25);
  for (const float wrong : {0.0f, -1.0f, std::nanf(""), INFINITY}) {
    model.vectors["rope_factors_short.weight"][1] = wrong;
    model.refused({"rope_factors_short.weight", "not a positive number"});
  }
  model.vectors["rope_factors_short.weight"][1] = 1;
  model.set_real("rope.scaling.factor", 8);
  model.refused({"scales RoPE twice"});
}

TEST(GgufArchitectures, YarnAsTheConverterWritesIt) {
  Model model("qwen2");
  model.metadata["type"] = word("qwen2.rope.scaling.type", "yarn");
  model.set_real("rope.scaling.factor", 4);
  model.set("rope.scaling.original_context_length", 8);
  const json plain = {
      {"rope_type", "yarn"},
      {"factor", 4.0},
      {"original_max_position_embeddings", 8}};
  EXPECT_EQ(model.config()["rope_scaling"], plain);
  model.set_real("rope.scaling.yarn_beta_fast", 24);
  model.set_real("rope.scaling.yarn_beta_slow", 0.5f);
  model.set_real("rope.scaling.yarn_attn_factor", 1.25f);
  auto said = plain;
  said["beta_fast"] = 24.0;
  said["beta_slow"] = 0.5;
  said["attention_factor"] = 1.25;
  EXPECT_EQ(model.config()["rope_scaling"], said);
  model.set_real("rope.scaling.attn_factor", 2);
  said["attention_factor"] = 2.5;
  EXPECT_EQ(model.config()["rope_scaling"], said);
  // Without one of its own it is YaRN's, 1 + ln(4) / 10.
  model.metadata.erase("rope.scaling.yarn_attn_factor");
  EXPECT_NEAR(
      model.config()["rope_scaling"]["attention_factor"].get<double>(),
      2 * 1.1386294361,
      1e-9);
  for (const float unset : {-1.0f, 1.0f}) {
    model.set_real("rope.scaling.yarn_ext_factor", unset);
    EXPECT_EQ(model.config()["rope_scaling"]["beta_fast"], 24.0);
  }
  model.set_real("rope.scaling.yarn_ext_factor", 0.5f);
  model.refused({"yarn_ext_factor", "0.5"});
}

// A factor without a name is a linear one, as llama.cpp has it.
TEST(GgufArchitectures, AScalingWithoutAType) {
  Model model("qwen2");
  model.set_real("rope.scaling.factor", 4);
  EXPECT_EQ(
      model.config()["rope_scaling"],
      (json{{"rope_type", "linear"}, {"factor", 4.0}}));
  model.set_real("rope.scaling.attn_factor", 2);
  model.refused({"rope.scaling.attn_factor 2", "linear"});
}

// Every key of llama.cpp's, in every architecture: it is said to be harmless,
// or another value of it makes another config, or it is refused by its name.
TEST(GgufArchitectures, NoKeyIsIgnored) {
  size_t read = 0, refused = 0, harmless = 0;
  std::map<std::string, GgufArchitecture> all;
  for (const auto& architecture : gguf_architectures())
    all.emplace(architecture.name, architecture);
  EXPECT_EQ(all.size(), 32u);
  for (const auto& [name, architecture] : all)
    for (const GgufKey& rule : gguf_keys()) {
      const auto key = name + "." + std::string(rule.field);
      SCOPED_TRACE(key);
      const auto eps = architecture.eps.key;
      Model model(name);
      model.set("attention.key_length", 6);
      if (name == "gpt2") model.metadata.erase("attention.key_length");
      if (eps == "attention.layer_norm_epsilon")
        model.set_real("attention.layer_norm_epsilon", 1e-5f);
      if (name == "deepseek2") {
        model.set("attention.value_length", 6);
        model.set("rope.dimension_count", 2);
      }
      model.set("block_count", 7);
      model.metadata["type"] = word(name + ".rope.scaling.type", "yarn");
      model.set_real("rope.scaling.factor", 4);
      if (name == "gpt2") {
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
      if (rule.use == GgufKey::Use::harmless) {
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
          rule.field == "expert_shared_feed_forward_length" &&
          name == "ernie4_5-moe") {
        ++harmless;
      } else {
        EXPECT_TRUE(changes || named);
        ++(changes ? read : refused);
      }
    }
  EXPECT_GE(read, 32 * 12u);
  EXPECT_GE(refused, 32 * 50u);
  EXPECT_GE(harmless, 32 * 6u + 2);
  EXPECT_LE(harmless, 32 * 6u + 12);
}

// Some converters write what a model does not have as what changes nothing.
TEST(GgufArchitectures, NeutralValuesAreNoReasonToRefuse) {
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

TEST(GgufArchitectures, WhatIsMissingIsNamed) {
  for (const std::string name :
       {"qwen2", "qwen3", "gemma2", "gemma3", "phi3"}) {
    for (const std::string key :
         {"block_count",
          "context_length",
          "embedding_length",
          "feed_forward_length",
          "attention.head_count"}) {
      Model model(name);
      model.metadata.erase(key);
      model.refused({"has no " + name + "." + key});
    }
    Model model(name);
    model.metadata.erase("eps");
    model.refused({"has no " + name + ".attention.layer_norm_rms_epsilon"});
  }
  Model gpt2("gpt2");
  gpt2.refused({"has no gpt2.attention.layer_norm_epsilon"});
  gpt2.set_real("attention.layer_norm_epsilon", 1e-5f);
  EXPECT_EQ(gpt2.config()["n_positions"], 32);
  gpt2.metadata.erase("embedding_length");
  gpt2.refused({"has no gpt2.embedding_length"});
}

}  // namespace
}  // namespace mlxterp
