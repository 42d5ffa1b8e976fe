#include "mlxterp/report/info.h"

#include <algorithm>
#include <array>

#include "core/fail.h"
#include "mlx/device.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "mlxterp/report/trace.h"
#include "models/loadable.h"
#include "models/mixer_names.h"
#include "report/json.h"
#include "report/pass_memory.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

double product(const std::vector<int64_t>& shape) {
  double out = 1;
  for (const auto size : shape)
    out *= static_cast<double>(size);
  return out;
}

// Whether the file holds its numbers as they are, none packed into blocks.
bool plain_type(const std::string& type) {
  return type.starts_with("F") || type == "BF16" || type == "BOOL" ||
         ((type[0] == 'I' || type[0] == 'U') && type.size() <= 3);
}

WeightInfo weigh(
    const Checkpoint& checkpoint,
    const DecoderConfig& config,
    const LoadOptions& options) {
  WeightInfo out;
  const auto dtype = computed_as(options);
  const auto wide =
      static_cast<double>(mx::size_of(dtype.value_or(mx::float16)));
  out.packed = keeps_packed(checkpoint, options);
  out.memory_bytes = bytes_in_memory(checkpoint, options, out.packed);
  for (const auto& tensor : checkpoint.tensors()) {
    const double size = product(tensor.shape);
    out.parameters += size;
    out.file_bytes += static_cast<double>(tensor.bytes);
    ++out.types[tensor.type];
    if (plain_type(tensor.type)) continue;
    out.quantized += size;
    out.packed_bytes += static_cast<double>(tensor.bytes);
    if (!out.packed) continue;
    if (checkpoint.is_packed(tensor))
      out.in_flight_bytes = std::max(out.in_flight_bytes, size * wide);
    else
      ++out.unpacked[tensor.type];
  }
  constexpr int many = 128;  // a prompt that people have
  out.pass_tokens = std::min(many, config.context);
  out.pass_bytes =
      out.in_flight_bytes + pass_bytes(config, out.pass_tokens, wide);
  out.precision = dtype ? dtype_name(*dtype) : "the file's own";
  return out;
}

// What the tokenizer puts before and after a text.
std::string added_tokens(const Tokenizer& tokenizer) {
  const auto plain = tokenizer.encode("a", {.add_special = false});
  const auto with = tokenizer.encode("a");
  const auto at =
      std::search(with.begin(), with.end(), plain.begin(), plain.end());
  std::string out;
  const auto list = [&](auto first, auto last, const char* where) {
    if (first == last) return;
    const auto names = tokenizer.labels(std::vector<int>(first, last));
    out += fmt::format(
        "{}{} {}", out.empty() ? "" : ", ", fmt::join(names, " "), where);
  };
  list(with.begin(), at, "before a prompt");
  if (at != with.end())
    list(at + static_cast<long>(plain.size()), with.end(), "after a prompt");
  return out.empty() ? "nothing" : out;
}

// Whether it sets a space before a prompt, as it does between words.
bool adds_space(const Tokenizer& tokenizer) {
  const auto first = tokenizer.encode("a", {.add_special = false});
  const auto later = tokenizer.encode("b a", {.add_special = false});
  return later.size() > first.size() &&
         std::equal(first.rbegin(), first.rend(), later.rbegin());
}

TokenizerInfo tokenizer_info(const Tokenizer& tokenizer) {
  const auto named = [&](int id) {
    return NamedToken{id, tokenizer.labels(std::vector{id}).front()};
  };
  TokenizerInfo out{
      .size = tokenizer.vocab_size(),
      .adds = added_tokens(tokenizer),
      .adds_space = adds_space(tokenizer)};
  if (tokenizer.bos()) out.bos = named(*tokenizer.bos());
  if (tokenizer.eos()) out.eos = named(*tokenizer.eos());
  for (const int id : tokenizer.ends())
    out.ends.push_back(named(id));
  for (const int id : tokenizer.control_tokens())
    out.control.push_back(named(id));
  return out;
}

// Layers by their numbers: "0..4, 6".
std::string ranges(const std::vector<int>& numbers) {
  std::string out;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1)
      ++last;
    out += fmt::format("{}{}", out.empty() ? "" : ", ", numbers[i]);
    if (last > i) out += fmt::format("..{}", numbers[last]);
    i = last + 1;
  }
  return out;
}

