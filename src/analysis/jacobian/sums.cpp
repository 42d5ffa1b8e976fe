#include "analysis/jacobian/sums.h"

#include <nlohmann/json.hpp>

#include "analysis/jacobian/source.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "io/torch_pickle.h"
#include "io/torch_write.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp::jacobian {

namespace {

constexpr const char* changes_key = "changes";

mx::array size_of(const mx::array& x) {
  return mx::sqrt(mx::sum(mx::square(x)));
}

constexpr const char* torch_sums_key = "jacobian_sum";

// As the published code keeps them; what it does not know is metadata.
void write_torch(const Sums& all, const std::filesystem::path& path) {
  const auto& source = all.source;
  TorchWriter out;
  const auto integer = [&](const char* key, int64_t value) {
    out.text(key);
    out.integer(value);
  };
  out.begin_dict();
  out.text(torch_sums_key);
  out.begin_dict();
  for (size_t i = 0; i < all.layers.size(); ++i) {
    out.integer(all.layers[i]);
    out.tensor(mx::subtract(all.sums[i], all.lost[i]));
  }
  out.end_dict();
  integer("n_done", static_cast<int64_t>(source.prompts));
  integer("next_idx", static_cast<int64_t>(source.prompts));
  out.text("source_layers");
  out.begin_list();
  for (const int layer : all.layers)
    out.integer(layer);
  out.end_list();
  integer("target_layer", source.target_layer);
  integer("skip_first", source.skip);
  out.text("metadata");
  out.begin_dict();
  for (const auto& [key, value] : to_metadata(source)) {
    out.text("mlxterp_" + key);
    out.text(value);
  }
  out.end_dict();
  out.end_dict();
  out.save(path, /*overwrite=*/true);
}

Sums read_torch(const std::filesystem::path& path) {
  const auto shown = quoted(path);
  const auto file = TorchFile::open(path);
  const auto& all = file.value();
  const auto* sums = all.find(torch_sums_key);
  const auto* done = all.find("n_done");
  const auto* next = all.find("next_idx");
  if (!sums || !done)
    fail(
        ErrorKind::bad_data,
        "[{}] {} holds no running sums of a fit; remove it, or name another "
        "file",
        caller,
        shown);
  // Prompts are gone on with behind as many as are in the sums.
  if (next && next->integer != done->integer)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has gone through {} prompts and used {}; it cannot be gone on "
        "with here",
        caller,
        shown,
        next->integer,
        done->integer);
  auto lens = JacobianLens::load(path);
  Sums out(lens.source, {}, 0);
  out.layers = lens.layers;
  const mx::array count(static_cast<float>(lens.source.prompts));
  for (const auto& mean : lens.matrices) {
    out.sums.push_back(mx::multiply(mean, count));
    out.lost.push_back(mx::zeros_like(mean));
  }
  return out;
}

}  // namespace

Sums::Sums(JacobianSource of, std::vector<int> which, int d_model)
    : source(std::move(of)), layers(std::move(which)) {
  for (size_t i = 0; i < layers.size(); ++i) {
    sums.push_back(mx::zeros({d_model, d_model}));
    lost.push_back(sums.back());
  }
}

void Sums::add(const std::vector<mx::array>& jacobians) {
  const auto before = static_cast<float>(source.prompts);
  const mx::array count(before + 1.0f);
  auto change = mx::array(0.0f);
  std::vector<mx::array> made;
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto part = mx::subtract(jacobians[i], lost[i]);
    const auto sum = mx::add(sums[i], part);
    lost[i] = mx::subtract(mx::subtract(sum, sums[i]), part);
    if (before > 0) {
      const auto mean = mx::divide(sum, count);
      const auto moved =
          mx::subtract(mean, mx::divide(sums[i], mx::array(before)));
      const auto size = size_of(mean);
      change = mx::add(
          change,
          mx::divide(size_of(moved), mx::maximum(size, mx::array(1e-30f))));
    }
    sums[i] = sum;
    made.push_back(sum);
    made.push_back(lost[i]);
  }
  made.push_back(change);
  mx::eval(std::move(made));
  if (before > 0)
    changes.push_back(change.item<float>() / static_cast<float>(layers.size()));
  ++source.prompts;
}

