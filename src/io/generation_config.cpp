#include "mlxterp/io/generation_config.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/fail.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"

namespace mlxterp {

namespace {

using nlohmann::json;

constexpr const char* name = "generation_config.json";

// One number of the file, where it says one that lies within bounds.
class Fields {
 public:
  Fields(const json& file, GenerationConfig& out) : file_(file), out_(out) {}

  template <typename T>
  void read(
      const char* field, std::optional<T>& into, double least, double most) {
    const auto found = file_.find(field);
    if (found == file_.end() || found->is_null()) return;
    const double value = found->is_number() ? found->get<double>() : NAN;
    if (value >= least && value <= most)
      into = static_cast<T>(value);
    else
      out_.unusable.emplace_back(field);
  }

  // An id or a list of them.
  void read_ends() {
    const auto found = file_.find("eos_token_id");
    if (found == file_.end() || found->is_null()) return;
    const auto ids = found->is_array() ? *found : json::array({*found});
    for (const auto& id : ids) {
      if (id.is_number_integer() && id >= 0 && id < limits::vocab)
        out_.ends.push_back(id.get<int>());
      else
        out_.unusable.emplace_back("eos_token_id");
    }
  }

 private:
  const json& file_;
  GenerationConfig& out_;
};

}  // namespace

GenerationConfig GenerationConfig::read(const Checkpoint& checkpoint) {
  GenerationConfig out;
  if (checkpoint.gguf()) return out;
  const auto path = checkpoint.path() / name;
  if (!std::filesystem::exists(path)) return out;
  constexpr std::string_view caller = "GenerationConfig::read";
  const auto file =
      parse_json(read_text(path, limits::config_bytes, caller), caller, name);
  if (!file.is_object())
    fail(
        ErrorKind::bad_data,
        "[{}] {} is not a JSON object; download it again",
        caller,
        name);
  constexpr double large = 1e6;
  Fields fields(file, out);
  fields.read("temperature", out.temperature, 0, large);
  fields.read("top_k", out.top_k, 0, limits::vocab);
  fields.read("top_p", out.top_p, 1e-9, 1);
  fields.read("min_p", out.min_p, 0, 1);
  fields.read("repetition_penalty", out.repetition_penalty, 1e-6, large);
  fields.read_ends();
  return out;
}

}  // namespace mlxterp
