// The config.json made for each architecture, where the metadata says little or
// contradicts itself. What the weights become: tests/models/gguf_families_test.

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/io/gguf_model.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using testing::raw;
using testing::gguf::entry;
using testing::gguf::Model;
using testing::gguf::word;

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

TEST(GgufArchitectures, MultipliersThatFollowFromTheSizes) {
  Model model("minicpm");
  auto config = model.config();
  EXPECT_EQ(config["scale_emb"], 12);
  EXPECT_EQ(config["scale_depth"], 1.4);
  EXPECT_EQ(config["dim_model_base"], 256.0);
  model.set_real("embedding_scale", 2);
  model.set_real("residual_scale", 0.5f);
  model.set_real("logit_scale", 3);
  config = model.config();
  EXPECT_EQ(config["scale_emb"], 2.0);
  EXPECT_NEAR(config["scale_depth"].get<double>(), 0.5 * std::sqrt(2.0), 1e-12);
  EXPECT_EQ(config["dim_model_base"], 4.0);
}

TEST(GgufArchitectures, FalconSharesKeysAsItSays) {
  Model model("falcon");
  model.set_real("attention.layer_norm_epsilon", 1e-5f);
  EXPECT_EQ(model.config()["num_kv_heads"], 2);
  EXPECT_EQ(model.config()["num_ln_in_parallel_attn"], 1);
  model.set("attention.head_count_kv", 1);
  model.vectors["blk.0.attn_norm_2.weight"] = std::vector<float>(12, 1.0f);
  const auto config = model.config();
  EXPECT_EQ(config["num_kv_heads"], 1);
  EXPECT_EQ(config["num_ln_in_parallel_attn"], 2);
  EXPECT_EQ(config["ffn_hidden_size"], 16);
  model.set("attention.key_length", 4);
  model.refused({"falcon.attention.key_length", "2 heads share its width 12"});
}

TEST(GgufArchitectures, MptsBiasesAndClips) {
  Model model("mpt");
  model.set_real("attention.layer_norm_epsilon", 1e-5f);
  model.set_real("attention.clamp_kqv", 0);
  model.set_real("attention.max_alibi_bias", 8);
  EXPECT_EQ(
      model.config()["attn_config"],
      (json{{"alibi", true}, {"alibi_bias_max", 8}}));
  model.set_real("attention.clamp_kqv", 6);
  model.set_real("attention.max_alibi_bias", 0);
  EXPECT_EQ(
      model.config()["attn_config"],
      (json{{"clip_qkv", 6.0}, {"alibi", false}}));
}

TEST(GgufArchitectures, Mistral3WithoutATemperatureIsLlama) {
  Model model("mistral3");
  EXPECT_EQ(model.config()["model_type"], "llama");
  model.set_real("attention.temperature_scale", 0.25f);
  auto config = model.config();
  EXPECT_EQ(config["model_type"], "ministral3");
  EXPECT_EQ(
      config["rope_scaling"],
      (json{
          {"rope_type", "default"},
          {"original_max_position_embeddings", 32},
          {"llama_4_scaling_beta", 0.25}}));
  model.metadata["type"] = word("mistral3.rope.scaling.type", "yarn");
  model.set_real("rope.scaling.factor", 4);
  model.set_real("rope.scaling.yarn_log_multiplier", 0.5f);
  config = model.config();
  EXPECT_EQ(config["rope_scaling"]["mscale"], 1.0);
  EXPECT_EQ(config["rope_scaling"]["mscale_all_dim"], 0.5);
  EXPECT_EQ(config["rope_scaling"]["llama_4_scaling_beta"], 0.25);
}

// A switch of Granite's: whether positions turn at all.
TEST(GgufArchitectures, GraniteMayTurnNothing) {
  Model hybrid("granitehybrid");
  EXPECT_EQ(hybrid.config()["position_embedding_type"], "rope");
  EXPECT_EQ(hybrid.config()["mamba_d_head"], 12);
  EXPECT_EQ(hybrid.config()["mamba_expand"], 2);
  EXPECT_EQ(hybrid.config()["shared_intermediate_size"], 16);
  const auto off = [](Model& model) {
    model.metadata["finetuned"] = entry(
        model.name + ".rope.scaling.finetuned",
        testing::gguf::boolean,
        std::string_view("\0", 1));
  };
  off(hybrid);
  EXPECT_EQ(hybrid.config()["position_embedding_type"], "nope");
  hybrid.set("ssm.time_step_rank", 5);
  hybrid.refused({"granitehybrid.ssm.inner_size", "24", "5 heads"});
  Model granite("granite");
  granite.config();
  off(granite);
  granite.refused({"granite.rope.scaling.finetuned", "nothing turns"});
}

TEST(GgufArchitectures, WhichLayersOfQwenAttend) {
  Model model("qwen35");
  model.add_what_is_its_own(4);
  EXPECT_EQ(
      types(model.config()),
      (std::vector<std::string>{
          "linear_attention",
          "linear_attention",
          "linear_attention",
          "full_attention"}));
  model.set("full_attention_interval", 2);
  EXPECT_EQ(types(model.config())[1], "full_attention");
  EXPECT_EQ(model.config()["linear_value_head_dim"], 6);
  model.set_list("attention.recurrent_layers", testing::gguf::boolean, 4, "\1");
  EXPECT_EQ(types(model.config())[1], "linear_attention");
  model.set_list("attention.recurrent_layers", testing::gguf::boolean, 3, "\1");
  model.refused({"attention.recurrent_layers", "3 entries"});
}

TEST(GgufArchitectures, Gemma4sLayersAreOfTwoKinds) {
  Model model("gemma4");
  model.set("attention.key_length", 8);
  model.set("attention.key_length_swa", 4);
  model.set_real("rope.freq_base", 1e6f);
  auto config = model.config();
  EXPECT_EQ(types(config)[0], "full_attention");
  EXPECT_EQ(config["head_dim"], 4);
  EXPECT_EQ(config["per_layer_config"]["1"]["head_dim"], 8);
  EXPECT_EQ(
      config["rope_parameters"]["full_attention"]["partial_rotary_factor"], 1);
  model.vectors["rope_freqs.weight"] = {1, 1e30f, 1e30f, 1e30f};
  config = model.config();
  const auto& full = config["rope_parameters"]["full_attention"];
  EXPECT_EQ(full["partial_rotary_factor"], 0.25);
  EXPECT_EQ(full["rope_theta"], 1e6);
  model.vectors["rope_freqs.weight"][1] = 2;
  model.refused({"rope_freqs.weight", "holds 2"});
  model.vectors.clear();
  model.set("rope.dimension_count", 6);
  model.refused({"gemma4.rope.dimension_count", "8 dimensions"});
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