// The layers of which `is` is true.
template <typename Is>
std::vector<int> layers(const DecoderConfig& config, const Is& is) {
  std::vector<int> out;
  for (int i = 0; i < config.n_layers; ++i)
    if (is(static_cast<size_t>(i))) out.push_back(i);
  return out;
}

std::vector<int> windows(const DecoderConfig& config) {
  auto out = config.windows;
  out.resize(static_cast<size_t>(config.n_layers));
  return out;
}

// "512 tokens in layers 0..4", and so on for each window, or stretch, there is.
std::string windows_text(const std::vector<int>& all) {
  std::map<int, std::vector<int>, std::greater<>> by_size;
  for (size_t i = 0; i < all.size(); ++i)
    by_size[all[i]].push_back(static_cast<int>(i));
  if (by_size.size() == 1) {
    const int size = by_size.begin()->first;
    return size ? fmt::format("{} tokens in every layer", size) : "none";
  }
  std::string out;
  for (const auto& [size, in] : by_size)
    out += fmt::format(
        "{}{} in layers {}",
        out.empty() ? "" : "; ",
        size ? fmt::format("{} tokens", size) : "none",
        ranges(in));
  return out;
}

std::vector<int> chunks(const DecoderConfig& config) {
  auto out = config.chunks;
  out.resize(static_cast<size_t>(config.n_layers));
  return out;
}

// "conv in layers 0..1, 3; attn in layers 2".
std::string mixers_text(const DecoderConfig& config) {
  const auto names = mixer_names(config);
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    if (std::find(
            names.begin(), names.begin() + static_cast<long>(i), names[i]) !=
        names.begin() + static_cast<long>(i))
      continue;
    const auto in =
        layers(config, [&](size_t layer) { return names[layer] == names[i]; });
    out += fmt::format(
        "{}{} in layers {}", out.empty() ? "" : "; ", names[i], ranges(in));
  }
  return out;
}

bool has_mlps(const DecoderConfig& config) {
  return config.d_mlp > 0 || config.moe ||
         std::ranges::any_of(config.d_mlps, [](int d) { return d > 0; });
}

std::vector<int> layers_without_rope(const DecoderConfig& config) {
  return layers(config, [&](size_t i) {
    return !config.no_rope.empty() && config.no_rope[i];
  });
}

// What config.json says of a scaling: its factor and the context it stretches.
struct Stretch {
  std::optional<double> factor = {}, original = {};
};

Stretch stretch_of(const Checkpoint& checkpoint) {
  const auto config = Json::parse(checkpoint.config());
  Json rope;
  for (const char* field : {"rope_scaling", "rope_parameters"})
    if (config.contains(field) && config[field].is_object())
      rope = config[field];
  if (rope.is_object() && rope.contains("full_attention"))
    rope = rope["full_attention"];
  const auto find = [&](const char* field) -> std::optional<double> {
    for (const auto* place : std::array<const Json*, 2>{&rope, &config})
      if (place->is_object() && place->contains(field) &&
          place->at(field).is_number())
        return place->at(field).get<double>();
    return std::nullopt;
  };
  return {find("factor"), find("original_max_position_embeddings")};
}

std::string rope_text(
    const nn::Rope& rope, int d_head, const Stretch& stretch = {}) {
  if (rope.dims == 0) return "none";
  auto out = fmt::format("theta {:g}", rope.theta);
  if (rope.dims < d_head)
    out += fmt::format(", {} of {} dimensions", rope.dims, d_head);
  if (rope.interleaved) out += ", interleaved";
  if (rope.kind == "default") return out;
  out += fmt::format(", {} scaling", rope.kind);
  if (stretch.factor) out += fmt::format(" by {:g}", *stretch.factor);
  if (stretch.original)
    out += fmt::format(" of {:g} tokens", *stretch.original);
  return out;
}

// Layers by what they have, in the order of the first of each kind.
template <typename T>
std::vector<std::pair<T, std::vector<int>>> by_value(
    const std::vector<T>& of_layers) {
  std::vector<std::pair<T, std::vector<int>>> out;
  for (size_t i = 0; i < of_layers.size(); ++i) {
    auto at = std::ranges::find(
        out, of_layers[i], &std::pair<T, std::vector<int>>::first);
    if (at == out.end()) at = out.insert(at, {of_layers[i], {}});
    at->second.push_back(static_cast<int>(i));
  }
  return out;
}

