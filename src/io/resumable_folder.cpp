#include "io/resumable_folder.h"

#include <set>
#include <system_error>

#include "core/fail.h"
#include "io/hub_cache.h"
#include "io/input_file.h"

namespace fs = std::filesystem;

namespace mlxterp {

namespace {

constexpr const char* lock_name = ".lock";

bool is_temporary(const std::string& name) {
  return name.starts_with(".mlxterp-") && name.ends_with(".tmp");
}

void compare(
    const nlohmann::json& stored,
    const nlohmann::json& asked,
    const std::string& name,
    std::vector<std::string>& out) {
  if (stored == asked) return;
  if (!stored.is_object() || !asked.is_object()) {
    const auto shown = [](const nlohmann::json& value) {
      return printable(
          value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
    };
    out.push_back(
        fmt::format("{} {}, asked for {}", name, shown(stored), shown(asked)));
    return;
  }
  std::set<std::string> keys;
  for (const auto* object : {&stored, &asked})
    for (const auto& [key, value] : object->items())
      keys.insert(key);
  for (const auto& key : keys)
    compare(
        stored.value(key, nlohmann::json()),
        asked.value(key, nlohmann::json()),
        name.empty() ? key : fmt::format("{}.{}", name, key),
        out);
}

}  // namespace

std::vector<std::string> differing_settings(
    const nlohmann::json& stored, const nlohmann::json& asked) {
  std::vector<std::string> out;
  compare(stored, asked, "", out);
  return out;
}

void remove_temporaries(const fs::path& folder) {
  std::error_code ignored;
  for (fs::directory_iterator it(folder, ignored), end; it != end;
       it.increment(ignored))
    if (is_temporary(it->path().filename().string()))
      fs::remove(it->path(), ignored);
}

bool ResumableFolder::was_held(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / lock_name, ignored);
}

ResumableFolder::ResumableFolder(fs::path path, const Kind& kind, bool resume)
    : path_(std::move(path)) {
  std::error_code error;
  made_ = fs::create_directories(path_, error);
  if (error || !fs::is_directory(path_, error))
    fail(
        ErrorKind::environment,
        "[{}] cannot make the folder {}{}; check the path and its permissions",
        kind.caller,
        quoted(path_),
        error ? fmt::format(" ({})", error.message()) : "");
  bool own = false, foreign = false;
  for (fs::directory_iterator it(path_, error), end; !error && it != end;
       it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name == lock_name || is_temporary(name)) continue;
    own |= kind.entry(name) == Entry::own;
    foreign |= kind.entry(name) == Entry::foreign;
  }
  if (own && !resume)
    fail(
        ErrorKind::usage,
        "[{}] {} holds a {}; ask to resume it, or name another folder",
        kind.caller,
        quoted(path_),
        kind.what);
  if (foreign && !own)
    fail(
        ErrorKind::usage,
        "[{}] {} holds other files and no {}; name an empty or a new folder",
        kind.caller,
        quoted(path_),
        kind.what);
  lock_ = std::make_shared<FileLock>(path_ / lock_name, [&] {
    fail(
        ErrorKind::environment,
        "[{}] another process writes to {}; wait for it, or name another "
        "folder",
        kind.caller,
        quoted(path_));
  });
  remove_temporaries(path_);
}

ResumableFolder::~ResumableFolder() {
  std::error_code ignored;
  fs::remove(path_ / lock_name, ignored);
  if (made_) fs::remove(path_, ignored);  // fails where something is in it
}

}  // namespace mlxterp
