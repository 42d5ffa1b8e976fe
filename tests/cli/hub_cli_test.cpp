// The command on a model's name: it is downloaded once, and by its name again.

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/io/hub_server.h"

namespace mlxterp::test {
namespace {

namespace fs = std::filesystem;

class HubCli : public Program {};

TEST_F(HubCli, InfoOfAModelOfTheHub) {
  const auto repo = folder / "repos/org/name";
  fs::create_directories(repo);
  const fs::path fixture = MLXTERP_SOURCE_DIR "/tests/parity/families/qwen3";
  for (const auto* file : {"config.json", "model.safetensors"})
    fs::copy_file(fixture / file, repo / file);
  testing::HubServer server(folder);
  ASSERT_NE(server.hub, 0) << "hub_server.py does not run";
  const auto settings =
      "env -u HF_HUB_CACHE -u HF_HUB_OFFLINE -u HF_TOKEN "
      "no_proxy='*' HF_HOME=" +
      quoted((folder / "home").string()) +
      " HF_ENDPOINT=http://127.0.0.1:" + std::to_string(server.hub) + " ";
  const auto info = settings + binary() + " info org/name --json";

  const auto first = shell(info);
  ASSERT_EQ(first.code, 0) << first.err;
  const auto told = nlohmann::json::parse(first.out);
  EXPECT_EQ(told["model"], "org/name");
  EXPECT_EQ(told["family"], "qwen3");
  EXPECT_NE(
      told["path"].get<std::string>().find("models--org--name/snapshots/"),
      std::string::npos);

  const auto missing = shell(settings + binary() + " info org/other");
  EXPECT_EQ(missing.code, 4) << missing.err;
  EXPECT_NE(missing.err.find("org/other"), std::string::npos) << missing.err;

  // Nobody answers any more; what is there is enough.
  server.stop();
  const auto again = shell(
      "env HF_HUB_OFFLINE=1 HF_HOME=" + quoted((folder / "home").string()) +
      " " + binary() + " info org/name --json");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(nlohmann::json::parse(again.out)["path"], told["path"]);
}

}  // namespace
}  // namespace mlxterp::test
