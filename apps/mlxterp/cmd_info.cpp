// mlxterp info: what a model is, and what this machine makes of it.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>

#include "common.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"
#include "mlxterp/text/tokenizer.h"
#include "mlxterp/view/terminal.h"
#include "verbs.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

// GFLOP/s of a product such as a small model's MLP makes, best of several.
double matmul_speed() {
  constexpr int m = 512, k = 576, n = 1536;
  const auto a = mx::random::normal({m, k}), b = mx::random::normal({k, n});
  mx::eval(a, b);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(150);
  double best = 0;
  do {
    const auto start = Clock::now();
    mx::matmul(a, b).eval();
    mx::synchronize();
    const std::chrono::duration<double> took = Clock::now() - start;
    best = std::max(best, 2.0 * m * k * n / took.count() / 1e9);
  } while (Clock::now() < end);
  return best;
}

double product(const std::vector<int64_t>& shape) {
  double out = 1;
  for (const auto size : shape)
    out *= static_cast<double>(size);
  return out;
}

struct Weights {
  double parameters = 0, file_bytes = 0, memory_bytes = 0;
  double quantized = 0;  // of the parameters
  std::map<std::string, int> types;
  std::string precision;
};

// Whether the file holds its numbers as they are, none packed into blocks.
bool plain_type(const std::string& type) {
  return type.starts_with("F") || type == "BF16" || type == "BOOL" ||
         ((type[0] == 'I' || type[0] == 'U') && type.size() <= 3);
}

Weights weigh(const Checkpoint& checkpoint, std::optional<mx::Dtype> dtype) {
  Weights out;
  const bool cpu = mx::default_device() == mx::Device::cpu;
  if (!dtype && cpu) dtype = mx::float32;
  for (const auto& tensor : checkpoint.tensors()) {
    const double size = product(tensor.shape);
    out.parameters += size;
    out.file_bytes += static_cast<double>(tensor.bytes);
    ++out.types[tensor.type];
    if (!plain_type(tensor.type)) out.quantized += size;
    const int own = tensor.type == "F32" ? 4 : tensor.type == "F64" ? 8 : 2;
    out.memory_bytes += size * (dtype ? mx::size_of(*dtype) : own);
  }
  out.precision = dtype ? dtype_name(*dtype) : "the file's own";
  return out;
}

struct Special {
  int id;
  std::string text;
};

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

