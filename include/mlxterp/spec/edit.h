// mlxterp/spec/edit.h: edits of a run as they are written in text.

#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/trace/intervention.h"

namespace mlxterp::spec {

/** The tensor that is called `name` in the file at that path. */
using TensorReader = std::function<mlx::core::array(
    const std::string& path, const std::string& name)>;

/** One tensor of a safetensors file. Throws unknown_name with the tensors that
 * there are, bad_data, environment. */
mlx::core::array read_tensor(const std::string& path, const std::string& name);

struct EditOptions {
  std::string_view name = "edit";  ///< Messages begin with it.
  /** Opens what an edit names as FILE:TENSOR; `read_tensor` opens any file.
   * Empty: edits that name a file are refused, so that untrusted texts
   * cannot read files of this machine. */
  TensorReader read = {};
};

/**
 * An intervention, written as in C++:
 *
 *     edit    = "zero_out" ["()"]
 *             | "scale(" x ")" | "clamp(" x "," x ")" | "replace_with(" x ")"
 *             | "noise" ["(" x ["," seed] ")"]
 *             | ("replace_with" | "add_vector") "(" FILE ":" TENSOR ")"
 *             | "compose(" edit {"," edit} ")"
 *             | ("at_positions" | "on_heads" | "on_neurons" | "on_prompts")
 *               "(" numbers "," edit ")"
 *             | "during(" when "," edit ")"          see spec/when.h
 *     numbers = item | "[" item {"," item} "]"
 *     item    = number | number ".." number     both ends count
 *
 * Files are read here. Throws usage with the column of what is wrong.
 */
Intervention parse_intervention(
    const std::string& text, const EditOptions& options = {});

/** SITE=EDIT, as "layers.4.mlp_out=scale(0)"; SITE is a site's name or a
 * pattern. Throws as parse_intervention does. */
Edit parse_edit(const std::string& text, const EditOptions& options = {});

std::vector<Edit> parse_edits(
    const std::vector<std::string>& texts, const EditOptions& options = {});

}  // namespace mlxterp::spec