// "6 in layers 0-2, 12 in layer 3", or the one number.
std::string each_text(int all, const std::vector<int>& of_layers) {
  const auto kinds = by_value(of_layers);
  if (kinds.empty()) return fmt::format("{}", all);
  if (kinds.size() == 1) return fmt::format("{}", kinds[0].first);
  std::string out;
  for (const auto& [value, layers] : kinds)
    out += fmt::format(
        "{}{} in layers {}", out.empty() ? "" : ", ", value, ranges(layers));
  return out;
}

// Layers that read keys and values of another.
std::vector<int> sharing(const DecoderConfig& config) {
  std::vector<int> out;
  for (size_t i = 0; i < config.kv_layers.size(); ++i)
    if (config.kv_layers[i] != static_cast<int>(i))
      out.push_back(static_cast<int>(i));
  return out;
}

Json each_or_null(const std::vector<int>& of_layers) {
  return of_layers.empty() ? Json() : Json(of_layers);
}

std::string positions_text(
    const DecoderConfig& config, const Stretch& stretch) {
  if (config.positions > 0)
    return fmt::format("learned, {} of them", config.positions);
  if (!config.alibi.slopes.empty()) return "ALiBi";
  if (config.rope.dims == 0) return "none";
  // Those that see the whole prompt may have wider heads.
  int d_head = config.d_head;
  for (size_t i = 0; i < config.d_heads.size(); ++i)
    if (config.windows.empty() || config.windows[i] == 0)
      d_head = config.d_heads[i];
  auto out = "RoPE " + rope_text(config.rope, d_head, stretch);
  if (config.local_rope)
    out += fmt::format(
        "; in layers with a window {}",
        rope_text(*config.local_rope, config.d_head));
  if (const auto none = layers_without_rope(config); !none.empty())
    out += fmt::format("; none in layers {}", ranges(none));
  if (const auto& by = config.q_scale)
    out += fmt::format(
        "; queries {}times 1 + {:g} log(1 + floor({} / {}))",
        config.no_q_scale.empty()
            ? ""
            : fmt::format(
                  "of layers {} ",
                  ranges(layers(
                      config,
                      [&](size_t i) { return !config.no_q_scale[i]; }))),
        by->beta,
        by->first > 0 ? fmt::format("(position + {})", by->first) : "position",
        by->every);
  return out;
}

Json json_of(const nn::Rope& rope, const Stretch& stretch = {}) {
  if (rope.dims == 0) return nullptr;
  const bool scaled = rope.kind != "default";
  const auto said = [&](const std::optional<double>& value) {
    return scaled && value ? number(*value) : Json();
  };
  return {
      {"theta", number(rope.theta)},
      {"dims", rope.dims},
      {"interleaved", rope.interleaved},
      {"scaling", scaled ? Json(rope.kind) : Json()},
      {"factor", said(stretch.factor)},
      {"original_context", said(stretch.original)}};
}

// A few tokens by name and number.
std::string listed(const std::vector<NamedToken>& tokens) {
  constexpr size_t shown = 6;
  std::string out;
  for (size_t i = 0; i < std::min(shown, tokens.size()); ++i)
    out +=
        fmt::format("{}{} ({})", i ? ", " : "", tokens[i].text, tokens[i].id);
  if (tokens.size() > shown)
    out += fmt::format(", ... ({} in all)", tokens.size());
  return out.empty() ? "none" : out;
}

std::vector<int> dense_layers(const DecoderConfig& config) {
  return layers(config, [&](size_t i) {
    return !config.dense.empty() && config.dense[i];
  });
}

std::string device_name() {
  return mx::default_device() == mx::Device::gpu ? "GPU" : "CPU";
}

