// mlxterp/analysis/jacobian_lens.h: the Jacobian lens, what a layer's residual
// stream will have become behind the last layer, to first order and on average.

#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/linear_rule.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What a lens was fitted on; what is empty, 0 or below 0 is not known. */
struct JacobianSource {
  std::string model = {};      ///< As it was called.
  std::string weights = {};    ///< Digest of its weights.
  std::string tokenizer = {};  ///< Digest.
  std::string corpus = {};     ///< SHA-256 of the prompts' ids.
  int model_layers = 0;
  int target_layer = -1;  ///< Whose output is differentiated.
  int length = 0;         ///< Positions of a prompt, at most.
  int skip = -1;          ///< Leading positions that are left out.
  LinearRule rule = {};
  size_t prompts = 0;
  /** Whether it stopped because more prompts changed nothing. */
  bool converged = false;
};

/**
 * For each of some layers l the mean Jacobian J_l of what leaves the target
 * layer, before the final norm, by what leaves layer l (layers.l.resid_post).
 * Of one prompt, with V its positions skip .. length - 2:
 *
 *     J_l = 1 / |V|  sum over t in V  sum over t' in V, t' >= t
 *                                          d h_target[t'] / d h_l[t]
 *
 * and of a corpus the plain mean over its prompts: summed over where it acts,
 * averaged over where it is changed. Row i of a matrix is output dimension i,
 * so h of a layer is read as norm(h J_l^T) W_U^T. Float32. A value.
 */
struct JacobianLens {
  std::vector<int> layers;                 ///< Ascending.
  std::vector<mlx::core::array> matrices;  ///< [d_model, d_model] of each.
  JacobianSource source = {};

  int d_model() const;
  bool has(int layer) const;
  /** J_l, [d_model, d_model]. Throws out_of_range with the layers it has. */
  const mlx::core::array& at(int layer) const;

  /** h [..., d_model] of a layer as the target layer's, in h's dtype; of the
   * target layer itself as it is. Lazy. Throws out_of_range, usage. */
  mlx::core::array operator()(const mlx::core::array& h, int layer) const;

  /** The vectors of a layer along which these tokens' logits grow, [token,
   * d_model] float32: rows of W_U times J_l; no norm's gain is in them. Lazy.
   * Throws out_of_range, usage. */
  mlx::core::array directions(
      const InterpretableModel& model,
      const std::vector<int>& tokens,
      int layer) const;

  /** Throws usage, with both values, where it is of another width, depth,
   * weights or tokenizer, or its target is not the last layer; of weights and
   * tokenizer only where they are known and not `any_model`. */
  void check_fits(
      const InterpretableModel& model, bool any_model = false) const;

  /**
   * The name says the layout: .pt is the published one, a zip of torch.save, J
   * in float16, without what torch's readers do not know; any other name
   * safetensors, J.0, J.1, ... in float32 with the source as metadata. Appears
   * whole or not at all. Throws usage, environment.
   */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
  /**
   * Either of them, whatever the name, or the running sums of a fit that is
   * not finished, ours or the published one's. Of a pickle nothing but tensors
   * and plain values is taken. Throws bad_data where a matrix is missing, not
   * square, of another width than the others or not finite; environment.
   */
  static JacobianLens load(const std::filesystem::path& path);
};

/** One lens of all their prompts: the mean by how many each has seen. Throws
 * usage where they differ in anything else that is known of both, or one was
 * fitted on no known number of prompts. Lazy. */
JacobianLens merge(const std::vector<JacobianLens>& lenses);

struct JacobianOptions {
  std::vector<int> layers = {};  ///< From the end below 0; empty: all.
  int skip = 16;                 ///< Attention sinks, which are left out.
  LinearRule rule = {};
  /** Ends where the mean of the last `window` changes is below `tolerance`, but
   * not before so many prompts; a change is the mean over layers of |J(n) -
   * J(n-1)| / |J(n)|. 0: never. */
  float tolerance = 2e-3f;
  size_t window = 10, least = 100;
  /** Numbers that rows in work may take, in bytes. */
  size_t memory = size_t{4} << 30;
  /** A file of running sums, written every half minute and at the end, from
   * which `resume` goes on where it exists; empty: none. Called .pt it is the
   * one that the published code keeps, which either goes on with the other's;
   * that code's own does not say of which prompts it is: give the same. Throws
   * usage where it is of another fit. */
  std::filesystem::path checkpoint = {};
  bool resume = false;
  /** How it is called in the lens. */
  std::string model = {};
  std::function<void(size_t prompt, float change)> on_prompt = {};
  /** Asked after each prompt; true ends the fit, which keeps what it has. */
  std::function<bool()> stop = {};
  Progress progress = {};
};

/** A fit, and how it converged. */
struct JacobianFit {
  JacobianLens lens;
  std::vector<float> changes;  ///< With each prompt from the second on.
};

/**
 * Exact, one prompt after the other: a forward pass, then all d_model rows of
 * cotangents at once, layer by layer down. `prompts` are token ids; each has
 * skip + 2 at least. The same prompts in the same order give the same lens
 * whether or not the fit was ended in between. Of a prompt too long for the
 * model nothing is cut. Evaluates. Throws usage, out_of_range.
 */
JacobianFit fit_jacobian_lens(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const JacobianOptions& options = {});

/** A text as prompts of `length` tokens, one behind the other, each begun as
 * the tokenizer begins a text; a rest of `least` tokens or more is one too.
 * Throws usage where there is none. */
Inputs::Rows lens_prompts(
    const InterpretableModel& model,
    std::string_view text,
    int length = 128,
    int least = 18);

/** Prompts that lie in a JSON file as a list of lists of token ids. Throws
 * bad_data where it is something else; environment. */
Inputs::Rows read_id_rows(const std::filesystem::path& path);

/** Vectors of some tokens in some layers. A value. */
struct LensDirections {
  std::vector<int> layers;                   ///< Ascending.
  std::vector<int> tokens;                   ///< Ids.
  std::vector<mlx::core::array> directions;  ///< [token, d_model] of each.
  JacobianSource source = {};

  /** Those of these tokens, [n, d_model] float32. Lazy. Throws out_of_range
   * where the layer is missing, usage where a token is, with those there are.
   */
  mlx::core::array at(const std::vector<int>& tokens, int layer) const;
  /** As JacobianLens::check_fits. */
  void check_fits(
      const InterpretableModel& model, bool any_model = false) const;

  /** Safetensors with directions.0, directions.1, ... in float32; tokens and
   * source as metadata. Whole or not at all. Throws usage, environment. */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
  /** Throws bad_data where it holds none, or of other shapes or not finite
   * ones; environment. Evaluates. */
  static LensDirections load(const std::filesystem::path& path);
  /** Whether a file holds directions, not a lens. Throws environment. */
  static bool is_file(const std::filesystem::path& path);
};

/** What JacobianLens::directions gives of a lens that would be fitted on these
 * prompts, exactly, without fitting one: as many rows walk down as there are
 * tokens. The last layer's are the rows of W_U. `tolerance` has no meaning
 * here: all prompts are read. Evaluates. Throws as the fit does, and
 * out_of_range for a token. */
LensDirections lens_directions(
    const InterpretableModel& model,
    const std::vector<int>& tokens,
    const Inputs::Rows& prompts,
    const JacobianOptions& options = {});

}  // namespace mlxterp
