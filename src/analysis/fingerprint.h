// analysis/fingerprint.h: what tells one model, or one tokenizer, from another.

#pragma once

#include <string>

#include "mlxterp/trace/model.h"

namespace mlxterp {

/** SHA-256 of every parameter's name, shape, dtype and of up to a thousand of
 * its values, evenly spread: another checkpoint, a fine-tuned or a quantised
 * one and another precision differ, and nothing is read twice. Empty where the
 * model runs elsewhere and has no parameters here. Evaluates. */
std::string weights_digest(const InterpretableModel& model);

/** SHA-256 of how many tokens there are, of up to 4096 of them, evenly spread,
 * and, of a model that runs here, of the ids of a text in several scripts;
 * empty where the model has no tokenizer. */
std::string tokenizer_digest(const InterpretableModel& model);

}  // namespace mlxterp