// 540000000 as "540.0 MB".
std::string bytes_text(double bytes) {
  constexpr const char* units[] = {"bytes", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit)
    bytes /= 1000;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

// "vision (437 tensors, 857.2 MB)", and so on.
std::string left_out_text(const std::vector<LeftOut>& parts) {
  std::string out;
  for (const auto& [part, tensors, bytes] : parts)
    out += fmt::format(
        "{}{} ({} tensor{}, {})",
        out.empty() ? "" : ", ",
        part,
        tensors,
        tensors == 1 ? "" : "s",
        bytes_text(static_cast<double>(bytes)));
  return out;
}

std::string types_text(const std::map<std::string, int>& types) {
  std::string out;
  for (const auto& [type, count] : types)
    out += fmt::format("{}{} x {}", out.empty() ? "" : ", ", count, type);
  return out;
}

std::string packed_text(const WeightInfo& weights) {
  if (!weights.packed) return "";
  if (weights.unpacked.empty()) return ", packed as in the file";
  return ", packed as in the file but for " + types_text(weights.unpacked);
}

bool on_cpu() {
  return mx::default_device() == mx::Device::cpu;
}

Json json_of(const TokenizerInfo& tokenizer) {
  const auto token = [](const std::optional<NamedToken>& it) {
    return it ? report::json_of(*it) : Json();
  };
  return {
      {"size", tokenizer.size},
      {"bos", token(tokenizer.bos)},
      {"eos", token(tokenizer.eos)},
      {"ends", report::json_of(tokenizer.ends)},
      {"control", report::json_of(tokenizer.control)},
      {"adds", tokenizer.adds},
      {"adds_space", tokenizer.adds_space}};
}

Stretch stretch_of(const ModelInfo& info) {
  return {info.rope_factor, info.rope_original_context};
}

// What is said of the architecture.
void put_config(Json& out, const ModelInfo& info) {
  const auto& config = info.config;
  out["family"] = config.model_type;
  out["layers"] = config.n_layers;
  out["d_model"] = config.d_model;
  out["heads"] = config.n_heads;
  out["kv_heads"] = config.n_kv_heads;
  out["d_head"] = config.d_head;
  out["d_mlp"] = config.d_mlp;
  out["kv_heads_by_layer"] = each_or_null(config.kv_heads);
  out["d_head_by_layer"] = each_or_null(config.d_heads);
  out["d_mlp_by_layer"] = each_or_null(config.d_mlps);
  out["kv_layers"] = each_or_null(config.kv_layers);
  out["per_layer_embedding"] = nullptr;
  if (config.d_per_layer > 0)
    out["per_layer_embedding"] = {
        {"width", config.d_per_layer}, {"vocab", config.per_layer_vocab}};
  out["layer_scalar"] = config.layer_scalar;
  out["float32_stream"] = config.float32_stream;
  out["vocab"] = config.vocab;
  out["context"] =
      config.context < int{limits::dim} ? Json(config.context) : Json();
  out["windows"] = windows(config);
  out["chunks"] = chunks(config);
  out["rope"] = json_of(config.rope, stretch_of(info));
  out["local_rope"] = config.local_rope ? json_of(*config.local_rope) : Json();
  out["layers_without_rope"] = layers_without_rope(config);
  out["q_scale"] = nullptr;
  if (const auto& by = config.q_scale)
    out["q_scale"] = {
        {"beta", number(by->beta)},
        {"every", by->every},
        {"first", by->first},
        {"layers", layers(config, [&](size_t i) {
           return config.no_q_scale.empty() || !config.no_q_scale[i];
         })}};
  out["learned_positions"] = config.positions;
  out["alibi"] = !config.alibi.slopes.empty();
  out["attention_sinks"] = config.attention_sinks;
  out["attention_gate"] = config.attention_gate;
  out["latents"] = nullptr;
  if (const auto& latent = config.latent)
    out["latents"] = {
        {"queries", latent->q_rank},
        {"keys_and_values", latent->kv_rank},
        {"d_rope", latent->d_rope},
        {"d_value", latent->d_value}};
  out["mixers"] = mixer_names(config);
  out["experts"] = nullptr;
  if (config.moe)
    out["experts"] = {
        {"count", config.moe->n_experts},
        {"top_k", config.moe->top_k},
        {"d_mlp", config.moe->d_mlp},
        {"beside_mlp", config.moe_beside},
        {"weights_multiply", config.moe->weigh_input ? "inputs" : "outputs"},
        {"dense_layers", dense_layers(config)}};
  out["tied"] = config.tied;
}

using Rows = std::vector<std::pair<std::string, std::string>>;

void add_config(Rows& out, const ModelInfo& info) {
  const auto& config = info.config;
  out.emplace_back(
      "size",
      fmt::format(
          "{:.1f} M parameters, {} layers, d_model {}, {}{}",
          info.weights.parameters / 1e6,
          config.n_layers,
          config.d_model,
          has_mlps(config) ? "d_mlp " + each_text(config.d_mlp, config.d_mlps)
                           : "no MLPs",
          config.float32_stream ? ", residual stream in float32" : ""));
  out.emplace_back(
      "attention",
      config.n_heads == 0 ? "none"
                          : fmt::format(
                                "{} heads, {} kv heads, d_head {}{}{}",
                                config.n_heads,
                                each_text(config.n_kv_heads, config.kv_heads),
                                each_text(config.d_head, config.d_heads),
                                config.attention_sinks ? ", a sink each" : "",
                                config.attention_gate ? ", gated" : ""));
  if (const auto& latent = config.latent)
    out.emplace_back(
        "latents",
        fmt::format(
            "{}{} of keys and values; {} of d_head rotated, d_value {}",
            latent->q_rank > 0 ? fmt::format("{} of queries, ", latent->q_rank)
                               : "",
            latent->kv_rank,
            latent->d_rope,
            latent->d_value));
  if (config.mixer) out.emplace_back("mixers", mixers_text(config));
  if (const auto layers = sharing(config); !layers.empty())
    out.emplace_back(
        "shared keys",
        fmt::format(
            "layers {} read keys and values of earlier ones", ranges(layers)));
  if (config.d_per_layer > 0)
    out.emplace_back(
        "embeddings",
        fmt::format(
            "each layer has its own, {} wide, of {} tokens",
            config.d_per_layer,
            config.per_layer_vocab));
  out.emplace_back("windows", windows_text(windows(config)));
  if (std::ranges::any_of(config.chunks, [](int chunk) { return chunk > 0; }))
    out.emplace_back("chunks", windows_text(chunks(config)));
  out.emplace_back("positions", positions_text(config, stretch_of(info)));
  if (config.moe) {
    const auto dense = dense_layers(config);
    out.emplace_back(
        "experts",
        fmt::format(
            "{} of {} a token, d_mlp {}{}{}{}",
            config.moe->top_k,
            config.moe->n_experts,
            config.moe->d_mlp,
            config.moe->weigh_input ? ", inputs weighed" : "",
            config.moe_beside ? ", beside an MLP" : "",
            dense.empty() ? "" : "; one MLP in layers " + ranges(dense)));
  }
  out.emplace_back(
      "vocabulary",
      fmt::format(
          "{} tokens, unembedding {}",
          config.vocab,
          config.tied ? "tied to the embedding" : "separate"));
  out.emplace_back(
      "context",
      config.context < int{limits::dim}
          ? fmt::format("{} tokens", config.context)
          : "not bounded");
}

void add_tokenizer(Rows& out, const std::optional<TokenizerInfo>& tokenizer) {
  if (!tokenizer) {
    out.emplace_back("tokenizer", "none; give token ids with --ids");
    return;
  }
  const auto& bos = tokenizer->bos;
  out.emplace_back("bos", bos ? listed({*bos}) : "none");
  out.emplace_back("eos", listed(tokenizer->ends));
  out.emplace_back("control tokens", listed(tokenizer->control));
  out.emplace_back(
      "tokenizer adds",
      tokenizer->adds +
          (tokenizer->adds_space ? ", a space before the first word" : ""));
}

}  // namespace

