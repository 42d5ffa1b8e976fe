// io/resumable_folder.h: a folder that one process at a time writes to, and
// that a later one goes on with.

#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mlxterp {

/** The settings that differ, "length 16, asked for 8", nested ones by their
 * dotted names. */
std::vector<std::string> differing_settings(
    const nlohmann::json& stored, const nlohmann::json& asked);

/** Removes what AtomicFile leaves in a folder where its process was killed. */
void remove_temporaries(const std::filesystem::path& folder);

/** Holds such a folder; while it does, no other process gets it. */
class ResumableFolder {
 public:
  /** What an entry of the folder is. */
  enum class Entry {
    own,      ///< With it the folder holds something to go on with.
    part,     ///< May lie there without that.
    foreign,  ///< Of somebody else.
  };
  struct Kind {
    std::string caller;  ///< In messages: "train_sae"
    std::string what;    ///< "training"
    std::function<Entry(const std::string& name)> entry;
  };

  /** Makes it where it is not. Throws usage where it holds nothing of its kind
   * but something else, or something of its kind and `resume` is false;
   * environment where it cannot be made or another process has it. */
  ResumableFolder(std::filesystem::path path, const Kind& kind, bool resume);
  ResumableFolder(const ResumableFolder&) = delete;
  ResumableFolder& operator=(const ResumableFolder&) = delete;
  /** Takes a folder that it made away again, where nothing came into it. */
  ~ResumableFolder();

  const std::filesystem::path& path() const { return path_; }

  /** Whether a process holds it, or held it when it was killed. */
  static bool was_held(const std::filesystem::path& path);

 private:
  std::filesystem::path path_;
  bool made_ = false;
  std::shared_ptr<void> lock_;
};

}  // namespace mlxterp
