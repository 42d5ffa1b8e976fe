#include "io/mxfp4_blocks.h"

#include <string_view>
#include <unordered_map>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

constexpr std::string_view blocks_end = "_blocks", scales_end = "_scales";
constexpr int group = 32, bits = 4, group_bytes = group * bits / 8;

std::string without(const std::string& name, std::string_view end) {
  return name.substr(0, name.size() - end.size());
}

}  // namespace

std::vector<QuantizedMatrix> find_mxfp4_blocks(
    const std::filesystem::path& folder,
    const std::vector<TensorInFile>& tensors) {
  std::unordered_map<std::string, const TensorInFile*> by_name;
  for (const auto& tensor : tensors)
    by_name.emplace(tensor.info.name, &tensor);
  const auto find = [&](const std::string& name) {
    const auto found = by_name.find(name);
    return found == by_name.end() ? nullptr : found->second;
  };
  const auto bad = [&](const TensorInfo& tensor, const std::string& what) {
    fail(
        ErrorKind::bad_data,
        "[Checkpoint::open] tensor {} of {} is {} {}, {}; download the model "
        "again",
        printable(tensor.name),
        quoted(folder),
        tensor.type,
        shown(tensor.shape),
        what);
  };

  std::vector<QuantizedMatrix> matrices;
  for (const auto& tensor : tensors) {
    const auto& info = tensor.info;
    if (info.name.ends_with(scales_end) &&
        !find(without(info.name, scales_end) + std::string(blocks_end)))
      bad(info, "but its _blocks are missing");
    if (!info.name.ends_with(blocks_end)) continue;
    const auto stem = without(info.name, blocks_end);
    const auto* scales = find(stem + std::string(scales_end));
    if (!scales) bad(info, "but its _scales are missing");
    const bool fits = info.type == "U8" && info.shape.size() >= 3 &&
                      info.shape.back() == group_bytes &&
                      count_numbers(info.shape) > 0u;
    if (!fits) bad(info, "but blocks of MXFP4 are U8 [..., row, group, 16]");
    auto groups = info.shape;
    groups.pop_back();
    if (scales->info.type != "U8" || scales->info.shape != groups)
      bad(scales->info,
          fmt::format("but its _blocks need U8 {}", shown(groups)));
    auto whole = groups;
    whole.back() *= group;
    if (whole.back() > static_cast<int64_t>(limits::dim))
      bad(info, "which is more columns than any model has");

    // As MLX would store it: words of 8 numbers.
    TensorInFile words = tensor;
    words.info.type = "U32";
    words.info.shape = groups;
    words.info.shape.back() *= group_bytes / 4;
    QuantizedMatrix matrix{
        {Packing::Mode::mxfp4, group, bits}, words, *scales, {}, {}, info};
    matrix.info.name = stem + ".weight";
    matrix.info.type = "MXFP4";
    matrix.info.shape = whole;
    matrix.info.bytes += scales->info.bytes;
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

}  // namespace mlxterp
