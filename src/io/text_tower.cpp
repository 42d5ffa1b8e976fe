#include "io/text_tower.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

using nlohmann::json;
using std::string_view;

constexpr string_view opening = "Checkpoint::open";

// Where configs nest that of their language model.
constexpr std::array<const char*, 3> nests = {
    "text_config", "llm_config", "language_config"};

// What the tensors of a language model are under.
constexpr std::array<string_view, 3> towers = {
    "language_model", "text_model", "llm"};

// What stands beside a language model, by the first component of a name.
constexpr std::array<std::pair<string_view, string_view>, 25> others = {{
    {"vision_tower", "vision"},
    {"vision_model", "vision"},
    {"vision_encoder", "vision"},
    {"vision_embedder", "vision"},
    {"vision_embed_tokens", "vision"},
    {"embed_vision", "vision"},
    {"visual", "vision"},
    {"image_newline", "vision"},
    {"audio_tower", "audio"},
    {"audio_model", "audio"},
    {"audio_encoder", "audio"},
    {"embed_audio", "audio"},
    {"multi_modal_projector", "projector"},
    {"mm_projector", "projector"},
    {"vision_projector", "projector"},
    {"vision_language_adapter", "projector"},
    {"patch_merger", "projector"},
    {"connector", "projector"},
    {"audio_projector", "projector"},
    {"projector", "projector"},
    {"mtp", "draft"},
    {"mtp_layers", "draft"},
    {"mtp_block", "draft"},
    {"mtp_emb_norm", "draft"},
    {"mtp_hidden_norm", "draft"},
}};

// What a nested config without model_type is, by the model_type around it.
constexpr std::array<std::pair<string_view, const char*>, 9> kinds = {{
    {"gemma3", "gemma3_text"},
    {"gemma4", "gemma4_text"},
    {"llama4", "llama4_text"},
    {"llava", "llama"},
    {"llava_next", "llama"},
    {"mistral3", "mistral"},
    {"qwen3_5", "qwen3_5_text"},
    {"qwen3_5_moe", "qwen3_5_moe_text"},
    {"qwen3_vl", "qwen3_vl_text"},
}};

