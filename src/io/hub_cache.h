// io/hub_cache.h: the cache folder that Hugging Face's tools share, and the
// environment that says where it is and who asks.

#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace mlxterp {

/** How messages about the hub start. */
inline constexpr std::string_view hub_caller = "hub_snapshot";

/** "org/name" or "org/name/file.gguf". */
struct HubId {
  std::string repo;  ///< "org/name"
  std::string file;  ///< "" for all of the model

  /** Throws usage. */
  static HubId parse(std::string_view text);
};

/** What the environment says; throws environment where it contradicts itself.
 */
struct HubSettings {
  std::filesystem::path cache;
  std::string endpoint;  ///< Without a slash at its end.
  std::string token;     ///< "" for nobody; stands in no message.
  bool offline = false;
  std::chrono::seconds idle_timeout{30};

  static HubSettings read();
};

/**
 * One repository in the cache:
 *
 *     models--org--name/refs/main               the commit it stands for
 *     models--org--name/snapshots/<commit>/...  links to
 *     models--org--name/blobs/<etag>            the files
 *     .locks/models--org--name/<etag>.lock      held while one is downloaded
 */
class HubCache {
 public:
  HubCache(const std::filesystem::path& cache, const std::string& repo);

  std::filesystem::path snapshot(const std::string& commit) const;
  std::filesystem::path blob(const std::string& etag) const;
  std::filesystem::path lock(const std::string& etag) const;

  /** The commit that a revision stands for, as far as the cache knows. */
  std::optional<std::string> commit_of(const std::string& revision) const;
  void set_commit(const std::string& revision, const std::string& commit) const;

  /** Gives a blob its name in a snapshot. */
  void link(
      const std::string& commit,
      const std::string& name,
      const std::string& etag) const;

 private:
  std::filesystem::path root_;
  std::filesystem::path locks_;
};

/** 40 hexadecimal digits. */
bool is_commit(std::string_view text);

/** Makes a folder and those above it. */
void make_folders(const std::filesystem::path& path);

/** A lock that other processes, other threads and Hugging Face's own tools
 * respect; the system gives it back when the process dies. */
class FileLock {
 public:
  /** Waits for it, calling `waiting` now and then, whose exceptions end it. */
  FileLock(
      const std::filesystem::path& path, const std::function<void()>& waiting);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

  /** False on a disk that knows no locks. */
  bool held() const { return held_; }

 private:
  int descriptor_ = -1;
  bool held_ = false;
};

}  // namespace mlxterp
