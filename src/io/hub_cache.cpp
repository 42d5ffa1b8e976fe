#include "io/hub_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <random>
#include <system_error>
#include <thread>
#include <vector>

#include "core/fail.h"
#include "io/http.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"

namespace mlxterp {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view default_endpoint = "https://huggingface.co";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool yes(const char* name) {
  auto value = environment(name);
  std::transform(value.begin(), value.end(), value.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path in_home(std::string_view rest) {
  const auto home = environment("HOME");
  if (home.empty())
    fail(
        ErrorKind::environment,
        "[{}] none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME says "
        "where models are kept; set HF_HUB_CACHE to a folder",
        hub_caller);
  return fs::path(home) / rest;
}

fs::path expanded(const std::string& text) {
  return text.starts_with("~/") ? in_home(text.substr(2)) : fs::path(text);
}

fs::path hugging_face_home() {
  const auto home = environment("HF_HOME");
  if (!home.empty()) return expanded(home);
  const auto caches = environment("XDG_CACHE_HOME");
  return (caches.empty() ? in_home(".cache") : expanded(caches)) /
         "huggingface";
}

fs::path cache_of_models() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const auto folder = environment(name); !folder.empty())
      return expanded(folder);
  return hugging_face_home() / "hub";
}

std::string read_endpoint() {
  auto endpoint = environment("HF_ENDPOINT");
  if (endpoint.empty()) return std::string(default_endpoint);
  while (endpoint.ends_with('/'))
    endpoint.pop_back();
  if (origin_of(endpoint).empty())
    fail(
        ErrorKind::environment,
        "[{}] HF_ENDPOINT is not an http or https URL; unset it, or set it to "
        "one such as {}",
        hub_caller,
        default_endpoint);
  return endpoint;
}

std::string read_token() {
  if (yes("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return "";
  std::string from = "HF_TOKEN";
  auto token = environment("HF_TOKEN");
  if (token.empty()) token = environment("HUGGING_FACE_HUB_TOKEN");
  if (token.empty()) {
    const auto named = environment("HF_TOKEN_PATH");
    const auto path =
        named.empty() ? hugging_face_home() / "token" : expanded(named);
    // Longer than any token: refused below, where nothing of it is shown.
    constexpr uint64_t most = 1u << 20;
    token = text_of(path, most, hub_caller).value_or("");
    from = "the file " + quoted(path);
  }
  const auto first = token.find_first_not_of(" \t\r\n");
  if (first == token.npos) return "";
  token = token.substr(first, token.find_last_not_of(" \t\r\n") - first + 1);
  // It becomes a line of a request, which it must not end.
  const bool fit = token.size() <= limits::hub_token_bytes &&
                   std::all_of(token.begin(), token.end(), [](char c) {
                     return c > 0x20 && c < 0x7F;
                   });
  if (!fit)
    fail(
        ErrorKind::environment,
        "[{}] {} does not hold a valid token; copy it again from your "
        "Hugging Face settings",
        hub_caller,
        from);
  return token;
}

std::chrono::seconds read_idle_timeout() {
  const auto text = environment("HF_HUB_DOWNLOAD_TIMEOUT");
  int seconds = 0;
  std::from_chars(text.data(), text.data() + text.size(), seconds);
  return std::chrono::seconds(seconds > 0 ? std::min(seconds, 3600) : 30);
}

bool is_name(std::string_view text) {
  const auto word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  return !text.empty() && text.size() <= limits::hub_name_bytes &&
         std::all_of(text.begin(), text.end(), word) &&
         text.find("..") == text.npos && text.front() != '.' &&
         text.front() != '-' && text.back() != '.' && text.back() != '-';
}

void check_revision(const std::string& revision) {
  bool fine = !revision.empty() && revision.size() <= 250;
  for (size_t i = 0; fine && i <= revision.size();) {
    const auto end = std::min(revision.find('/', i), revision.size());
    fine = is_name(std::string_view(revision).substr(i, end - i));
    i = end + 1;
  }
  if (!fine)
    fail(
        ErrorKind::usage,
        "[{}] '{}' is not a revision; name a branch, a tag or a commit",
        hub_caller,
        printable(revision));
}

[[noreturn]] void fail_write(const fs::path& path, const std::string& why) {
  fail(
      ErrorKind::environment,
      "[{}] cannot write {} ({}); check the folder and the space on its disk, "
      "or set HF_HUB_CACHE to another",
      hub_caller,
      quoted(path),
      why);
}

}  // namespace

HubId HubId::parse(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t i = 0; i <= text.size();) {
    const auto end = std::min(text.find('/', i), text.size());
    parts.push_back(text.substr(i, end - i));
    i = end + 1;
  }
  const bool names = (parts.size() == 2 || parts.size() == 3) &&
                     std::all_of(parts.begin(), parts.end(), is_name) &&
                     // The cache's folders are called org--name.
                     parts[0].find("--") == text.npos &&
                     parts[1].find("--") == text.npos;
  if (!names || (parts.size() == 3 && !parts[2].ends_with(".gguf")))
    fail(
        ErrorKind::usage,
        "[{}] '{}' is neither a file or folder here nor a model's id; an id "
        "reads org/name, and org/name/file.gguf for one GGUF file of it",
        hub_caller,
        printable(text));
  return {
      fmt::format("{}/{}", parts[0], parts[1]),
      parts.size() == 3 ? std::string(parts[2]) : ""};
}

HubSettings HubSettings::read() {
  HubSettings settings;
  settings.cache = cache_of_models();
  settings.offline = yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE");
  if (settings.offline) return settings;
  settings.endpoint = read_endpoint();
  settings.token = read_token();
  settings.idle_timeout = read_idle_timeout();
  return settings;
}

HubCache::HubCache(const fs::path& cache, const std::string& repo) {
  std::string name = "models--" + repo;
  name.replace(name.find('/'), 1, "--");
  root_ = cache / name;
  locks_ = cache / ".locks" / name;
}

fs::path HubCache::snapshot(const std::string& commit) const {
  return root_ / "snapshots" / commit;
}

fs::path HubCache::blob(const std::string& etag) const {
  return root_ / "blobs" / etag;
}

fs::path HubCache::lock(const std::string& etag) const {
  return locks_ / (etag + ".lock");
}

std::optional<std::string> HubCache::commit_of(
    const std::string& revision) const {
  check_revision(revision);
  if (is_commit(revision)) return revision;
  const auto text =
      text_of(root_ / "refs" / revision, limits::config_bytes, hub_caller);
  std::string_view commit = text ? *text : std::string_view();
  commit = commit.substr(0, commit.find_last_not_of(" \r\n") + 1);
  if (!is_commit(commit)) return std::nullopt;
  return std::string(commit);
}

void HubCache::set_commit(
    const std::string& revision, const std::string& commit) const {
  if (commit_of(revision) == commit) return;
  const auto path = root_ / "refs" / revision;
  make_folders(path.parent_path());
  write_file_atomically(path, commit, /*overwrite=*/true);
}

void HubCache::link(
    const std::string& commit,
    const std::string& name,
    const std::string& etag) const {
  const auto file = snapshot(commit) / name;
  const auto folder = file.parent_path();
  make_folders(folder);
  // Relative, so that the cache may be moved.
  const auto target = blob(etag).lexically_relative(folder);
  std::error_code error;
  if (fs::read_symlink(file, error) == target) return;
  // Made beside it and renamed, so that a link that leads nowhere is replaced
  // and nobody ever finds none.
  std::random_device random;
  const auto temporary =
      folder / fmt::format(".{:08x}{:08x}.tmp", random(), random());
  fs::create_symlink(target, temporary, error);
  // A disk without links gets the file itself, as from Hugging Face's tools.
  fs::rename(error ? blob(etag) : temporary, file, error);
  if (error) fail_write(file, error.message());
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

void make_folders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_write(path, error.message());
}

FileLock::FileLock(const fs::path& path, const std::function<void()>& waiting) {
  make_folders(path.parent_path());
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
  if (descriptor_ < 0) fail_write(path, std::generic_category().message(errno));
  try {
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return;
      waiting();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
  held_ = true;
}

FileLock::~FileLock() {
  ::close(descriptor_);
}

}  // namespace mlxterp
