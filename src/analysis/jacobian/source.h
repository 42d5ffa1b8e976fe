// analysis/jacobian/source.h: what a lens was fitted on, as files say it and as
// two of them are compared.

#pragma once

#include <map>
#include <optional>
#include <string>

#include "mlxterp/analysis/jacobian_lens.h"

namespace mlxterp::jacobian {

inline constexpr const char* caller = "jacobian_lens";

std::map<std::string, std::string> to_metadata(const JacobianSource& source);

/** Throws bad_data where a number is none; `shown` is the file. */
JacobianSource from_metadata(
    const std::map<std::string, std::string>& metadata,
    const std::string& shown);

/** What differs of two that are to be one, "skip 4 and 16"; empty: nothing
 * that is known of both. Prompts, corpus, length and the model's name may
 * differ. */
std::string difference(const JacobianSource& a, const JacobianSource& b);

/** The layer of "J.12" behind "J.", in the one spelling it has. */
std::optional<int> layer_named(std::string_view name, std::string_view prefix);

/** Of these prompts' ids. */
std::string digest_of(const Inputs::Rows& prompts);

/** Layers as asked for, ascending; empty: all up to `end`. */
std::vector<int> chosen_layers(
    const std::vector<int>& asked, int model_layers, int end);

/** What these tokens' logits are read by, W_U's columns: [token, d_model]
 * float32. Throws usage where there is none, out_of_range. */
mlx::core::array unembedding_of(
    const InterpretableModel& model, const std::vector<int>& tokens);

/** Throws usage where what reads these layers of a stream of that width is of
 * another model; see JacobianLens::check_fits. */
void check_fits(
    const JacobianSource& source,
    const std::vector<int>& layers,
    int d_model,
    const InterpretableModel& model,
    bool any_model);

/** What all walks over a corpus begin with: everything checked before long
 * work. */
JacobianSource source_of(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const JacobianOptions& options);

}  // namespace mlxterp::jacobian
