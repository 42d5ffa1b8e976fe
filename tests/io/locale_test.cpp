// No number is read through the locale: what checkpoints say is the same where
// the decimal point is a comma.

#include <gtest/gtest.h>

#include <map>

#include "io/json.h"
#include "mlxterp/io/checkpoint.h"
#include "tests/decimal_comma.h"

namespace mlxterp {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> configs() {
  const fs::path parity = MLXTERP_SOURCE_DIR "/tests/parity";
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::directory_iterator(parity / "gguf"))
    if (entry.path().extension() == ".gguf")
      all[entry.path().string()] = Checkpoint::open(entry.path()).config();
  return all;
}

TEST(Locale, MetadataOfGguf) {
  const auto plain = configs();
  EXPECT_GT(plain.size(), 10u);
  size_t fractions = 0;
  for (const auto& [path, config] : plain)
    fractions += config.find("e-0") != std::string::npos ||
                 config.find("0.0") != std::string::npos;
  EXPECT_GT(fractions, 10u);
  const testing::DecimalComma comma;
  EXPECT_EQ(configs(), plain);
}

TEST(Locale, ConfigsOfFolders) {
  const auto numbers = [] {
    std::map<std::string, nlohmann::json> all;
    for (const auto& entry :
         fs::directory_iterator(MLXTERP_SOURCE_DIR "/tests/parity/families")) {
      const auto path = entry.path() / "config.json";
      all[path.string()] = parse_json(read_text(path, 1 << 20, "test"), "", "");
    }
    return all;
  };
  const auto plain = numbers();
  EXPECT_GT(plain.size(), 20u);
  const testing::DecimalComma comma;
  EXPECT_EQ(numbers(), plain);
}

}  // namespace
}  // namespace mlxterp