// "512 tokens in layers 0..4", and so on for each window there is.
std::string windows_text(const DecoderConfig& config) {
  const auto all = windows(config);
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

std::vector<int> layers_without_rope(const DecoderConfig& config) {
  return layers(config, [&](size_t i) {
    return !config.no_rope.empty() && config.no_rope[i];
  });
}

// What config.json says of a scaling: its factor and the context it stretches.
struct Stretch {
  std::optional<double> factor, original;
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

std::string positions_text(
    const DecoderConfig& config, const Stretch& stretch) {
  if (config.positions > 0)
    return fmt::format("learned, {} of them", config.positions);
  auto out = "RoPE " + rope_text(config.rope, config.d_head, stretch);
  if (config.local_rope)
    out += fmt::format(
        "; in layers with a window {}",
        rope_text(*config.local_rope, config.d_head));
  if (const auto none = layers_without_rope(config); !none.empty())
    out += fmt::format("; none in layers {}", ranges(none));
  return out;
}

Json to_json(const nn::Rope& rope, const Stretch& stretch = {}) {
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
std::string listed(const std::vector<Special>& tokens) {
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

void run(const ModelArguments& arguments) {
  const auto checkpoint = Checkpoint::open(arguments.path());
  const auto config =
      family_of(checkpoint.config()).configure(checkpoint.config());
  for (const auto& sentence : checkpoint.warnings())
    warn(sentence);
  const auto weights = weigh(checkpoint, arguments.precision());
  const auto tokenizer = Tokenizer::load(checkpoint);
  const auto found = blas();
  const double speed = matmul_speed();
  const bool cpu = mx::default_device() == mx::Device::cpu;
  const bool slow = cpu && found.slow;

  const auto stretch = stretch_of(checkpoint);

  std::vector<Special> bos, ends, control;
  std::string adds;
  bool space = false;
  if (tokenizer) {
    const auto add = [&](auto& list, int id) {
      list.push_back({id, tokenizer->labels(std::vector{id}).front()});
    };
    if (tokenizer->bos()) add(bos, *tokenizer->bos());
    for (const int id : tokenizer->ends())
      add(ends, id);
    for (const int id : tokenizer->control_tokens())
      add(control, id);
    adds = added_tokens(*tokenizer);
    space = adds_space(*tokenizer);
  }
  std::string types;
  for (const auto& [type, count] : weights.types)
    types += fmt::format("{}{} x {}", types.empty() ? "" : ", ", count, type);
  const char* format = checkpoint.gguf() ? "GGUF" : "safetensors";

  if (arguments.json) {
    Json out;
    out["model"] = arguments.model;
    out["path"] = checkpoint.path().string();
    out["family"] = config.model_type;
    out["layers"] = config.n_layers;
    out["d_model"] = config.d_model;
    out["heads"] = config.n_heads;
    out["kv_heads"] = config.n_kv_heads;
    out["d_head"] = config.d_head;
    out["d_mlp"] = config.d_mlp;
    out["vocab"] = config.vocab;
    out["context"] = config.context;
    out["windows"] = windows(config);
    out["rope"] = to_json(config.rope, stretch);
    out["local_rope"] =
        config.local_rope ? to_json(*config.local_rope) : Json();
    out["layers_without_rope"] = layers_without_rope(config);
    out["learned_positions"] = config.positions;
    out["experts"] = nullptr;
    if (config.moe)
      out["experts"] = {
          {"count", config.moe->n_experts},
          {"top_k", config.moe->top_k},
          {"d_mlp", config.moe->d_mlp},
          {"dense_layers", dense_layers(config)}};
    out["tied"] = config.tied;
    out["parameters"] = static_cast<int64_t>(weights.parameters);
    out["file"] = {
        {"format", format},
        {"bytes", static_cast<int64_t>(weights.file_bytes)},
        {"tensor_types", weights.types},
        {"quantized", number(weights.quantized / weights.parameters)}};
    out["memory"] = {
        {"dtype", weights.precision},
        {"bytes", static_cast<int64_t>(weights.memory_bytes)}};
    out["tokenizer"] = nullptr;
    if (tokenizer) {
      const auto tokens = [](const std::vector<Special>& list) {
        Json all = Json::array();
        for (const auto& token : list)
          all.push_back({{"id", token.id}, {"text", token.text}});
        return all;
      };
      const bool eos = tokenizer->eos().has_value();
      out["tokenizer"] = {{"size", tokenizer->vocab_size()}};
      out["tokenizer"]["bos"] = bos.empty() ? Json() : tokens(bos)[0];
      out["tokenizer"]["eos"] = eos ? tokens(ends)[0] : Json();
      out["tokenizer"]["ends"] = tokens(ends);
      out["tokenizer"]["control"] = tokens(control);
      out["tokenizer"]["adds"] = adds;
      out["tokenizer"]["adds_space"] = space;
    }
    out["device"] = device_name();
    out["matmul_gflops"] = number(speed);
    out["blas"] = {
        {"name", found.name},
        {"slow", slow},
        {"gflops", cpu ? number(speed) : Json()}};
    print_json(out);
    return;
  }
  view::Table table({{""}, {""}});
  table.add(
      {"model", fmt::format("{} ({})", arguments.model, config.model_type)});
  if (arguments.model != checkpoint.path())
    table.add({"path", checkpoint.path().string()});
  table.add(
      {"size",
       fmt::format(
           "{:.1f} M parameters, {} layers, d_model {}, d_mlp {}",
           weights.parameters / 1e6,
           config.n_layers,
           config.d_model,
           config.d_mlp)});
  table.add(
      {"attention",
       fmt::format(
           "{} heads, {} kv heads, d_head {}",
           config.n_heads,
           config.n_kv_heads,
           config.d_head)});
  table.add({"windows", windows_text(config)});
  table.add({"positions", positions_text(config, stretch)});
  if (config.moe) {
    const auto dense = dense_layers(config);
    table.add(
        {"experts",
         fmt::format(
             "{} of {} a token, d_mlp {}{}",
             config.moe->top_k,
             config.moe->n_experts,
             config.moe->d_mlp,
             dense.empty() ? "" : "; one MLP in layers " + ranges(dense))});
  }
  table.add(
      {"vocabulary",
       fmt::format(
           "{} tokens, unembedding {}",
           config.vocab,
           config.tied ? "tied to the embedding" : "of its own")});
  table.add({"context", fmt::format("{} tokens", config.context)});
  table.add(
      {"file",
       fmt::format(
           "{}, {} ({})", format, bytes_text(weights.file_bytes), types)});
  table.add(
      {"quantised",
       weights.quantized > 0 ? fmt::format(
                                   "{:.1f}% of the parameters",
                                   100 * weights.quantized / weights.parameters)
                             : "no"});
  table.add(
      {"in memory",
       fmt::format(
           "{}, {}", weights.precision, bytes_text(weights.memory_bytes))});
  if (!tokenizer) table.add({"tokenizer", "none; give token ids with --ids"});
  if (tokenizer) {
    table.add({"bos", listed(bos)});
    table.add({"eos", listed(ends)});
    table.add({"control tokens", listed(control)});
    table.add(
        {"tokenizer adds",
         adds + (space ? ", a space before the first word" : "")});
  }
  table.add({"device", device_name()});
  // What BLAS there is answers for the CPU only.
  if (cpu) table.add({"BLAS", found.name});
  table.add({"float32 matmul", fmt::format("{:.0f} GFLOP/s", speed)});
  print(table.text(view::terminal(STDOUT_FILENO)));
  if (slow)
    warn(
        "this BLAS is many times slower than OpenBLAS; install "
        "libopenblas-dev and build again");
}

}  // namespace

Run add_info(CLI::App& app) {
  const auto arguments = std::make_shared<ModelArguments>();
  app.description("What a model is, and what this machine makes of it");
  arguments->add_to(app);
  app.footer("Example:\n  mlxterp info demo");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
