#include "io/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

static_assert(sizeof(off_t) == 8, "files above 2 GiB need 64 bits");

constexpr size_t largest_read = size_t{1} << 30;  // macOS refuses 2^31

int64_t modified(const struct stat& status) {
#ifdef __APPLE__
  const auto& time = status.st_mtimespec;
#else
  const auto& time = status.st_mtim;
#endif
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

const char* kind_of(const struct stat& status) {
  if (S_ISDIR(status.st_mode)) return "a directory";
  if (S_ISFIFO(status.st_mode)) return "a pipe";
  if (S_ISSOCK(status.st_mode)) return "a socket";
  return "a device";
}

void check_regular(
    const struct stat& status,
    const std::filesystem::path& path,
    std::string_view caller) {
  if (S_ISREG(status.st_mode)) return;
  fail(
      ErrorKind::environment,
      "[{}] {} is {}, not a file; name a regular file",
      caller,
      quoted(path),
      kind_of(status));
}

[[noreturn]] void fail_errno(
    int error, const std::filesystem::path& path, std::string_view caller) {
  fail(
      ErrorKind::environment,
      "[{}] cannot read {} ({}); check the path and its permissions",
      caller,
      quoted(path),
      std::generic_category().message(error));
}

}  // namespace

std::string quoted(const std::filesystem::path& path) {
  return fmt::format("'{}'", printable(path.native(), 400));
}

std::shared_ptr<const InputFile> InputFile::open(
    const std::filesystem::path& path, std::string_view caller) {
  std::shared_ptr<InputFile> file(new InputFile(path));
  struct stat status {};
  // Looked at before it is opened: opening a pipe waits, a device may act.
  if (::stat(path.c_str(), &status) != 0) fail_errno(errno, path, caller);
  check_regular(status, path, caller);
  file->descriptor_ =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file->descriptor_ < 0) fail_errno(errno, path, caller);
  if (::fstat(file->descriptor_, &status) != 0) fail_errno(errno, path, caller);
  check_regular(status, path, caller);

  file->size_ = static_cast<uint64_t>(status.st_size);
  file->modified_ = modified(status);
  return file;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::read(
    uint64_t offset, std::span<std::byte> to, std::string_view caller) const {
  while (!to.empty()) {
    const ssize_t count = ::pread(
        descriptor_,
        to.data(),
        std::min(to.size(), largest_read),
        static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(errno, path_, caller);
    if (count == 0) {
      check_unchanged(caller);
      fail_changed(caller, offset);
    }
    to = to.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

std::string InputFile::text(
    uint64_t offset, uint64_t bytes, std::string_view caller) const {
  const uint64_t left = offset < size_ ? size_ - offset : 0;
  std::string out(std::min(bytes, left), '\0');
  read(offset, std::as_writable_bytes(std::span(out)), caller);
  return out;
}

std::string InputFile::all(uint64_t limit, std::string_view caller) const {
  if (size_ > limit)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has {} bytes, at most {} are read; is it the right file?",
        caller,
        quoted(path_),
        size_,
        limit);
  auto out = text(0, size_, caller);
  check_unchanged(caller);
  return out;
}

void InputFile::check_unchanged(std::string_view caller) const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_errno(errno, path_, caller);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size != size_ || modified(status) != modified_)
    fail_changed(caller, size);
}

void InputFile::fail_changed(std::string_view caller, uint64_t now) const {
  fail(
      ErrorKind::bad_data,
      "[{}] {} changed while it was in use (it had {} bytes, now {}); open it "
      "again",
      caller,
      quoted(path_),
      size_,
      now);
}

std::unique_ptr<std::FILE, InputFile::Close> InputFile::stream(
    std::string_view caller) const {
  const int copy = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  std::unique_ptr<std::FILE, Close> stream(
      copy < 0 ? nullptr : ::fdopen(copy, "rb"));
  if (stream) return stream;
  const int error = errno;
  if (copy >= 0) ::close(copy);
  fail_errno(error, path_, caller);
}

std::optional<std::string> text_of(
    const std::filesystem::path& path,
    uint64_t limit,
    std::string_view caller) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 &&
      (errno == ENOENT || errno == ENOTDIR))
    return std::nullopt;
  return InputFile::open(path, caller)->all(limit, caller);
}

std::string looks_like(std::string_view bytes) {
  const auto starts = [&](std::string_view with) {
    return bytes.substr(0, with.size()) == with;
  };
  const size_t text = bytes.find_first_not_of(" \t\r\n");
  if (starts("version https://git-lfs"))
    return " (it looks like a git-LFS pointer: run `git lfs pull`)";
  // A safetensors file may start with that byte too, and zeros after it.
  const bool has_zeros = bytes.substr(0, 8).find('\0') != bytes.npos;
  if (text != bytes.npos && bytes[text] == '<' && !has_zeros)
    return " (it looks like an HTML page: the download failed)";
  if (starts("PK\x03\x04") || starts("\x80\x02") || starts("\x80\x04"))
    return " (it looks like a PyTorch pickle: convert it to safetensors)";
  if (starts("GGUF")) return " (it looks like a GGUF file)";
  return "";
}

}  // namespace mlxterp