ModelInfo model_info(
    const Checkpoint& checkpoint,
    std::string model_name,
    const LoadOptions& options) {
  check_tensors(checkpoint, options.families);
  const auto stretch = stretch_of(checkpoint);
  ModelInfo out{
      .model = std::move(model_name),
      .path = checkpoint.path().string(),
      .config = config_of(checkpoint, options.families),
      .rope_factor = stretch.factor,
      .rope_original_context = stretch.original,
      .format = checkpoint.gguf() ? "GGUF" : "safetensors",
      .left_out = checkpoint.left_out()};
  out.weights = weigh(checkpoint, out.config, options);
  const auto [tokenizer, reason] = Tokenizer::find(checkpoint);
  out.no_tokenizer = reason;
  if (tokenizer) out.tokenizer = tokenizer_info(*tokenizer);
  return out;
}

std::string to_json(const ModelInfo& info) {
  const auto& weights = info.weights;
  const auto speed = info.matmul_gflops ? number(*info.matmul_gflops) : Json();
  const auto found = blas();
  const auto wrong = on_cpu() ? wrong_product(found) : "";
  Json out;
  out["model"] = info.model;
  out["path"] = info.path;
  put_config(out, info);
  out["parameters"] = static_cast<int64_t>(weights.parameters);
  out["file"] = {
      {"format", info.format},
      {"bytes", static_cast<int64_t>(weights.file_bytes)},
      {"tensor_types", weights.types},
      {"quantized", number(weights.quantized / weights.parameters)},
      {"packed_bytes", static_cast<int64_t>(weights.packed_bytes)},
      {"bits_per_weight", number(8 * weights.file_bytes / weights.parameters)}};
  out["left_out"] = Json::array();
  for (const auto& [part, tensors, bytes] : info.left_out)
    out["left_out"].push_back(
        {{"part", part}, {"tensors", tensors}, {"bytes", bytes}});
  out["memory"] = {
      {"dtype", weights.precision},
      {"bytes", static_cast<int64_t>(weights.memory_bytes)},
      {"packed", weights.packed},
      {"unpacked_types", weights.unpacked},
      {"pass_tokens", weights.pass_tokens},
      {"pass_bytes", static_cast<int64_t>(weights.pass_bytes)}};
  out["tokenizer"] = info.tokenizer ? json_of(*info.tokenizer) : Json();
  out["device"] = device_name();
  out["matmul_gflops"] = speed;
  out["blas"] = {
      {"name", found.name},
      {"slow", on_cpu() && found.slow},
      {"threads", on_cpu() && blas_threads() ? Json(blas_threads()) : Json()},
      {"wrong", wrong.empty() ? Json() : Json(wrong)},
      {"gflops", on_cpu() ? speed : Json()}};
  return text_of(out);
}

