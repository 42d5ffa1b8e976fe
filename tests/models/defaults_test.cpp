// A config.json that lacks a field means what it means to transformers: every
// field of every family is left out, and made null, and the outcome held
// against the table that tests/parity/make_defaults.py took from transformers.

#include <gtest/gtest.h>

#include <set>

#include "mlxterp/core/error.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

using nlohmann::json;

// Their defaults in transformers are the sizes of the family's first model.
const std::set<std::string> sizes = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "block_ff_dim",
    "n_embd",
    "n_layer",
    "n_head",
    "num_layers",
    "num_heads",
    "ffn_dim",
    "d_model",
    "n_embed",
    "n_layers",
    "n_heads"};

// Null has a plain meaning here, that of older releases, where transformers 5
// refuses the type.
const std::set<std::string> null_is_derived = {
    "num_key_value_heads", "head_dim", "rotary_dim", "sliding_window"};

const json& table() {
  static const json read = [] {
    std::ifstream file(MLXTERP_SOURCE_DIR "/tests/parity/defaults.json");
    return json::parse(file);
  }();
  return read;
}

std::vector<std::string> configs() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : table().at("configs").items())
    if (!name.starts_with(test::refused_variant)) names.push_back(name);
  return names;
}

// "rope_parameters.full_attention.factor", as a pointer into the config.
json::json_pointer pointer(const std::string& path) {
  auto text = "/" + path;
  std::ranges::replace(text, '.', '/');
  return json::json_pointer(text);
}

json changed(json config, const std::string& path, bool to_null) {
  const auto at = pointer(path);
  if (to_null)
    config[at] = nullptr;
  else
    config[at.parent_pointer()].erase(at.back());
  return config;
}

// Every member as text. A member that is added does not compile until it stands
// here too.
json shown(const nn::NormConfig& norm) {
  const auto& [kind, eps, bias, plus_one, gain] = norm;
  return {static_cast<int>(kind), eps, bias, plus_one, gain};
}

json shown(const nn::Rope& rope) {
  const auto& [dims, theta, interleaved, scale, attention_factor, max_positions, wavelengths, longer, dynamic, kind] =
      rope;
  json all = {
      dims,
      theta,
      interleaved,
      scale,
      attention_factor,
      max_positions,
      wavelengths,
      kind};
  if (longer) all.push_back({longer->beyond, longer->wavelengths});
  if (dynamic) all.push_back({dynamic->factor, dynamic->context});
  return all;
}

json shown(const nn::Routing& routing) {
  const auto& [sigmoid, corrected, n_groups, top_groups, by_two, epsilon, scale] =
      routing;
  return {sigmoid, corrected, n_groups, top_groups, by_two, epsilon, scale};
}

json shown(const nn::LatentConfig& latent) {
  const auto& [q_rank, kv_rank, d_rope, d_value, bias, norm] = latent;
  return {q_rank, kv_rank, d_rope, d_value, bias, shown(norm)};
}

json shown(const nn::MoEConfig& moe) {
  const auto& [d_model, d_mlp, n_experts, top_k, normalize, weigh_input, routing, activation, swiglu, bias, router_bias, d_shared, shared_bias, shared_gate, expert_norm, router_norm, router_scale, expert_scale] =
      moe;
  json all = {
      d_model,
      d_mlp,
      n_experts,
      top_k,
      normalize,
      weigh_input,
      shown(routing),
      activation,
      bias,
      router_bias,
      d_shared,
      shared_bias,
      shared_gate,
      router_scale,
      expert_scale};
  if (expert_norm) all.push_back(shown(*expert_norm));
  if (router_norm) all.push_back(shown(*router_norm));
  if (swiglu) all.push_back({swiglu->slope, swiglu->limit});
  return all;
}

// Its kind and the shapes of its parameters.
json shown(const nn::Mixer& mixer) {
  json all = {mixer.name()};
  for (const auto& [path, parameter] : mixer.parameters())
    all.push_back(
        {path,
         std::vector<int>(
             parameter->shape().begin(), parameter->shape().end())});
  return all;
}

