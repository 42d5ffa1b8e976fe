#include "mlxterp/core/paths.h"

#include <gtest/gtest.h>

#include <string>

#include "mlxterp/core/error.h"
#include "tests/environment.h"

namespace mlxterp {
namespace {

using testing::Environment;

TEST(Paths, TheFirstThatIsSetDecides) {
  const Environment environment{"MLXTERP_CACHE", "XDG_CACHE_HOME", "HOME"};
  try {
    cache_folder();
    ADD_FAILURE() << cache_folder();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::environment);
    EXPECT_NE(
        std::string(error.what()).find("set MLXTERP_CACHE to a folder"),
        std::string::npos)
        << error.what();
  }
  Environment::set("HOME", "/home/user");
  EXPECT_EQ(cache_folder(), "/home/user/.cache/mlxterp");
  Environment::set("XDG_CACHE_HOME", "/caches of mary");
  EXPECT_EQ(cache_folder(), "/caches of mary/mlxterp");
  Environment::set("MLXTERP_CACHE", "/models");
  EXPECT_EQ(cache_folder(), "/models");
  EXPECT_EQ(demo_model_path().parent_path(), "/models");
  EXPECT_EQ(demo_model_path().extension(), ".gguf");
  // What is set to nothing counts as not set.
  Environment::set("MLXTERP_CACHE", "");
  Environment::set("XDG_CACHE_HOME", "");
  EXPECT_EQ(cache_folder(), "/home/user/.cache/mlxterp");
}

}  // namespace
}  // namespace mlxterp
