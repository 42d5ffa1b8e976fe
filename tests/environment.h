// tests/environment.h: the process's environment, changed for the time of a
// test.

#pragma once

#include <stdlib.h>

#include <initializer_list>
#include <map>
#include <optional>
#include <string>

namespace mlxterp::testing {

/** Takes these variables out, and puts them back as they were when it goes. */
class Environment {
 public:
  Environment(std::initializer_list<const char*> names) {
    for (const auto* name : names) {
      const char* value = getenv(name);
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

}  // namespace mlxterp::testing
