#include "mlxterp/models/family.h"

#include <array>

#include "core/fail.h"
#include "models/config_reader.h"

namespace mlxterp {

// Each in the file of its name, or of the one that it extends.
extern const Family llama_family, mistral_family, qwen2_family, qwen3_family,
    qwen3_moe_family, gemma_family, gemma2_family, gemma3_family, phi_family,
    phi3_family, gpt2_family, gptj_family, gpt_neox_family, opt_family,
    olmo2_family, granite_family, smollm3_family, stablelm_family,
    starcoder2_family, cohere_family, mixtral_family, olmoe_family,
    olmo3_family, gpt_neo_family, glm_family, glm4_family, internlm2_family,
    minicpm_family, ministral3_family, exaone4_family, seed_oss_family,
    hunyuan_family, cohere2_family, apertus_family, ernie4_5_family,
    nemotron_family, olmo_family, gpt_bigcode_family, codegen_family,
    arcee_family, gpt_oss_family, bloom_family, mpt_family, falcon_family,
    lfm2_family, qwen3_next_family, qwen3_5_family, qwen3_5_moe_family,
    gemma4_family, deepseek_v2_family, deepseek_v3_family, glm4_moe_family,
    glm4_moe_lite_family, youtu_family, dots1_family, qwen2_moe_family,
    ernie4_5_moe_family, granite_hybrid_family, mamba2_family, llama4_family;

std::span<const Family> families() {
  static const std::array all = {llama_family,         mistral_family,
                                 qwen2_family,         qwen3_family,
                                 gemma_family,         gemma2_family,
                                 gemma3_family,        phi_family,
                                 phi3_family,          gpt2_family,
                                 gptj_family,          gpt_neox_family,
                                 opt_family,           olmo2_family,
                                 granite_family,       smollm3_family,
                                 stablelm_family,      starcoder2_family,
                                 cohere_family,        mixtral_family,
                                 qwen3_moe_family,     olmoe_family,
                                 olmo3_family,         gpt_neo_family,
                                 glm_family,           glm4_family,
                                 internlm2_family,     minicpm_family,
                                 ministral3_family,    exaone4_family,
                                 seed_oss_family,      hunyuan_family,
                                 cohere2_family,       apertus_family,
                                 ernie4_5_family,      nemotron_family,
                                 olmo_family,          gpt_bigcode_family,
                                 codegen_family,       arcee_family,
                                 gpt_oss_family,       bloom_family,
                                 mpt_family,           falcon_family,
                                 lfm2_family,          qwen3_next_family,
                                 qwen3_5_family,       qwen3_5_moe_family,
                                 gemma4_family,        deepseek_v2_family,
                                 deepseek_v3_family,   glm4_moe_family,
                                 glm4_moe_lite_family, youtu_family,
                                 dots1_family,         qwen2_moe_family,
                                 ernie4_5_moe_family,  granite_hybrid_family,
                                 mamba2_family,        llama4_family};
  return all;
}

Family family_of(const std::string& config_json, std::span<const Family> own) {
  const auto model_type = ConfigReader(config_json).text("model_type");
  std::string known;
  for (const auto& some : {own, families()})
    for (const auto& family : some) {
      if (family.model_type == model_type) return family;
      known +=
          fmt::format("{}{}", known.empty() ? "" : ", ", family.model_type);
    }
  fail(
      ErrorKind::bad_data,
      "[config.json] model_type '{}' is not supported; known: {}",
      printable(model_type),
      known);
}

std::string rename(std::string path, std::span<const Rename> renames) {
  for (const auto& [from, to, at_start] : renames) {
    const bool tensor =
        to.starts_with(from) && to.substr(from.size()) == ".weight";
    const auto boundary = [&](size_t i) {
      return i == path.size() || (path[i] == '.' && !tensor);
    };
    for (size_t at = path.find(from); at != std::string::npos;
         at = path.find(from, at + 1)) {
      const bool begins = at == 0 || (!at_start && path[at - 1] == '.');
      if (!begins || !boundary(at + from.size())) continue;
      // An empty `to` takes its dot along.
      const bool drop_dot = to.empty() && at + from.size() < path.size();
      path.replace(at, from.size() + (drop_dot ? 1 : 0), to);
      break;
    }
  }
  return path;
}

}  // namespace mlxterp
