#include "mlxterp/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <thread>
#include <vector>

#include "mlxterp/core/error.h"
#include "tests/bad_input.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

using testing::Outcome;
using testing::read_file;
using testing::TempFolder;

TEST(AtomicFile, WritesWholeAndLeavesNothingElse) {
  const TempFolder folder;
  const std::string bytes(3'000'000, 'x');
  write_file_atomically(folder / "a", bytes);
  EXPECT_EQ(read_file(folder / "a"), bytes);
  EXPECT_EQ(folder.files(), 1u);
  write_file_atomically(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "empty"), "");
}

TEST(AtomicFile, ANewFileIsAsReadableAsAnyOther) {
  const TempFolder folder;
  write_file_atomically(folder / "a", "a");
  folder.write("b", "b");
  struct stat a {
  }, b{};
  ASSERT_EQ(::stat((folder / "a").c_str(), &a), 0);
  ASSERT_EQ(::stat((folder / "b").c_str(), &b), 0);
  EXPECT_EQ(a.st_mode, b.st_mode);
}

TEST(AtomicFile, DroppedBeforeCommitIsGone) {
  const TempFolder folder;
  {
    AtomicFile file(folder / "a", false);
    file.write("half");
    EXPECT_EQ(folder.files(), 1u);
  }
  EXPECT_EQ(folder.files(), 0u);
}

TEST(AtomicFile, AnExistingFileIsRefusedUnlessAskedFor) {
  const TempFolder folder;
  const auto path = folder.write("a", "old");
  testing::expect_refused(
      [&] {
        write_file_atomically(path, "new");
        return "";
      },
      ErrorKind::usage,
      {"exists", "/a'"});
  EXPECT_EQ(read_file(path), "old");
  write_file_atomically(path, "new", true);
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(folder.files(), 1u);
}

TEST(AtomicFile, ANameTakenMeanwhileIsRefused) {
  const TempFolder folder;
  AtomicFile file(folder / "a", false);
  file.write("late");
  folder.write("a", "early");
  EXPECT_THROW(file.commit(), Error);
  EXPECT_EQ(read_file(folder / "a"), "early");
}

TEST(AtomicFile, OfTwoWritersTheLastStaysWhole) {
  const TempFolder folder;
  const std::string one(1'000'000, '1'), two(1'000'000, '2');
  const auto write_often = [&](const std::string& bytes) {
    for (int i = 0; i < 10; ++i)
      write_file_atomically(folder / "a", bytes, true);
  };
  write_file_atomically(folder / "a", one);
  std::thread first(write_often, one), second(write_often, two);
  for (int i = 0; i < 50; ++i) {
    const auto seen = read_file(folder / "a");
    EXPECT_TRUE(seen == one || seen == two) << seen.size();
  }
  first.join();
  second.join();
  EXPECT_EQ(folder.files(), 1u);
}

TEST(AtomicFile, AFullDiskIsAnErrorAndLeavesNothing) {
  const TempFolder folder;
  const auto old = folder.write("a", "old");
  testing::expect_refused(
      [&] {
        // As a full disk does: some bytes fit, then none. The signal that
        // comes with it would end the process.
        std::signal(SIGXFSZ, SIG_DFL);
        const struct rlimit limit { 100'000, 100'000 };
        ::setrlimit(RLIMIT_FSIZE, &limit);
        write_file_atomically(old, std::string(1'000'000, 'x'), true);
        return "";
      },
      ErrorKind::environment,
      {"File too large", "/a'"});
  EXPECT_EQ(read_file(old), "old");
  EXPECT_EQ(folder.files(), 1u);
}

TEST(AtomicFile, ALimitOnFilesStaysTheCallersAffair) {
  const TempFolder folder;
  testing::expect_accepted([&]() -> std::string {
    static volatile std::sig_atomic_t raised = 0;
    std::signal(SIGXFSZ, [](int) { raised = 1; });
    const struct rlimit limit { 1000, 1000 };
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomically(folder / "a", std::string(5000, 'x'));
      return "";
    } catch (const Error&) {
      if (raised) throw;  // not for what the library itself wrote
    }
    std::raise(SIGXFSZ);
    if (!raised) throw std::runtime_error("the signal is still blocked");
    return "fine";
  });
  EXPECT_EQ(folder.files(), 0u);
}

TEST(AtomicFile, KilledBeforeCommitTheOldFileStays) {
  const TempFolder folder;
  const auto path = folder.write("a", "old");
  const Outcome outcome = testing::run_apart([&] {
    AtomicFile file(path, true);
    file.write("new");
    std::raise(SIGKILL);
    return "";
  });
  EXPECT_EQ(outcome.end, Outcome::End::died);
  EXPECT_EQ(read_file(path), "old");
}

TEST(AtomicFile, PlacesWhereNoFileCanBe) {
  const TempFolder folder;
  const auto refused = [](const std::filesystem::path& path,
                          const std::string& says) {
    testing::expect_refused(
        [&] {
          write_file_atomically(path, "x", true);
          return "";
        },
        ErrorKind::environment,
        {says});
  };
  refused(folder / "missing/a", "No such file");
  refused(folder.write("file", "") / "a", "Not a directory");
  refused(folder.path(), "not a regular file");
  refused("/dev/null", "not a regular file");
  refused("", "No such file");
}

TEST(AtomicFile, OddNames) {
  const TempFolder folder;
  std::vector<std::string> names = {
      "with space", "new\nline", std::string(255, 'n')};
#if defined(__linux__)
  names.emplace_back("not utf-8 \xff\xfe");  // a Mac's file systems want UTF-8
#endif
  for (const auto& name : names) {
    write_file_atomically(folder / name, name);
    EXPECT_EQ(read_file(folder / name), name);
  }
}

}  // namespace
}  // namespace mlxterp
