#include <map>
#include <nlohmann/json.hpp>

#include "analysis/jacobian/source.h"
#include "analysis/jacobian/sums.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "io/torch_pickle.h"
#include "io/torch_write.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using namespace jacobian;  // NOLINT(google-build-using-namespace): its own

constexpr std::string_view torch_suffix = ".pt";

void need_whole(const JacobianLens& lens) {
  const int d = lens.d_model();
  bool whole =
      !lens.layers.empty() && lens.layers.size() == lens.matrices.size();
  for (size_t i = 0; whole && i < lens.layers.size(); ++i)
    whole = lens.matrices[i].shape() == mx::Shape{d, d} &&
            (i == 0 || lens.layers[i - 1] < lens.layers[i]);
  if (!whole)
    fail(
        ErrorKind::usage,
        "[{}] a lens takes layers that ascend and for each a square matrix of "
        "one width",
        caller);
}

// As the readers of transformer-lens and of the published lenses have it.
void write_torch(
    const JacobianLens& lens,
    const std::filesystem::path& path,
    bool overwrite) {
  TorchWriter out;
  const auto& source = lens.source;
  out.begin_dict();
  out.text("J");
  out.begin_dict();
  for (size_t i = 0; i < lens.layers.size(); ++i) {
    out.integer(lens.layers[i]);
    out.tensor(mx::astype(lens.matrices[i], mx::float16));
  }
  out.end_dict();
  out.text("n_prompts");
  out.integer(static_cast<int64_t>(source.prompts));
  out.text("source_layers");
  out.begin_list();
  for (const int layer : lens.layers)
    out.integer(layer);
  out.end_list();
  out.text("d_model");
  out.integer(lens.d_model());
  out.text("metadata");
  out.begin_dict();
  out.text("model_name");
  out.text(source.model);
  if (source.target_layer >= 0) {
    out.text("target_layer");
    out.integer(source.target_layer);
  }
  if (source.skip >= 0) {
    out.text("skip_first_positions");
    out.integer(source.skip);
  }
  for (const auto& [key, value] : to_metadata(source)) {
    out.text("mlxterp_" + key);
    out.text(value);
  }
  out.end_dict();
  out.end_dict();
  out.save(path, overwrite);
}

JacobianLens read_torch(const std::filesystem::path& path) {
  const auto file = TorchFile::open(path);
  const auto shown = quoted(path);
  const auto& all = file.value();
  const auto* matrices = all.find("J");
  const auto* sums = all.find("jacobian_sum");
  const auto* counted = all.find(matrices ? "n_prompts" : "n_done");
  using Kind = TorchValue::Kind;
  const auto broken = [&](const std::string& why) {
    fail(
        ErrorKind::bad_data,
        "[{}] {} {}; is it a Jacobian lens?",
        caller,
        shown,
        why);
  };
  const auto* from = matrices ? matrices : sums;
  if (!from || from->kind != Kind::dict)
    broken("has no dict J of matrices, nor the sums of a fit");
  JacobianLens out;
  if (counted && counted->kind == Kind::integer && counted->integer > 0 &&
      counted->integer < int64_t{1} << 40)
    out.source.prompts = static_cast<size_t>(counted->integer);
  else if (!matrices)
    broken("does not say how many prompts are in its sums");
  std::map<int, mx::array> by_layer;
  for (const auto& [name, value] : from->members) {
    const auto layer = layer_named(name, "");
    if (!layer || value.kind != Kind::tensor)
      broken(fmt::format(
          "has '{}' among its matrices, which is no layer's", printable(name)));
    by_layer.insert_or_assign(
        *layer, file.read(value.tensor, name, mx::float32));
  }
  for (auto& [layer, matrix] : by_layer) {
    out.layers.push_back(layer);
    out.matrices.push_back(
        matrices
            ? matrix
            : mx::divide(
                  matrix, mx::array(static_cast<float>(out.source.prompts))));
  }
  const auto* about = all.find("metadata");
  std::map<std::string, std::string> said;
  constexpr std::string_view own = "mlxterp_";
  if (about && about->kind == Kind::dict)
    for (const auto& [name, value] : about->members)
      if (name.starts_with(own) && value.kind == Kind::text)
        said.emplace(name.substr(own.size()), value.text);
  const auto prompts = out.source.prompts;
  out.source = from_metadata(said, shown);
  out.source.prompts = prompts;
  const auto integer = [&](const TorchValue* value, int& into) {
    if (value && value->kind == Kind::integer && value->integer >= 0 &&
        value->integer < 1 << 20)
      into = static_cast<int>(value->integer);
  };
  if (about) {
    integer(about->find("target_layer"), out.source.target_layer);
    integer(about->find("skip_first_positions"), out.source.skip);
    const auto* model = about->find("model_name");
    if (model && model->kind == Kind::text) out.source.model = model->text;
  }
  integer(all.find("target_layer"), out.source.target_layer);
  integer(all.find("skip_first"), out.source.skip);
  check_matrices(out.layers, out.matrices, shown);
  return out;
}

JacobianLens read_safetensors(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  const auto kind = file.metadata().find(kind_key);
  if (kind != file.metadata().end() && kind->second == sums_kind)
    return Sums::load(path).lens();
  JacobianLens out;
  out.source = from_metadata(file.metadata(), quoted(path));
  std::map<int, mx::array> by_layer;
  for (const auto& tensor : file.tensors())
    if (const auto layer = layer_named(tensor.name, matrix_prefix))
      by_layer.insert_or_assign(*layer, file.read(tensor));
  for (auto& [layer, matrix] : by_layer) {
    out.layers.push_back(layer);
    out.matrices.push_back(matrix);
  }
  check_matrices(out.layers, out.matrices, quoted(path));
  return out;
}

}  // namespace

Inputs::Rows read_id_rows(const std::filesystem::path& path) {
  const auto shown = quoted(path);
  const auto json = parse_json(
      read_text(path, limits::text_file_bytes, caller), caller, shown);
  Inputs::Rows out;
  const auto refuse = [&](size_t row) {
    fail(
        ErrorKind::bad_data,
        "[{}] {} is no list of prompts that are lists of token ids (prompt "
        "{}); "
        "write [[1, 2, 3], [4, 5]]",
        caller,
        shown,
        row);
  };
  if (!json.is_array() || json.empty()) refuse(0);
  for (const auto& row : json) {
    if (!row.is_array() || row.empty()) refuse(out.size());
    auto& ids = out.emplace_back();
    for (const auto& id : row) {
      if (!id.is_number_integer() || id < 0 || id >= limits::vocab)
        refuse(out.size() - 1);
      ids.push_back(id.get<int>());
    }
  }
  return out;
}

void JacobianLens::save(
    const std::filesystem::path& path, bool overwrite) const {
  need_whole(*this);
  if (path.extension() == torch_suffix) {
    write_torch(*this, path, overwrite);
    return;
  }
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (size_t i = 0; i < layers.size(); ++i)
    tensors.emplace_back(
        fmt::format("{}{}", matrix_prefix, layers[i]),
        mx::astype(matrices[i], mx::float32));
  auto metadata = to_metadata(source);
  metadata.emplace(kind_key, lens_kind);
  save_safetensors(path, tensors, metadata, overwrite);
}

JacobianLens JacobianLens::load(const std::filesystem::path& path) {
  const auto file = InputFile::open(path, caller);
  const auto head = file->text(0, 4, caller);
  // A zip, or a pickle of before PyTorch 1.6.
  const bool torch = head.starts_with("PK") || head.starts_with("\x80\x02");
  return torch ? read_torch(path) : read_safetensors(path);
}

}  // namespace mlxterp
