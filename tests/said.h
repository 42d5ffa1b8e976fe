// What a call says where it refuses.

#pragma once

#include <gtest/gtest.h>

#include <string>

#include "mlxterp/core/error.h"

namespace mlxterp::test {

/** The error of work(); empty where there is none. */
template <typename Work>
std::string error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace mlxterp::test

#define EXPECT_SAYS(text, part) \
  EXPECT_NE((text).find(part), std::string::npos) << (text)