// Nested configs may leave out even the sizes where they are those of the
// config's class in transformers: that of Gemma 3 4B says neither vocab_size
// nor num_attention_heads.
struct Sizes {
  string_view model_type;
  int vocab, d_model, d_mlp, layers, heads;
};
constexpr std::array<Sizes, 10> sizes = {{
    {"gemma3_text", 262'208, 2304, 9216, 26, 8},
    {"gemma4_text", 262'144, 2304, 9216, 30, 8},
    {"llama", 32'000, 4096, 11'008, 32, 32},
    {"llama4_text", 202'048, 5120, 8192, 48, 40},
    {"ministral3", 131'072, 4096, 14'336, 34, 32},
    {"mistral", 32'000, 4096, 14'336, 32, 32},
    {"qwen2", 151'936, 4096, 22'016, 32, 32},
    {"qwen3", 151'936, 4096, 22'016, 32, 32},
    {"qwen3_5_moe_text", 248'320, 2048, 512, 40, 16},
    {"qwen3_5_text", 248'320, 4096, 12'288, 32, 16},
}};

// What is left of `name` behind "<component>.", or nothing where it does not
// begin so.
std::optional<string_view> behind(string_view name, string_view component) {
  if (!name.starts_with(component) || name.size() <= component.size() ||
      name[component.size()] != '.')
    return std::nullopt;
  return name.substr(component.size() + 1);
}

string_view without_model(string_view name) {
  return behind(name, "model").value_or(name);
}

string_view first_component(string_view name) {
  return name.substr(0, name.find('.'));
}

std::string text(const json& config, const char* field) {
  const auto found = config.find(field);
  return found != config.end() && found->is_string() ? found->get<std::string>()
                                                     : "";
}

int count(const json& config, const char* field) {
  const auto found = config.find(field);
  return found != config.end() && found->is_number_integer() && *found > 0 &&
                 *found < 1'000'000
             ? found->get<int>()
             : 0;
}

const char* only_nest(const json& config, const std::string& where) {
  const char* nest = nullptr;
  for (const auto* field : nests) {
    if (!config.contains(field) || config[field].is_null()) continue;
    if (nest)
      fail(
          ErrorKind::bad_data,
          "[{}] config.json of {} describes two language models, in '{}' and "
          "in '{}'; save the one that is meant alone",
          opening,
          where,
          nest,
          field);
    if (!config[field].is_object())
      fail(
          ErrorKind::bad_data,
          "[{}] config.json of {}: '{}' is a JSON {}, not an object; download "
          "it again",
          opening,
          where,
          field,
          config[field].type_name());
    nest = field;
  }
  return nest;
}

// The nested config with what its surroundings say of it.
json unnested(const json& outer, const char* nest, const std::string& where) {
  json config = outer[nest];
  const auto around = text(outer, "model_type");
  if (!config.contains("model_type")) {
    const auto* kind = std::ranges::find(
        kinds, string_view(around), &decltype(kinds)::value_type::first);
    if (kind == kinds.end())
      fail(
          ErrorKind::bad_data,
          "[{}] config.json of {}: '{}' has no model_type, and that of the "
          "whole, '{}', does not tell which language model it is; add it",
          opening,
          where,
          nest,
          printable(around));
    config["model_type"] = kind->second;
  }
  for (const auto* field :
       {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"})
    if (!config.contains(field) && outer.contains(field))
      config[field] = outer[field];
  const auto type = text(config, "model_type");
  const auto* usual =
      std::ranges::find(sizes, string_view(type), &Sizes::model_type);
  if (usual == sizes.end()) return config;
  const std::array<std::pair<const char*, int>, 5> filled = {{
      {"vocab_size", usual->vocab},
      {"hidden_size", usual->d_model},
      {"intermediate_size", usual->d_mlp},
      {"num_hidden_layers", usual->layers},
      {"num_attention_heads", usual->heads},
  }};
  for (const auto& [field, size] : filled)
    if (!config.contains(field)) config[field] = size;
  return config;
}

}  // namespace

TextTower::TextTower(
    const json& config,
    const std::vector<std::string>& tensors,
    std::string where)
    : where_(std::move(where)) {
  const auto* nest = only_nest(config, where_);
  nested_ = nest != nullptr;
  config_ = nest ? unnested(config, nest, where_) : config;
  layers_ = count(config_, "num_hidden_layers");
  drafts_ = count(config_, "num_nextn_predict_layers");
  if (!nested_) return;
  check_one(tensors);
  set_tie(config, tensors);
}

std::string TextTower::name(const std::string& tensor) const {
  if (!nested_) return tensor;
  const auto inner = without_model(tensor);
  const bool in_model = inner.size() < tensor.size();
  for (const auto tower : towers)
    if (const auto rest = behind(inner, tower)) {
      // "model.language_model.layers" has the model's own prefix in front.
      const bool own =
          !in_model || behind(*rest, "model") || behind(*rest, "lm_head");
      return own ? std::string(*rest) : fmt::format("model.{}", *rest);
    }
  return tensor;
}

string_view TextTower::part(const std::string& tensor) const {
  const auto first = first_component(without_model(tensor));
  for (const auto& [component, part] : others)
    if (first == component && (nested_ || part == "draft")) return part;
  if (drafts_ == 0) return "";
  const auto own = name(tensor);
  const auto layer = behind(without_model(own), "layers");
  if (!layer) return "";
  int number = -1;
  std::from_chars(layer->data(), layer->data() + layer->size(), number);
  return number >= layers_ && number < layers_ + drafts_ ? "draft" : "";
}

// One language model under two prefixes is two.
void TextTower::check_one(const std::vector<std::string>& tensors) const {
  std::unordered_map<std::string, const std::string*> seen;
  for (const auto& tensor : tensors) {
    if (!part(tensor).empty()) continue;
    const auto [other, fresh] = seen.emplace(name(tensor), &tensor);
    if (!fresh)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds two language models: '{}' and '{}' are the same "
          "tensor of it; remove one of the two",
          opening,
          where_,
          printable(*other->second),
          printable(tensor));
  }
}

// Both configs may say whether the unembedding is tied, or neither, and then
// each program goes by a default of its own. Where they do not agree, the
// tensors say it.
void TextTower::set_tie(
    const json& outer, const std::vector<std::string>& tensors) {
  constexpr const char* field = "tie_word_embeddings";
  const auto said = [&](const json& config) -> std::optional<bool> {
    const auto found = config.find(field);
    if (found == config.end() || !found->is_boolean()) return std::nullopt;
    return found->get<bool>();
  };
  const auto inside = said(config_), around = said(outer);
  if (inside && inside == around.value_or(*inside)) return;
  if (!inside && around) {
    config_[field] = *around;
    return;
  }
  config_[field] = std::ranges::none_of(tensors, [&](const auto& tensor) {
    return name(tensor) == "lm_head.weight";
  });
}

}  // namespace mlxterp
