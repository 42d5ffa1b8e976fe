#include "mlxterp/report/families.h"

#include <algorithm>

#include "io/gguf_architecture.h"
#include "mlxterp/models/family.h"
#include "report/json.h"

namespace mlxterp::report {

namespace {

// A test holds the numbers against the folders of tests/parity/families.
constexpr FamilyEntry entries[] = {
    {"apertus", "Apertus (Swiss AI, 2025)", "transformers", 3},
    {"arcee", "Arcee AFM (Arcee AI, 2025)", "transformers", 2},
    {"bloom", "BLOOM (BigScience, 2022)", "transformers", 2},
    {"codegen", "CodeGen (Salesforce, 2022)", "transformers", 2},
    {"cohere", "Command R (Cohere, 2024)", "transformers", 2},
    {"cohere2", "Command R7B, Command A (Cohere, 2024)", "transformers", 2},
    {"deepseek_v2", "DeepSeek-V2, V2-Lite (2024)", "transformers", 2},
    {"deepseek_v3", "DeepSeek-V3, R1 (2024)", "transformers", 2},
    {"dots1", "dots.llm1 (rednote, 2025)", "transformers", 1},
    {"ernie4_5", "ERNIE 4.5, dense (Baidu, 2025)", "transformers", 2},
    {"ernie4_5_moe", "ERNIE 4.5 with experts (2025)", "transformers", 2},
    {"exaone4", "EXAONE 4 (LG AI Research, 2025)", "transformers", 3},
    {"falcon", "Falcon 1 and RW (TII, 2023)", "transformers", 6},
    {"gemma", "Gemma (Google DeepMind, 2024)", "transformers", 2},
    {"gemma2", "Gemma 2 (Google DeepMind, 2024)", "transformers", 2},
    {"gemma3_text", "Gemma 3 (Google DeepMind, 2025)", "transformers", 2},
    {"gemma4_text", "Gemma 4 (Google DeepMind, 2026)", "transformers", 4},
    {"glm", "GLM-4 9B (Zhipu AI, 2024)", "transformers", 2},
    {"glm4", "GLM-4 0414 (Zhipu AI, 2025)", "transformers", 2},
    {"glm4_moe", "GLM-4.5, 4.6 (Zhipu AI, 2025)", "transformers", 2},
    {"glm4_moe_lite", "GLM-4.7-Flash (Zhipu AI, 2026)", "transformers", 1},
    {"gpt2", "GPT-2 (OpenAI, 2019)", "transformers", 3},
    {"gpt_bigcode", "StarCoder, SantaCoder (BigCode, 2023)", "transformers", 2},
    {"gpt_neo", "GPT-Neo, TinyStories (2021, 2023)", "transformers", 2},
    {"gpt_neox", "GPT-NeoX, Pythia (EleutherAI, 2022)", "transformers", 3},
    {"gpt_oss", "gpt-oss (OpenAI, 2025)", "transformers", 2},
    {"gptj", "GPT-J (EleutherAI, 2021)", "transformers", 3},
    {"granite", "Granite 3 (IBM, 2024)", "transformers", 2},
    {"granitemoehybrid", "Granite 4.0 (IBM, 2025)", "transformers", 3},
    {"hunyuan_v1_dense", "Hunyuan (Tencent, 2025)", "transformers", 2},
    {"internlm2", "InternLM 2 (2024)", "mlx-lm", 3},
    {"lfm2", "LFM2 (Liquid AI, 2025)", "transformers", 3},
    {"llama", "Llama 1 to 3, SmolLM2 and their shape", "transformers", 15},
    {"llama4_text", "Llama 4, text (Meta, 2025)", "transformers", 3},
    {"mamba2", "Mamba-2, Codestral Mamba (2024)", "transformers", 3},
    {"minicpm", "MiniCPM (OpenBMB, 2024)", "mlx-lm", 2},
    {"ministral3", "Ministral 3 (Mistral AI, 2025)", "transformers", 2},
    {"mistral", "Mistral 7B, Nemo (Mistral AI, 2023)", "transformers", 3},
    {"mixtral", "Mixtral (Mistral AI, 2024)", "transformers", 2},
    {"mpt", "MPT (MosaicML, 2023)", "transformers", 2},
    {"nemotron", "Nemotron 3, 4, Minitron (NVIDIA, 2024)", "transformers", 2},
    {"olmo", "OLMo (Ai2, 2024)", "transformers", 2},
    {"olmo2", "OLMo 2 (Ai2, 2024)", "transformers", 2},
    {"olmo3", "OLMo 3 (Ai2, 2025)", "transformers", 2},
    {"olmoe", "OLMoE (Ai2, 2024)", "transformers", 3},
    {"opt", "OPT (Meta, 2022)", "transformers", 1},
    {"phi", "Phi-1.5, Phi-2 (Microsoft, 2023)", "transformers", 2},
    {"phi3", "Phi-3, Phi-4 (Microsoft, 2024)", "transformers", 5},
    {"qwen2", "Qwen 2, 2.5 (Alibaba, 2024)", "transformers", 2},
    {"qwen2_moe", "Qwen 1.5, 2 with experts (2024)", "transformers", 2},
    {"qwen3", "Qwen 3 (Alibaba, 2025)", "transformers", 2},
    {"qwen3_5_moe_text", "Qwen 3.5 with experts (2026)", "transformers", 1},
    {"qwen3_5_text", "Qwen 3.5 (Alibaba, 2026)", "transformers", 3},
    {"qwen3_moe", "Qwen 3 with experts (Alibaba, 2025)", "transformers", 3},
    {"qwen3_next", "Qwen3-Next (Alibaba, 2025)", "transformers", 2},
    {"seed_oss", "Seed-OSS (ByteDance, 2025)", "transformers", 2},
    {"smollm3", "SmolLM3 (Hugging Face, 2025)", "transformers", 2},
    {"stablelm", "StableLM 2 (Stability AI, 2024)", "transformers", 3},
    {"starcoder2", "StarCoder2 (BigCode, 2024)", "transformers", 2},
    {"youtu", "Youtu-LLM (Tencent, 2025)", "transformers", 1},
};

}  // namespace

std::vector<FamilyEntry> families() {
  std::vector<FamilyEntry> out;
  for (const auto& family : mlxterp::families()) {
    const auto* found =
        std::ranges::find(entries, family.model_type, &FamilyEntry::model_type);
    auto& entry = out.emplace_back(
        found == std::end(entries) ? FamilyEntry{family.model_type, {}}
                                   : *found);
    for (const auto& architecture : gguf_architectures())
      if (architecture.model_type == family.model_type &&
          std::ranges::find(entry.gguf, architecture.name) == entry.gguf.end())
        entry.gguf.push_back(architecture.name);
  }
  std::ranges::sort(out, {}, &FamilyEntry::model_type);
  return out;
}

std::string families_json() {
  Json out;
  out["families"] = Json::array();
  for (const auto& family : families())
    out["families"].push_back(
        {{"model_type", family.model_type},
         {"title", family.title},
         {"oracle", family.oracle},
         {"variants", family.variants},
         {"gguf", family.gguf}});
  return text_of(out);
}

}  // namespace mlxterp::report
