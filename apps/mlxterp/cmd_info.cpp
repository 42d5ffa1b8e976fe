// mlxterp info: what a model is, and what this machine makes of it.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <sstream>

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
  std::map<std::string, int> types;
  std::string precision;
};

Weights weigh(const Checkpoint& checkpoint, std::optional<mx::Dtype> dtype) {
  Weights out;
  const bool cpu = mx::default_device() == mx::Device::cpu;
  if (!dtype && cpu) dtype = mx::float32;
  for (const auto& tensor : checkpoint.tensors()) {
    const double size = product(tensor.shape);
    out.parameters += size;
    out.file_bytes += static_cast<double>(tensor.bytes);
    ++out.types[tensor.type];
    const int own = tensor.type == "F32" ? 4 : tensor.type == "F64" ? 8 : 2;
    out.memory_bytes += size * (dtype ? mx::size_of(*dtype) : own);
  }
  out.precision = dtype ? dtype_name(*dtype) : "the file's own";
  return out;
}

struct Special {
  std::string name;
  std::optional<int> id;
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

std::string device_name() {
  std::ostringstream out;
  out << mx::default_device();
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

  std::vector<Special> special;
  std::string adds;
  if (tokenizer) {
    const auto add = [&](const char* name, std::optional<int> id) {
      special.push_back(
          {name, id, id ? tokenizer->labels(std::vector{*id}).front() : ""});
    };
    add("bos", tokenizer->bos());
    add("eos", tokenizer->eos());
    adds = added_tokens(*tokenizer);
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
    out["tied"] = config.tied;
    out["parameters"] = static_cast<int64_t>(weights.parameters);
    out["file"] = {
        {"format", format},
        {"bytes", static_cast<int64_t>(weights.file_bytes)},
        {"tensor_types", weights.types}};
    out["memory"] = {
        {"dtype", weights.precision},
        {"bytes", static_cast<int64_t>(weights.memory_bytes)}};
    out["tokenizer"] = nullptr;
    if (tokenizer) {
      out["tokenizer"] = {{"size", tokenizer->vocab_size()}};
      for (const auto& token : special)
        out["tokenizer"][token.name] =
            token.id ? Json{{"id", *token.id}, {"text", token.text}} : Json();
      out["tokenizer"]["adds"] = adds;
    }
    out["device"] = device_name();
    out["blas"] = {
        {"name", found.name}, {"slow", slow}, {"gflops", number(speed)}};
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
      {"in memory",
       fmt::format(
           "{}, {}", weights.precision, bytes_text(weights.memory_bytes))});
  if (!tokenizer) table.add({"tokenizer", "none; give token ids with --ids"});
  for (const auto& token : special)
    table.add(
        {token.name,
         token.id ? fmt::format("{} ({})", token.text, *token.id) : "none"});
  if (tokenizer) table.add({"tokenizer adds", adds});
  table.add({"device", device_name()});
  table.add({"BLAS", fmt::format("{}, {:.0f} GFLOP/s", found.name, speed)});
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
