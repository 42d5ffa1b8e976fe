#include "mlxterp/io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <random>
#include <system_error>
#include <utility>

#include "core/fail.h"
#include "io/input_file.h"

namespace mlxterp {

namespace {

constexpr size_t largest_write = size_t{1} << 30;  // macOS refuses 2^31
constexpr int name_attempts = 100;

[[noreturn]] void fail_write(int error, const std::filesystem::path& path) {
  fail(
      ErrorKind::environment,
      "[write_file] cannot write {} ({}); nothing was left there, check the "
      "folder and the space on its disk",
      quoted(path),
      std::generic_category().message(error));
}

[[noreturn]] void fail_exists(const std::filesystem::path& path) {
  fail(
      ErrorKind::usage,
      "[write_file] {} exists; choose another name or ask for it to be "
      "overwritten",
      quoted(path));
}

// Writing beyond `ulimit -f` raises SIGXFSZ, which ends a process that does not
// expect it. Blocked, the write fails with an errno.
class NoSizeSignal {
 public:
  NoSizeSignal() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  NoSizeSignal(const NoSizeSignal&) = delete;
  NoSizeSignal& operator=(const NoSizeSignal&) = delete;
  ~NoSizeSignal() {
    const int error = errno;
    sigset_t waiting;
    int taken = 0;
    if (!sigismember(&before_, SIGXFSZ) && sigpending(&waiting) == 0 &&
        sigismember(&waiting, SIGXFSZ))
      sigwait(&set_, &taken);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }

 private:
  sigset_t set_, before_;
};

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const auto folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

// Short and unlike the final name, which may be as long as a name can be.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  std::random_device random;
  const auto name =
      fmt::format(".mlxterp-{:08x}{:08x}.tmp", random(), random());
  return folder_of(path) / name;
}

int flush(int descriptor) {
#ifdef __APPLE__
  // fsync leaves the bytes in the drive's cache there.
  if (::fcntl(descriptor, F_FULLFSYNC) == 0) return 0;
#endif
  return ::fsync(descriptor);
}

// Makes the new name itself durable. Some file systems cannot; the file is
// whole there all the same.
void flush_folder(const std::filesystem::path& folder) {
  const int descriptor =
      ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  flush(descriptor);
  ::close(descriptor);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path, bool overwrite)
    : path_(std::move(path)), overwrite_(overwrite) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0) {
    if (!overwrite) fail_exists(path_);
    if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
      fail(
          ErrorKind::environment,
          "[write_file] {} is not a regular file; choose another name",
          quoted(path_));
  }
  for (int i = 0; i < name_attempts && descriptor_ < 0; ++i) {
    temporary_ = temporary_beside(path_);
    descriptor_ = ::open(
        temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail_write(errno, path_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  const NoSizeSignal quiet;
  while (!bytes.empty()) {
    const ssize_t written = ::write(
        descriptor_, bytes.data(), std::min(bytes.size(), largest_write));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(errno, path_);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  if (flush(descriptor_) != 0) fail_write(errno, path_);
  close_file();
  overwrite_ ? rename_over() : rename_new();
  temporary_.clear();
  flush_folder(folder_of(path_));
}

// Network disks report a full one only here.
void AtomicFile::close_file() {
  if (::close(std::exchange(descriptor_, -1)) != 0) fail_write(errno, path_);
}

void AtomicFile::rename_over() {
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_write(errno, path_);
}

// A hard link fails where the name was taken meanwhile, a rename does not.
void AtomicFile::rename_new() {
  if (::link(temporary_.c_str(), path_.c_str()) == 0) {
    ::unlink(temporary_.c_str());
    return;
  }
  if (errno == EEXIST) fail_exists(path_);
  // A file system without links, FAT for one.
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0) fail_exists(path_);
  rename_over();
}

void write_file_atomically(
    const std::filesystem::path& path, std::string_view bytes, bool overwrite) {
  AtomicFile file(path, overwrite);
  file.write(bytes);
  file.commit();
}

}  // namespace mlxterp
