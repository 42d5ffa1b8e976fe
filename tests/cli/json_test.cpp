// Every verb's JSON against docs/json.md.

#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

class Answers : public test::Program {};

TEST_F(Answers, AreAsDocumented) {
  const testing::TempFolder bare, worded;
  const auto outcome = shell(
      "python3 " + test::quoted(MLXTERP_SOURCE_DIR "/tests/cli/check_json.py") +
      " " + binary() + " " + test::quoted(MLXTERP_SOURCE_DIR "/docs/json.md") +
      " " + test::quoted(testing::TinyCheckpoint().write(bare).string()) + " " +
      test::quoted(test::worded_checkpoint(worded).string()));
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("25 verbs as documented"), std::string::npos)
      << outcome.out;
}

}  // namespace
}  // namespace mlxterp
