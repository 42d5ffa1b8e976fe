#include "mlxterp/sae/set.h"

#include <algorithm>
#include <optional>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/limits.h"
#include "sae/hooks.h"
#include "sae/place.h"
#include "sae/set_config.h"
#include "sae/weight_file.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view caller = "load_sae";

// circuit-tracer's own defaults of a cross-layer transcoder.
constexpr const char* default_in = "hook_resid_mid";
constexpr const char* default_out = "hook_mlp_out";

// How many layers "W_enc_" or "layer_" names in a row, from 0.
int counted(
    const std::set<std::string>& names,
    std::string_view prefix,
    const std::string& where) {
  int n = 0, all = 0;
  while (names.contains(fmt::format("{}{}.safetensors", prefix, n)))
    ++n;
  for (const auto& name : names)
    all += name.starts_with(prefix) && name.ends_with(".safetensors");
  if (n != all || n > limits::layers)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has {} files {}N.safetensors and none of N = {}; is the "
        "download incomplete?",
        caller,
        where,
        all,
        prefix,
        n);
  return n;
}

}  // namespace

struct SaeSet::Files {
  FoundSae found;
  SaeLoadOptions options;
  SetConfig config;
  fs::path folder;
  bool cross = false;
  int layers = 0;

  Sae cross_layer(int layer) const;
  Sae transcoder(int layer) const;
};

bool is_set(const FoundSae& found) {
  std::error_code error;
  if (!fs::is_directory(found.path, error)) return false;
  if (names_a_set(found.names)) return true;
  if (!found.names.contains("config.yaml")) return false;
  return !read_set_config(found.path).value_or(SetConfig{}).layers.empty();
}

bool SaeSet::is_set(const std::string& name, const SaeLoadOptions& options) {
  return mlxterp::is_set(find_place(name, options));
}

SaeSet SaeSet::open(const std::string& name, const SaeLoadOptions& options) {
  auto files = std::make_shared<Files>();
  files->found = find_place(name, options);
  files->options = options;
  const auto& found = files->found;
  if (!mlxterp::is_set(found))
    fail(
        ErrorKind::bad_data,
        "[{}] {} is no set of transcoders: it has neither "
        "W_enc_0.safetensors nor layer_0.safetensors, nor a config.yaml that "
        "names files; read it as one SAE?",
        caller,
        quoted(found.path));
  files->folder = found.path;
  files->config = read_set_config(found.path).value_or(SetConfig{});
  auto& config = files->config;
  const auto where = quoted(found.path);
  files->cross = found.names.contains("W_enc_0.safetensors");
  if (config.cross_layer && !files->cross)
    fail(
        ErrorKind::bad_data,
        "[{}] {} says that it is a cross-layer transcoder and has no "
        "W_enc_0.safetensors; is the download incomplete?",
        caller,
        where);
  if (files->cross) {
    files->layers = counted(found.names, "W_enc_", where);
    if (config.hook_in.empty()) config.hook_in = default_in;
    if (config.hook_out.empty()) config.hook_out = default_out;
  } else if (config.layers.empty()) {
    files->layers = counted(found.names, "layer_", where);
    for (int i = 0; i < files->layers; ++i)
      config.layers.push_back(fmt::format("layer_{}.safetensors", i));
  } else {
    files->layers = static_cast<int>(config.layers.size());
  }
  SaeSet out;
  out.files_ = std::move(files);
  return out;
}

SaeKind SaeSet::kind() const {
  return files_->cross ? SaeKind::cross_layer : SaeKind::transcoder;
}
int SaeSet::layers() const {
  return files_->layers;
}
const fs::path& SaeSet::path() const {
  return files_->folder;
}
const std::string& SaeSet::model() const {
  return files_->config.model;
}
const std::string& SaeSet::hook_in() const {
  return files_->config.hook_in;
}
const std::string& SaeSet::hook_out() const {
  return files_->config.hook_out;
}
const std::string& SaeSet::scan() const {
  return files_->config.scan;
}