json shown(const DecoderConfig& config) {
  const auto& [model_type, vocab, d_model, n_layers, n_heads, n_kv_heads, d_head, d_mlp, context, parallel, shared_norm, pre_norms, post_norms, norm, residual_scale, layer_scalar, float32_stream, rope, local_rope, windows, chunks, no_rope, dense, qkv_bias, attn_out_bias, attention_scale, scale_by_layer, attention_softcap, clip_qkv, alibi, attention_sinks, attention_gate, qk_norm, qk_norm_config, qk_norm_rotated, no_qk_norm, q_scale, no_q_scale, v_norm, d_heads, kv_heads, k_eq_v, kv_layers, latent, mixer, activation, gated, mlp_bias, d_mlps, moe, moe_beside, d_per_layer, per_layer_vocab, embed_scale, embed_factor, embed_norm, positions, position_offset, tied, unembed_bias, logit_scale, logit_softcap] =
      config;
  json all;
  all["model_type"] = model_type;
  all["vocab"] = vocab;
  all["d_model"] = d_model;
  all["n_layers"] = n_layers;
  all["n_heads"] = n_heads;
  all["n_kv_heads"] = n_kv_heads;
  all["d_head"] = d_head;
  all["d_mlp"] = d_mlp;
  all["context"] = context;
  all["parallel"] = parallel;
  all["shared_norm"] = shared_norm;
  all["pre_norms"] = pre_norms;
  all["post_norms"] = post_norms;
  all["norm"] = shown(norm);
  all["residual_scale"] = residual_scale;
  all["layer_scalar"] = layer_scalar;
  all["rope"] = shown(rope);
  if (local_rope) all["local_rope"] = shown(*local_rope);
  all["float32_stream"] = float32_stream;
  all["windows"] = windows;
  all["chunks"] = chunks;
  all["no_rope"] = no_rope;
  all["dense"] = dense;
  all["qkv_bias"] = qkv_bias;
  all["attn_out_bias"] = attn_out_bias;
  all["attention_scale"] = attention_scale;
  all["scale_by_layer"] = scale_by_layer;
  all["attention_softcap"] = attention_softcap;
  all["clip_qkv"] = clip_qkv;
  all["alibi"] = {alibi.slopes, alibi.rounded, alibi.scale};
  all["attention_sinks"] = attention_sinks;
  all["attention_gate"] = attention_gate;
  all["qk_norm"] = static_cast<int>(qk_norm);
  all["qk_norm_config"] = shown(qk_norm_config);
  all["qk_norm_rotated"] = qk_norm_rotated;
  all["no_qk_norm"] = no_qk_norm;
  all["no_q_scale"] = no_q_scale;
  if (q_scale) all["q_scale"] = {q_scale->beta, q_scale->every, q_scale->first};
  if (v_norm) all["v_norm"] = shown(*v_norm);
  all["d_heads"] = d_heads;
  all["kv_heads"] = kv_heads;
  all["k_eq_v"] = k_eq_v;
  all["kv_layers"] = kv_layers;
  if (latent) all["latent"] = shown(*latent);
  for (int layer = 0; mixer && layer < n_layers; ++layer)
    all["mixer"].push_back(shown(*mixer(config, layer)));
  all["activation"] = static_cast<int>(activation);
  all["gated"] = gated;
  all["mlp_bias"] = mlp_bias;
  all["d_mlps"] = d_mlps;
  if (moe) all["moe"] = shown(*moe);
  all["moe_beside"] = moe_beside;
  all["d_per_layer"] = d_per_layer;
  all["per_layer_vocab"] = per_layer_vocab;
  all["embed_scale"] = embed_scale;
  all["embed_factor"] = embed_factor;
  all["embed_norm"] = embed_norm;
  all["positions"] = positions;
  all["position_offset"] = position_offset;
  all["tied"] = tied;
  all["unembed_bias"] = unembed_bias;
  all["logit_scale"] = logit_scale;
  all["logit_softcap"] = logit_softcap;
  return all;
}

// The config, or what refused it.
struct Outcome {
  std::optional<json> config;
  std::string refusal;
};

Outcome configured(const json& config) {
  const auto text = config.dump();
  try {
    return {shown(family_of(text).configure(text)), ""};
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
    return {std::nullopt, error.what()};
  }
}

json whole_config(const std::string& name) {
  std::ifstream file(test::families_root / name);
  return json::parse(file);
}

class Defaults : public ::testing::TestWithParam<std::string> {};

