// tests/io/gguf_model.h: the least file of an architecture.

#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mlxterp/io/checkpoint.h"
#include "tests/bad_input.h"
#include "tests/io/file_bytes.h"
#include "tests/temp_folder.h"

namespace mlxterp::testing::gguf {

/** Bytes as the file has them; the dimensions innermost first. */
struct Raw {
  std::vector<uint64_t> dims;
  uint32_t type;
  std::string bytes;
};

/** A file of that architecture with the metadata that all but GPT-2 share and
 * an embedding of 6 tokens; the keys are without the architecture's name. */
struct Model {
  std::string name;
  std::map<std::string, std::string> metadata = {};
  std::map<std::string, std::vector<float>> vectors = {};
  std::map<std::string, Raw> tensors = {};

  explicit Model(std::string architecture) : name(std::move(architecture)) {
    set("block_count", 2);
    set("context_length", 32);
    set("embedding_length", 12);
    set("feed_forward_length", 16);
    set("attention.head_count", 2);
    metadata["eps"] = real(name + ".attention.layer_norm_rms_epsilon", 1e-5f);
    add_what_is_its_own(2);
  }

  /** Without which a file of that architecture is none. */
  void add_what_is_its_own(uint32_t blocks) {
    set("block_count", blocks);
    if (name == "apertus")
      for (const std::string key : {"alpha_n", "alpha_p", "beta", "eps"})
        set_list("xielu." + key, float32, blocks, raw(0.5f), "xielu.");
    if (name == "gemma4") {
      set("attention.sliding_window", 8);
      set_list(
          "attention.sliding_window_pattern",
          boolean,
          blocks,
          std::string("\0", 1));
    }
    if (name.starts_with("qwen3") &&
        (name == "qwen3next" || name == "qwen35" || name == "qwen35moe")) {
      set("ssm.inner_size", 12);
      set("ssm.time_step_rank", 2);
      set("ssm.group_count", 1);
      set("ssm.state_size", 4);
    }
    if (name == "granitehybrid") {
      set_list("attention.head_count_kv", uint32, blocks, raw(uint32_t{2}));
      set("ssm.inner_size", 24);
      set("ssm.time_step_rank", 2);
    }
  }

  /** Of so many equal ones. */
  void set_list(
      const std::string& key,
      uint32_t type,
      uint64_t count,
      const std::string& one,
      std::string_view whole = {}) {
    std::string bytes = raw(type) + raw(count);
    for (uint64_t i = 0; i < count; ++i)
      bytes += one;
    metadata[key] = entry(whole.empty() ? name + "." + key : key, array, bytes);
  }

  void set(const std::string& key, uint32_t value) {
    metadata[key] = number(name + "." + key, value);
  }

  void set_real(const std::string& key, float value) {
    metadata[key] = real(name + "." + key, value);
  }

  std::string bytes() const {
    File file;
    file.entries.push_back(word("general.architecture", name));
    for (const auto& [key, bytes_of] : metadata)
      file.entries.push_back(bytes_of);
    file.tensors.push_back(tensor("token_embd.weight", {12, 6}, 0, 0));
    file.data = floats(72);
    for (const auto& [name_of, values] : vectors) {
      file.data.resize((file.data.size() + 31) / 32 * 32);
      file.tensors.push_back(
          tensor(name_of, {values.size()}, 0, file.data.size()));
      for (const float value : values)
        file.data += raw(value);
    }
    for (const auto& [name_of, it] : tensors) {
      file.data.resize((file.data.size() + 31) / 32 * 32);
      file.tensors.push_back(
          tensor(name_of, it.dims, it.type, file.data.size()));
      file.data += it.bytes;
    }
    file.data.resize((file.data.size() + 31) / 32 * 32);
    return file.bytes();
  }

  nlohmann::json config() const {
    const TempFolder folder;
    return nlohmann::json::parse(
        Checkpoint::open(folder.write("m.gguf", bytes())).config());
  }

  void refused(const std::vector<std::string>& says) const {
    const TempFolder folder;
    expect_refused(
        [&] {
          return Checkpoint::open(folder.write("m.gguf", bytes())).config();
        },
        ErrorKind::bad_data,
        says);
  }
};

}  // namespace mlxterp::testing::gguf
