// tests/tiny_checkpoint.h: a Llama of three layers as a Hugging Face folder,
// byte by byte, to be spoilt before it is written.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp::testing {

struct TinyCheckpoint {
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  nlohmann::json config = {
      {"model_type", "llama"},
      {"vocab_size", 97},
      {"hidden_size", 24},
      {"num_hidden_layers", 3},
      {"num_attention_heads", 6},
      {"num_key_value_heads", 2},
      {"head_dim", 8},
      {"intermediate_size", 40},
      {"max_position_embeddings", 64},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", false},
  };
  /** The text of config.json where it is to be more than `config`. */
  std::optional<std::string> config_text = std::nullopt;
  std::map<std::string, Tensor> tensors = {};
  std::string tokenizer = {};  ///< tokenizer.json, if any.

  TinyCheckpoint() {
    put("model.embed_tokens.weight", {97, 24});
    put("model.norm.weight", {24});
    put("lm_head.weight", {97, 24});
    for (int i = 0; i < 3; ++i) {
      const auto layer = "model.layers." + std::to_string(i) + ".";
      put(layer + "input_layernorm.weight", {24});
      put(layer + "post_attention_layernorm.weight", {24});
      put(layer + "self_attn.q_proj.weight", {48, 24});
      put(layer + "self_attn.k_proj.weight", {16, 24});
      put(layer + "self_attn.v_proj.weight", {16, 24});
      put(layer + "self_attn.o_proj.weight", {24, 48});
      put(layer + "mlp.gate_proj.weight", {40, 24});
      put(layer + "mlp.up_proj.weight", {40, 24});
      put(layer + "mlp.down_proj.weight", {24, 40});
    }
  }

  void put(const std::string& name, const std::vector<int64_t>& shape) {
    size_t n = 1;
    for (const int64_t dim : shape)
      n *= static_cast<size_t>(dim);
    Tensor tensor{shape, std::vector<float>(n)};
    for (size_t i = 0; i < n; ++i)
      tensor.values[i] = std::sin(static_cast<float>(i + name.size())) / 4;
    tensors.insert_or_assign(name, std::move(tensor));
  }

  void fill(const std::string& name, float value) {
    auto& values = tensors.at(name).values;
    values.assign(values.size(), value);
  }

  std::string weights() const {
    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const auto begin = data.size();
      data.resize(begin + 4 * tensor.values.size());
      std::memcpy(
          data.data() + begin, tensor.values.data(), data.size() - begin);
      header[name] = {
          {"dtype", "F32"},
          {"shape", tensor.shape},
          {"data_offsets", {begin, data.size()}}};
    }
    return safetensors_bytes(header.dump(), data);
  }

  std::filesystem::path write(const TempFolder& folder) const {
    folder.write("m/config.json", config_text.value_or(config.dump()));
    folder.write("m/model.safetensors", weights());
    if (!tokenizer.empty()) folder.write("m/tokenizer.json", tokenizer);
    return folder / "m";
  }
};

}  // namespace mlxterp::testing
