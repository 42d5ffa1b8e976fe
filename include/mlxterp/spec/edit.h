// mlxterp/spec/edit.h: edits of a run as they are written in text.

#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/trace/intervention.h"

namespace mlxterp {
class InterpretableModel;
}

namespace mlxterp::spec {

/** The tensor that is called `name` in the file at that path; without a name
 * its only one. */
using TensorReader = std::function<mlx::core::array(
    const std::string& path, const std::string& name)>;

/** One tensor of a safetensors or .npz file, or the array of a .npy, which has
 * no name. Throws unknown_name with the tensors that there are, also where no
 * name is given and there is not exactly one; usage where a .npy's is named;
 * bad_data, environment. */
mlx::core::array read_tensor(const std::string& path, const std::string& name);

struct EditOptions {
  std::string_view name = "edit";  ///< Messages begin with it.
  /** Opens the files that edits name; `read_tensor` opens any.
   * Empty: edits that name a file are refused, so that untrusted texts
   * cannot read files of this machine. */
  TensorReader read = {};
  /** Positions that a name such as "@user:-1" stands for (see spec/turn.h).
   * Empty: there is no conversation whose turns have names. */
  std::function<std::vector<int>(std::string_view)> turn = {};
  /** Whose tokens and lens lens_steer and the like mean; it need not outlive
   * the edits. Null: their text is checked, and they throw usage where they
   * act. */
  const InterpretableModel* model = nullptr;
};

/**
 * An intervention, written as in C++:
 *
 *     edit    = "zero_out" ["()"]
 *             | "scale(" x ")" | "clamp(" x "," x ")" | "replace_with(" x ")"
 *             | "noise" ["(" x ["," seed] ")"]
 *             | "replace_with(" FILE ":" TENSOR ")"
 *             | "add_vector(" vector ["," x] ")"
 *             | "project_out(" vector {"," vector} ")"
 *             | "clamp_along(" vector "," x ")"
 *             | "lens_steer(" FILE "," token ["," x] ")"
 *             | "lens_ablate(" FILE "," token {"," token} ")"
 *             | "lens_swap(" FILE "," token "," token ["," x] ")"
 *             | "lens_clamp(" FILE "," token "," token "," FILE ["," x] ")"
 *             | "compose(" edit {"," edit} ")"
 *             | ("at_positions" | "on_heads" | "on_neurons" | "on_prompts")
 *               "(" numbers "," edit ")"
 *             | "during(" when "," edit ")"          see spec/when.h
 *     vector  = FILE [":" TENSOR]
 *     token   = "'" text "'" | '"' text '"' | "id:" number
 *     numbers = item | "[" item {"," item} "]"
 *     item    = number | number ".." number     both ends count
 *             | turn                            in a conversation: spec/turn.h
 *
 * Files are read here: safetensors, .npz and .npy. FILE alone is that of one
 * tensor. A vector is [feature] of the site, or for add_vector any array that
 * broadcasts against it along other axes; `x` multiplies it. project_out takes
 * what lies along its vectors (together) out of each position; clamp_along sets
 * the coordinate along its vector, counted in the vector's direction, to `x`.
 * The first FILE of lens_... is a Jacobian lens, or directions of tokens (see
 * analysis/jacobian_lens.h); it is of options.model, and stands at layers of
 * the file, layers.N.resid_post. The second holds the clean run's values,
 * tensors of these names, [1, pos, d_model]. `x` is the strength of
 * analysis/lens_edits.h. Throws usage with the column of what is wrong; of
 * lens_... also what a lens or a token throws, such as usage where two vectors
 * are nearly parallel.
 */
Intervention parse_intervention(
    const std::string& text, const EditOptions& options = {});

/** SITE=EDIT, as "layers.4.mlp_out=scale(0)"; SITE is a site's name or a
 * pattern. Throws as parse_intervention does. */
Edit parse_edit(const std::string& text, const EditOptions& options = {});

std::vector<Edit> parse_edits(
    const std::vector<std::string>& texts, const EditOptions& options = {});

}  // namespace mlxterp::spec
