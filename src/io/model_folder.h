// io/model_folder.h: the folder of a Hugging Face model.

#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <string_view>

namespace mlxterp {

/** A model's folder; its files are taken from nowhere else. Errors name
 * `caller`, which has to outlive it. */
class ModelFolder {
 public:
  /** Throws environment where it cannot be listed. */
  ModelFolder(const std::filesystem::path& path, std::string_view caller);

  const std::filesystem::path& path() const { return path_; }
  const std::set<std::string>& names() const { return names_; }
  bool has(std::string_view name) const {
    return names_.contains(std::string(name));
  }

  /** The path of one of its files. Links may lead to it from the cache layout
   * of the Hugging Face hub and from nowhere else outside: bad_data. Throws
   * environment where a link leads nowhere or in a circle. */
  std::filesystem::path file(std::string_view name) const;

 private:
  bool is_hub_blob(const std::filesystem::path& target) const;

  std::filesystem::path path_;
  std::filesystem::path real_;
  std::set<std::string> names_;
  std::string_view caller_;
};

}  // namespace mlxterp
