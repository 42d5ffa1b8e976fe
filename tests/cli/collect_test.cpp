// `mlxterp collect`: killed, interrupted, without room.

#include <signal.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "mlxterp/analysis/activation_store.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;

class Collect : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    model = test::worded_checkpoint(place).string();
    text = test::worded_texts(place, 500).string();
  }

  // Sites before which no product stands: those may differ in their last bits.
  std::vector<std::string> arguments(const fs::path& to) const {
    return {
        "collect",
        model,
        "--text",
        text,
        "--save",
        "embed",
        "--save",
        "layers.0.ln1.scale",
        "--length",
        "8",
        "--batch",
        "2",
        "--shard-rows",
        "60",
        "--resume",
        "-o",
        to.string()};
  }

  static std::map<std::string, std::string> files(const fs::path& at) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::directory_iterator(at))
      if (entry.path().filename() != ".lock")
        out[entry.path().filename().string()] = read(entry.path());
    return out;
  }

  testing::TempFolder place;
  std::string model, text;
};

TEST_F(Collect, KilledAtAnyPointGoesOnToTheSameBytes) {
  using Clock = std::chrono::steady_clock;
  const auto whole = folder / "whole";
  const auto begin = Clock::now();
  const auto outcome = run(arguments(whole));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto took = std::chrono::duration<double>(Clock::now() - begin).count();
  const auto expected = files(whole);
  ASSERT_GT(expected.size(), 40u);

  std::mt19937 random(7);
  int kills = 0, midway = 0, stores = 0;
  while (kills < 50 || stores == 0) {
    const auto to = folder / ("killed" + std::to_string(stores));
    int here = 0;
    for (; !fs::exists(to / "manifest.json") && here < 400; ++here) {
      const auto child = start(arguments(to));
      // Enough kills: let it come to its end.
      if (kills < 50) {
        std::this_thread::sleep_for(std::chrono::duration<double>(
            took * static_cast<double>(random() % 1000) / 1000));
        ::kill(child, SIGKILL);
      }
      const int code = wait(child);
      if (code == 137)
        ++kills;
      else
        ASSERT_EQ(code, 0);
      midway += code == 137 && fs::exists(to / "shard-00000.safetensors") &&
                !fs::exists(to / "manifest.json");
    }
    // A killed one may have left its temporary file; who comes next removes it.
    EXPECT_EQ(run(arguments(to)).code, 0);
    EXPECT_EQ(files(to), expected) << "after " << here << " runs";
    fs::remove_all(to);
    ++stores;
  }
  std::printf(
      "%d kills, %d of them midway, %d stores\n", kills, midway, stores);
  EXPECT_GT(midway, 5);
}

TEST_F(Collect, CtrlCKeepsWholeFiles) {
  using Clock = std::chrono::steady_clock;
  const auto to = folder / "stopped";
  const auto child = start(arguments(to));
  const auto end = Clock::now() + std::chrono::seconds(120);
  while (!fs::exists(to / "shard-00000.safetensors") && Clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGINT);
  EXPECT_EQ(wait(child), 130);
  EXPECT_FALSE(fs::exists(to / "manifest.json"));
  for (const auto& [name, bytes] : files(to))
    EXPECT_EQ(name.find("shard-"), 0u) << name;
  const auto rest = run(arguments(to));
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_NE(rest.err.find("rows were there"), std::string::npos) << rest.err;
  const auto whole = folder / "whole";
  EXPECT_EQ(run(arguments(whole)).code, 0);
  EXPECT_EQ(files(to), files(whole));
  const auto again = run(arguments(whole));
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.err.find("was complete before"), std::string::npos);
}

TEST_F(Collect, WithoutRoomItSaysSoAndGoesOnLater) {
  // Files beyond so many bytes fail as on a full disk: the first that is too
  // large is the one of many rows.
  const auto to = folder / "full";
  auto given = arguments(to);
  given[13] = "1000";
  std::string command;
  for (const auto& word : given)
    command += ' ' + test::quoted(word);
  const auto outcome =
      shell("ulimit -f 100; " + binary() + command);  // 512-byte blocks or 1024
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("resum"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(to)) << "a folder of nothing is left";
  const auto rest = run(given);
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_EQ(ActivationStore::open(to).shard_rows(), 1000);
}

TEST_F(Collect, WhatCannotBeLeavesNoFolder) {
  const auto to = folder / "nothing";
  auto given = arguments(to);
  given[5] = "layers.99.resid_post";
  EXPECT_EQ(run(given).code, 2);
  EXPECT_FALSE(fs::exists(to));
  fs::create_directories(to);
  EXPECT_EQ(run(given).code, 2);
  EXPECT_TRUE(fs::is_empty(to)) << "a folder of the user's stays, empty";
}

TEST_F(Collect, TwoAtOnceAreRefused) {
  const auto to = folder / "two";
  fs::create_directories(to);
  const auto outcome = shell(
      "exec 9>" + test::quoted((to / ".lock").string()) + "; flock 9; " +
      binary() +
      [&] {
        std::string command;
        for (const auto& word : arguments(to))
          command += ' ' + test::quoted(word);
        return command;
      }() +
      " 9>&-");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_NE(outcome.err.find("another process"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace mlxterp
