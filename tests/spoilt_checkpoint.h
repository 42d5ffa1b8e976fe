// tests/spoilt_checkpoint.h: a checkpoint that is not what its config says, and
// what has to be said of it.

#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "mlxterp/core/error.h"
#include "tests/tiny_checkpoint.h"

namespace mlxterp::testing {

struct Spoilt {
  std::string name;
  std::function<void(TinyCheckpoint&)> spoil;
  std::vector<std::string> says;
};

inline void PrintTo(const Spoilt& one, std::ostream* out) {
  *out << one.name;
}

inline std::string name_of(const ::testing::TestParamInfo<Spoilt>& one) {
  return one.param.name;
}

/** That the error is one of bad data, and says all of that. */
inline void expect_says(
    const Error& error, const std::vector<std::string>& says) {
  const std::string message = error.what();
  EXPECT_EQ(error.kind(), ErrorKind::bad_data) << message;
  for (const auto& part : says)
    EXPECT_NE(message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << message;
}

}  // namespace mlxterp::testing
