#include "mlxterp/core/paths.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "mlxterp/core/error.h"

namespace mlxterp {
namespace {

// The environment as it was, when it goes.
class Environment {
 public:
  Environment() {
    for (const auto* name : {"MLXTERP_CACHE", "XDG_CACHE_HOME", "HOME"}) {
      const char* value = std::getenv(name);
      before_[name] = value ? std::optional<std::string>(value) : std::nullopt;
      unsetenv(name);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : before_)
      if (value)
        setenv(name.c_str(), value->c_str(), 1);
      else
        unsetenv(name.c_str());
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  static void set(const char* name, const char* value) {
    setenv(name, value, 1);
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

TEST(Paths, TheFirstThatIsSetDecides) {
  const Environment environment;
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