TEST_P(Defaults, AreThoseOfTransformers) {
  const auto config = whole_config(GetParam());
  const auto& entry = table().at("configs").at(GetParam());
  ASSERT_TRUE(configured(config).config.has_value());
  ASSERT_EQ(configured(config).config, configured(entry["whole"]).config);
  size_t equal = 0, refused = 0;
  for (const bool null : {false, true})
    for (const auto& [path, oracle] : entry[null ? "null" : "absent"].items()) {
      SCOPED_TRACE(path + (null ? " is null" : " is absent"));
      const auto ours = configured(changed(config, path, null));
      // Where it has a default: four times the width.
      const bool derived =
          path == "intermediate_size" && config["model_type"] == "gpt_neo";
      if (sizes.contains(path) && !derived) {
        EXPECT_NE(ours.refusal.find("'" + path + "'"), std::string::npos)
            << ours.refusal;
        ++refused;
        continue;
      }
      if (oracle.contains("error")) {
        // Transformers checks the types of fields that it does not read.
        auto wrong = config;
        wrong[pointer(path)] = "not read";
        // Of attention's heads, that is, and not of a state space's.
        const bool derives =
            null_is_derived.contains(path) && config["model_type"] != "mamba2";
        const bool taken =
            (null && derives) || configured(wrong).config.has_value();
        EXPECT_EQ(ours.config.has_value(), taken) << ours.refusal;
        ++refused;
        continue;
      }
      auto meant = entry["whole"];
      meant.update(oracle["fields"]);
      for (const auto& key : oracle.value("gone", std::vector<std::string>()))
        meant.erase(key);
      // What rope_parameters lacks there, all of d_head turns.
      if (null && path == "partial_rotary_factor" &&
          meant.contains("rope_parameters"))
        meant["rope_parameters"].emplace(path, 1);
      const auto theirs = configured(meant);
      if (theirs.config && ours.config)
        ++equal;
      else
        ++refused;
      EXPECT_EQ(ours.config.has_value(), theirs.config.has_value())
          << ours.refusal << theirs.refusal;
      EXPECT_EQ(ours.config, theirs.config) << oracle["fields"];
    }
  EXPECT_GE(equal, 1u);
  EXPECT_GE(refused, 8u);
  EXPECT_EQ(equal + refused, entry["absent"].size() + entry["null"].size());
}

// Every field that is read, inside the lists too, refuses a number that is none
// in float32, and a type that is not its own.
TEST_P(Defaults, NoFieldTakesWhatItIsNot) {
  const auto config = whole_config(GetParam());
  size_t read = 0;
  const auto refused = [&](const json::json_pointer& at, const json& value) {
    auto wrong = config;
    wrong[at] = value;
    return !configured(wrong).config.has_value();
  };
  const std::vector<json> none = {
      1e-50, 1e50, 1e-45, -1.5, json::object(), json::array({json::object()})};
  const auto check = [&](const json::json_pointer& at) {
    if (!refused(at, "not read")) return;
    ++read;
    for (const auto& value : none)
      EXPECT_TRUE(refused(at, value)) << at << " took " << value;
  };
  for (const auto& [path, outcome] :
       table().at("configs").at(GetParam())["absent"].items()) {
    const auto at = pointer(path);
    const auto& value = config[at];
    if (!value.is_object()) check(at);
    if (value.is_array())
      for (size_t i = 0; i < value.size(); ++i)
        check(at / i);
  }
  EXPECT_GE(read, 7u);
}

// The fields that a family's config class has and its model reads. Each is left
// out of some config above, or is absent from all of them already.
TEST(Defaults, CoverEveryFamily) {
  std::set<std::string> types;
  size_t cases = 0;
  for (const auto& name : configs()) {
    const auto& entry = table().at("configs").at(name);
    types.insert(entry["whole"]["model_type"]);
    cases += entry["absent"].size() + entry["null"].size();
  }
  EXPECT_EQ(types.size(), families().size());
  EXPECT_GE(cases, 3000u);
}

std::string case_name(const ::testing::TestParamInfo<std::string>& info) {
  auto name = info.param;
  std::ranges::replace_if(
      name, [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Configs, Defaults, ::testing::ValuesIn(configs()), case_name);

}  // namespace
}  // namespace mlxterp