Rows rows(const ModelInfo& info) {
  const auto& weights = info.weights;
  Rows out;
  out.emplace_back(
      "model", fmt::format("{} ({})", info.model, info.config.model_type));
  if (info.model != info.path) out.emplace_back("path", info.path);
  add_config(out, info);
  out.emplace_back(
      "file",
      fmt::format(
          "{}, {} ({}), {:.1f} bits a weight",
          info.format,
          bytes_text(weights.file_bytes),
          types_text(weights.types),
          8 * weights.file_bytes / weights.parameters));
  if (!info.left_out.empty())
    out.emplace_back("left out", left_out_text(info.left_out));
  out.emplace_back(
      "quantised",
      weights.quantized > 0 ? fmt::format(
                                  "{:.1f}% of the parameters, {}",
                                  100 * weights.quantized / weights.parameters,
                                  bytes_text(weights.packed_bytes))
                            : "no");
  out.emplace_back(
      "in memory",
      fmt::format(
          "{}, {}{}; a pass over {} tokens takes {} more",
          weights.precision,
          bytes_text(weights.memory_bytes),
          packed_text(weights),
          weights.pass_tokens,
          bytes_text(weights.pass_bytes)));
  add_tokenizer(out, info.tokenizer);
  out.emplace_back("device", device_name());
  // What BLAS there is answers for the CPU only.
  if (on_cpu()) {
    const auto found = blas();
    const bool right = wrong_product(found).empty();
    const auto threads = blas_threads();
    out.emplace_back(
        "BLAS",
        threads ? fmt::format(
                      "{}, {} thread{}",
                      found.name,
                      threads,
                      threads == 1 ? "" : "s")
                : found.name);
    out.emplace_back(
        "BLAS check",
        right ? "small products are those of a plain loop"
              : "WRONG: small products are not those of a plain loop");
  }
  if (info.matmul_gflops)
    out.emplace_back(
        "float32 matmul", fmt::format("{:.0f} GFLOP/s", *info.matmul_gflops));
  return out;
}

}  // namespace mlxterp::report
