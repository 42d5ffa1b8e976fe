#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

static_assert(sizeof(size_t) == 8, "files above 4 GiB need 64 bits");

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

std::shared_ptr<const MappedFile> MappedFile::open(
    const std::filesystem::path& path, std::string_view caller) {
  std::shared_ptr<MappedFile> file(new MappedFile(path));
  struct stat status {};
  // Looked at before it is opened: opening a pipe waits, a device may act.
  if (::stat(path.c_str(), &status) != 0) fail_errno(errno, path, caller);
  check_regular(status, path, caller);
  file->descriptor_ =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file->descriptor_ < 0) fail_errno(errno, path, caller);
  if (::fstat(file->descriptor_, &status) != 0) fail_errno(errno, path, caller);
  check_regular(status, path, caller);

  file->size_ = static_cast<size_t>(status.st_size);
  file->modified_ = modified(status);
  if (file->size_ == 0) return file;  // nothing to map
  void* data = ::mmap(
      nullptr, file->size_, PROT_READ, MAP_PRIVATE, file->descriptor_, 0);
  if (data == MAP_FAILED) fail_errno(errno, path, caller);
  file->data_ = static_cast<const std::byte*>(data);
  return file;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MappedFile::check_unchanged(std::string_view caller) const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_errno(errno, path_, caller);
  const auto size = static_cast<size_t>(status.st_size);
  if (size == size_ && modified(status) == modified_) return;
  fail(
      ErrorKind::bad_data,
      "[{}] {} changed while it was in use (it had {} bytes, now {}); open it "
      "again",
      caller,
      quoted(path_),
      size_,
      size);
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
