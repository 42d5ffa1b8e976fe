#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "analysis/steering_checks.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/gguf.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* caller = "SteeringVector";
constexpr std::string_view prefix = "direction.";
constexpr const char* architecture = "controlvector";
// Ours, which others do not read.
constexpr const char* operation_key = "mlxterp.operation";
constexpr const char* method_key = "mlxterp.method";
constexpr const char* model_key = "mlxterp.model";
constexpr const char* layers_key = "mlxterp.model_layers";
constexpr const char* tokenizer_key = "mlxterp.tokenizer";
constexpr const char* pairs_key = "mlxterp.pairs";
constexpr const char* norms_key = "mlxterp.residual_norms";

// GGUF version 3, little-endian.
class Writer {
 public:
  template <typename T>
  void number(T value) {
    static_assert(std::endian::native == std::endian::little);
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out_.append(bytes, sizeof value);
  }
  void text(std::string_view value) {
    number<uint64_t>(value.size());
    out_ += value;
  }
  void entry(const char* key, std::string_view value) {
    text(key);
    number<uint32_t>(8);  // string
    text(value);
  }
  void entry(const char* key, uint32_t value) {
    text(key);
    number<uint32_t>(4);  // uint32
    number(value);
  }
  void entry(const char* key, const std::vector<float>& values) {
    text(key);
    number<uint32_t>(9);  // array
    number<uint32_t>(6);  // of float32
    number<uint64_t>(values.size());
    for (const float value : values)
      number(value);
  }
  void align() { out_.resize((out_.size() + 31) / 32 * 32, '\0'); }
  void bytes(const mx::array& array) {
    out_.append(
        reinterpret_cast<const char*>(array.data<float>()), array.nbytes());
    align();
  }
  void add(const Writer& other) { out_ += other.out_; }
  const std::string& out() const { return out_; }

 private:
  std::string out_;
};

[[noreturn]] void broken(
    const std::filesystem::path& path, const std::string& why) {
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}; is it a control vector?",
      caller,
      quoted(path),
      why);
}

}  // namespace

void SteeringVector::save_gguf(
    const std::filesystem::path& path, const Warn& warn, bool overwrite) const {
  check();
  std::vector<Layer> kept;
  for (const auto& it : layers) {
    if (it.layer > 0) {
      kept.push_back(it);
    } else if (warn) {
      warn(
          "layer 0 is left out of the GGUF file: llama.cpp steers layers from "
          "1 on");
    }
  }
  if (kept.empty())
    fail(
        ErrorKind::usage,
        "[{}] there is no layer but 0, which llama.cpp cannot steer; nothing "
        "is left to write to {}",
        caller,
        quoted(path));
  if (model_type.empty())
    fail(
        ErrorKind::usage,
        "[{}] the type of model is not known, which readers of {} ask for; set "
        "model_type, as in 'llama'",
        caller,
        quoted(path));
  std::vector<float> norms;
  for (const auto& it : kept)
    norms.push_back(it.residual_norm);
  Writer entries;
  uint64_t count = 0;
  const auto entry = [&](const char* key, const auto& value) {
    entries.entry(key, value);
    ++count;
  };
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) entry(key, value);
  };
  const auto number = [&](const char* key, size_t value) {
    if (value > 0) entry(key, static_cast<uint32_t>(value));
  };
  text("general.architecture", architecture);
  text("controlvector.model_hint", model_type);
  number("controlvector.layer_count", kept.size());
  text(operation_key, name(operation));
  text(method_key, method);
  text(model_key, model);
  number(layers_key, static_cast<size_t>(model_layers));
  text(tokenizer_key, tokenizer);
  number(pairs_key, pairs);
  if (std::ranges::any_of(norms, [](float norm) { return norm > 0; }))
    entry(norms_key, norms);
  Writer to;
  for (const char c : {'G', 'G', 'U', 'F'})
    to.number(c);
  to.number<uint32_t>(3);
  to.number<uint64_t>(kept.size());
  to.number(count);
  to.add(entries);
  uint64_t offset = 0;
  for (const auto& it : kept) {
    to.text(fmt::format("{}{}", prefix, it.layer));
    to.number<uint32_t>(1);  // axes
    to.number(static_cast<uint64_t>(d_model()));
    to.number<uint32_t>(0);  // float32
    to.number(offset);
    offset += (static_cast<uint64_t>(d_model()) * 4 + 31) / 32 * 32;
  }
  to.align();
  for (const auto& it : kept) {
    auto direction = mx::contiguous(mx::astype(it.direction, mx::float32));
    direction.eval();
    to.bytes(direction);
  }
  write_file_atomically(path, to.out(), overwrite);
}