JacobianLens Sums::lens() const {
  JacobianLens out{.layers = layers, .matrices = {}, .source = source};
  const mx::array count(static_cast<float>(source.prompts));
  for (const auto& sum : sums)
    out.matrices.push_back(mx::divide(sum, count));
  return out;
}

void Sums::save(const std::filesystem::path& path) const {
  if (path.extension() == ".pt") {
    write_torch(*this, path);
    return;
  }
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (size_t i = 0; i < layers.size(); ++i) {
    tensors.emplace_back(fmt::format("{}{}", sum_prefix, layers[i]), sums[i]);
    tensors.emplace_back(fmt::format("{}{}", lost_prefix, layers[i]), lost[i]);
  }
  auto metadata = to_metadata(source);
  metadata.emplace(kind_key, sums_kind);
  metadata.emplace(changes_key, nlohmann::json(changes).dump());
  save_safetensors(path, tensors, metadata, /*overwrite=*/true);
}

Sums Sums::load(const std::filesystem::path& path) {
  if (InputFile::open(path, caller)->text(0, 2, caller) == "PK")
    return read_torch(path);
  const auto file = Safetensors::open(path);
  const auto shown = quoted(path);
  const auto& metadata = file.metadata();
  const auto kind = metadata.find(kind_key);
  if (kind == metadata.end() || kind->second != sums_kind)
    fail(
        ErrorKind::bad_data,
        "[{}] {} holds no running sums of a fit; remove it, or name another "
        "file",
        caller,
        shown);
  std::map<int, mx::array> sums, lost;
  for (const auto& tensor : file.tensors())
    for (auto* into : {&sums, &lost}) {
      const std::string_view prefix = into == &sums ? sum_prefix : lost_prefix;
      if (const auto layer = layer_named(tensor.name, prefix))
        into->emplace(*layer, file.read(tensor));
    }
  Sums out(from_metadata(metadata, shown), {}, 0);
  for (const auto& [layer, sum] : sums) {
    if (!lost.contains(layer))
      fail(
          ErrorKind::bad_data,
          "[{}] {} has no {}{}",
          caller,
          shown,
          lost_prefix,
          layer);
    out.layers.push_back(layer);
    out.sums.push_back(sum);
    out.lost.push_back(lost.at(layer));
  }
  check_matrices(out.layers, out.sums, shown);
  check_matrices(out.layers, out.lost, shown);
  if (out.source.prompts == 0)
    fail(
        ErrorKind::bad_data,
        "[{}] {} does not say how many prompts are in it",
        caller,
        shown);
  const auto changes = metadata.find(changes_key);
  const auto json = parse_json(
      changes == metadata.end() ? "[]" : changes->second, caller, shown);
  for (const auto& it : json)
    if (it.is_number()) out.changes.push_back(it.get<float>());
  return out;
}

void check_matrices(
    const std::vector<int>& layers,
    std::vector<mx::array>& matrices,
    const std::string& shown) {
  if (layers.empty())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has no matrices; is it a Jacobian lens?",
        caller,
        shown);
  const int width = matrices[0].ndim() == 2 ? matrices[0].shape(0) : 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    auto& it = matrices[i];
    const auto refuse = [&](const char* why) {
      fail(
          ErrorKind::bad_data,
          "[{}] the matrix of layer {} in {} {}; is it a Jacobian lens?",
          caller,
          layers[i],
          shown,
          why);
    };
    if (width < 1 || width > limits::d_model ||
        it.shape() != mx::Shape{width, width})
      refuse("is not square, or of another width than the others");
    if (!mx::issubdtype(it.dtype(), mx::floating))
      refuse("holds no floating-point numbers");
    it = mx::astype(it, mx::float32);
    if (!mx::all(mx::isfinite(it)).item<bool>())
      refuse("holds NaN or infinity");
  }
}

}  // namespace mlxterp::jacobian