Sae SaeSet::Files::cross_layer(int layer) const {
  const auto named = [&](const char* what) {
    return fmt::format("{}_{}", what, layer);
  };
  const auto encoder = WeightFile::open(
      file_of(found, named("W_enc") + ".safetensors", options));
  const auto decoder = WeightFile::open(
      file_of(found, named("W_dec") + ".safetensors", options));
  Sae sae{
      .W_enc = mx::transpose(encoder.read(named("W_enc"))),
      .b_enc = encoder.read(named("b_enc")),
      .W_dec = decoder.read(named("W_dec")),
      .b_dec = encoder.read(named("b_dec"))};
  sae.kind = SaeKind::cross_layer;
  sae.first_target = layer;
  if (encoder.has(named("threshold"))) {
    sae.activation = SaeActivation::jump_relu;
    sae.threshold = mx::reshape(encoder.read(named("threshold")), {-1});
  }
  // Used as x W_skip, other than in per-layer transcoders.
  if (encoder.has(named("W_skip"))) sae.W_skip = encoder.read(named("W_skip"));
  auto& source = sae.source;
  source.format = "circuit_tracer";
  source.architecture = "cross_layer_transcoder";
  source.file = encoder.path().string();
  source.model = config.model;
  source.hook_in = SetConfig::hook(config.hook_in, layer);
  source.hook_out = SetConfig::hook(config.hook_out, layer);
  source.site_in = site_of_hook(source.hook_in);
  source.site_out = site_of_hook(source.hook_out);
  source.layer = layer;
  check(sae);
  if (sae.targets() != layers - layer)
    fail(
        ErrorKind::bad_data,
        "[{}] {} writes {} layers, and from layer {} on there are {}; is it of "
        "another transcoder?",
        caller,
        quoted(decoder.path()),
        sae.targets(),
        layer,
        layers - layer);
  return sae;
}

Sae SaeSet::Files::transcoder(int layer) const {
  const auto& entry = config.layers[static_cast<size_t>(layer)];
  const auto path = entry.starts_with("hf://") ? file_of_uri(entry, options)
                                               : file_of(found, entry, options);
  auto how = options;
  if (!how.k && config.activation == "topk") how.k = config.k;
  auto sae = load_sae_at(path, how);
  // What the set says of it stands above what its own file's name says.
  auto& source = sae.source;
  if (!config.model.empty()) source.model = config.model;
  if (!config.hook_in.empty()) {
    source.hook_in = SetConfig::hook(config.hook_in, layer);
    source.site_in = site_of_hook(source.hook_in);
  }
  if (!config.hook_out.empty()) {
    source.hook_out = SetConfig::hook(config.hook_out, layer);
    source.site_out = site_of_hook(source.hook_out);
  }
  source.layer = layer;
  sae.kind = SaeKind::transcoder;
  return sae;
}

Sae SaeSet::layer(int layer) const {
  if (layer < 0 || layer >= files_->layers)
    fail(
        ErrorKind::out_of_range,
        "[{}] layer {} of {}, which has the layers 0 to {}; name one of them",
        caller,
        layer,
        quoted(files_->folder),
        files_->layers - 1);
  return files_->cross ? files_->cross_layer(layer) : files_->transcoder(layer);
}

std::vector<mx::array> SaeSet::reconstruct(
    const std::vector<mx::array>& x) const {
  if (x.size() != static_cast<size_t>(files_->layers))
    fail(
        ErrorKind::usage,
        "[{}] inputs of {} layers for {} transcoders; give one of each",
        caller,
        x.size(),
        files_->layers);
  std::vector<std::optional<mx::array>> sums(x.size());
  for (size_t from = 0; from < x.size(); ++from) {
    const auto sae = layer(static_cast<int>(from));
    const auto written = decode(sae, encode(sae, x[from]), x[from]);
    for (size_t i = 0; i < static_cast<size_t>(sae.targets()); ++i) {
      const auto part = sae.kind == SaeKind::cross_layer
                            ? mx::take(written, static_cast<int>(i), -2)
                            : written;
      auto& sum = sums[from + i];
      sum = sum ? mx::add(*sum, part) : part;
    }
    for (auto& sum : sums)
      if (sum) sum->eval();  // and the weights can go
  }
  std::vector<mx::array> out;
  for (auto& sum : sums)
    out.push_back(std::move(*sum));
  return out;
}

}  // namespace mlxterp
