// tests/spec/model.h: the demo model's names and tokens, without its weights.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"
#include "mlxterp/text/tokenizer.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::test {

/** What is looked up needs no weights: nothing may be run. */
inline InterpretableModel demo_without_weights() {
  const auto checkpoint = Checkpoint::open(demo_model_path());
  const auto family = family_of(checkpoint.config());
  return InterpretableModel(
      std::make_shared<Decoder>(family.configure(checkpoint.config())),
      Tokenizer::load(checkpoint),
      family.renames);
}

/** The message of the Error that `work` throws, of that kind. */
template <typename Work>
std::string message_of(const Work& work, ErrorKind kind = ErrorKind::usage) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace mlxterp::test