SteeringVector SteeringVector::load_gguf(
    const std::filesystem::path& path, GgufLayers numbers) {
  const auto file = Gguf::open(path);
  const auto& all = file.metadata();
  const auto text = [&](const char* key) {
    const auto found = all.find(key);
    if (found == all.end()) return std::string();
    const auto* value = std::get_if<std::string>(&found->second);
    if (!value) broken(path, fmt::format("has a {} that is no text", key));
    return *value;
  };
  const auto number = [&](const char* key, int64_t most) -> int64_t {
    const auto found = all.find(key);
    if (found == all.end()) return 0;
    const auto* value = std::get_if<int64_t>(&found->second);
    if (!value || *value < 0 || *value > most)
      broken(
          path,
          fmt::format("has a {} that is no number from 0 to {}", key, most));
    return *value;
  };
  if (const auto own = text("general.architecture"); own != architecture)
    broken(
        path,
        fmt::format(
            "has the architecture '{}', not {}", printable(own), architecture));
  SteeringVector out;
  out.model_type = text("controlvector.model_hint");
  if (out.model_type.empty())
    broken(path, "does not say which type of model it is for (model_hint)");
  // Counts directions, in one tool's files as signed, in another's not.
  static_cast<void>(number("controlvector.layer_count", limits::layers));
  out.method = text(method_key);
  out.model = text(model_key);
  out.tokenizer = text(tokenizer_key);
  out.model_layers = static_cast<int>(number(layers_key, limits::layers));
  out.pairs = static_cast<size_t>(number(pairs_key, limits::prompts));
  if (const auto own = text(operation_key); !own.empty()) {
    const auto operation = operation_of(own);
    if (!operation)
      broken(
          path,
          fmt::format(
              "is meant for the operation '{}', not add, project_out, clamp or "
              "ablate",
              printable(own)));
    out.operation = *operation;
  }
  std::vector<double> norms;
  if (const auto found = all.find(norms_key); found != all.end()) {
    const auto* values = std::get_if<std::vector<double>>(&found->second);
    if (!values || values->size() != file.tensors().size())
      broken(path, fmt::format("has {} that do not fit its layers", norms_key));
    norms = *values;
  }
  const int shift = numbers == GgufLayers::cvector_generator ? 1 : 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const auto& tensor = file.tensors()[i];
    const auto layer = layer_of(tensor.name, prefix);
    if (!layer)
      broken(
          path,
          fmt::format(
              "has a tensor '{}', not direction.N", printable(tensor.name)));
    if (*layer == 0)
      broken(path, "has a direction.0, which control vectors cannot have");
    const auto direction = file.read(tensor, mx::float32);
    if (direction.dtype() != mx::float32)
      broken(path, fmt::format("has a '{}' that is not float32", tensor.name));
    const auto fault = direction_fault(direction, out.d_model());
    if (fault == "is zero") continue;  // as one that is not there
    if (!fault.empty())
      broken(path, fmt::format("has a '{}' that {}", tensor.name, fault));
    Layer it{*layer - shift, direction};
    if (!norms.empty() && norms[i] > 0) {
      it.residual_norm = static_cast<float>(norms[i]);
      if (!std::isfinite(it.residual_norm))
        broken(path, fmt::format("has {} that are not finite", norms_key));
    }
    out.layers.push_back(std::move(it));
  }
  if (out.layers.empty()) broken(path, "has no directions but zeros");
  std::ranges::sort(out.layers, {}, &Layer::layer);
  return out;
}

}  // namespace mlxterp
