// mlxterp/trace/intervention.h: edits of values inside a forward pass.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/nn/module.h"

namespace mlxterp {

/** A stretch of one sequence among the rows of a value. */
struct PackedRows {
  int row = 0;     ///< Where they lie.
  int length = 0;  ///< How many.
  int first = 0;   ///< The position of the first.
  int total = 0;   ///< Positions of the whole sequence.
  /** While text is generated: positions of its prompt, from whose end negative
   * positions count, and which prompt it is. -1: nothing is generated. */
  int prompt = -1;
  int index = 0;
};

/** Where an intervention is being applied. */
struct SiteView {
  std::string_view name;
  SiteId site = -1;
  Layout layout = Layout::features;
  /** Real positions of each row; what lies behind them is padding. */
  std::span<const int> lengths = {};
  /** The number of the first position: what a cache holds already. Positions
   * count from the beginning of the prompt, with a cache and without. */
  int offset = 0;
  /** Of generation; 0: the prompt. */
  int step = 0;
  /** Where given, the value is [1, row, ...], rows of several sequences, and
   * only an intervention that takes positions one by one is called (see
   * Intervention::Reach); others see one sequence at a time. Of scores, they
   * are destinations of one sequence. */
  std::span<const PackedRows> packed = {};
  /** Where a selector took some: the position of each, [row of the batch,
   * count]; empty: they follow each other. */
  std::span<const int> positions = {};
  /** How many prompts are generated from. */
  int batch = 0;
};

/** When something acts while text is generated: steps from `first` to `last`,
 * both counted. Step 0 is the prompt, all of it; step k is the position whose
 * input is the k-th generated token, since the last position of the prompt
 * still belongs to the prompt. */
struct When {
  static constexpr int always = 0x7FFFFFFF;
  int first = 0;
  int last = always;

  static constexpr When prompt() { return {0, 0}; }
  static constexpr When generated() { return {1, always}; }
  static constexpr When all() { return {0, always}; }
  static constexpr When step(int k) { return {k, k}; }

  friend bool operator==(const When&, const When&) = default;
};

/**
 * A function from a site's value to its replacement, of the same shape and
 * dtype; anything else is an error at that site. Made from any callable
 * `array(array)` or `array(array, SiteView)`; an empty one throws usage. It
 * builds a lazy graph, once for each pass.
 */
class Intervention {
 public:
  /** What the new value of a position depends on. A sweep then knows how much
   * of a run it must compute again; a function of your own may look at
   * anything. */
  enum class Reach {
    value,     ///< On its old value alone.
    position,  ///< And on where it stands in its sequence.
    sequence,  ///< On anything in its sequence.
  };

  // NOLINTBEGIN(google-explicit-constructor): a plain lambda is one
  template <typename F>
  requires(
      !std::is_same_v<std::decay_t<F>, Intervention> &&
      (std::is_invocable_r_v<
           mlx::core::array,
           F&,
           const mlx::core::array&,
           const SiteView&> ||
       std::is_invocable_r_v<mlx::core::array, F&, const mlx::core::array&>))
      Intervention(F&& f, Reach reach = Reach::sequence)
      : reach_(reach) {
    if constexpr (requires(const std::decay_t<F>& g) { g == nullptr; })
      if (const std::decay_t<F>& g = f; g == nullptr) fail_empty();
    if constexpr (std::is_invocable_v<
                      F&,
                      const mlx::core::array&,
                      const SiteView&>)
      call_ = std::forward<F>(f);
    else
      call_ = [g = std::forward<F>(f)](
                  const mlx::core::array& x, const SiteView&) { return g(x); };
  }
  // NOLINTEND(google-explicit-constructor)

  mlx::core::array operator()(
      const mlx::core::array& x, const SiteView& at) const {
    return call_(x, at);
  }

  Reach reach() const { return reach_; }

  /** The same of an intervention and its copies, and of no other. */
  const std::shared_ptr<const void>& identity() const { return identity_; }

 private:
  [[noreturn]] static void fail_empty();

  std::function<mlx::core::array(const mlx::core::array&, const SiteView&)>
      call_;
  Reach reach_ = Reach::sequence;
  std::shared_ptr<const void> identity_ = std::make_shared<char>();
};

/** An intervention and the site, or pattern of sites, it acts on. Several on
 * one site act in the order they are declared. */
struct Edit {
  std::string site;
  Intervention apply;
};

/** Zeros. */
Intervention zero_out();

/** x * factor. */
Intervention scale(float factor);

/** x + vector, which broadcasts against the site: [feature], or the site's
 * whole shape. It is cast to the site's dtype. */
Intervention add_vector(mlx::core::array vector);

/** The value everywhere. */
Intervention replace_with(float value);

/** That array, cast to the site's dtype. It has the site's shape, or 1 in
 * place of the batch. */
Intervention replace_with(mlx::core::array value);

/** Clipped to the bounds given. */
Intervention clamp(std::optional<float> least, std::optional<float> most);

/** x (floats) plus Gaussian noise of that standard deviation. With a seed,
 * each position of each site gets its own, the same in every run and for every
 * prompt of a batch; without, MLX's global state is used. */
Intervention noise(float std = 0.1f, std::optional<uint64_t> seed = {});

/** Applied one after the other, in this order. */
Intervention compose(std::vector<Intervention> steps);

/**
 * `inner` on a part of the site only; it sees just that part, in the order
 * given, and the rest stays as it is. Negative indices count from the end, for
 * positions from each row's own last real one. With a cache, positions count
 * from the beginning of the prompt. While text is generated, negative ones
 * count from the end of the prompt, whatever has been generated since, and
 * larger ones than the prompt has are generated ones. On scores and pattern, a
 * position is a destination. Throws out_of_range, and usage where the site has
 * no such axis.
 */
Intervention at_positions(std::vector<int> positions, Intervention inner);
/** `inner` on some prompts of a batch, by their numbers; negative ones count
 * from the last. */
Intervention on_prompts(std::vector<int> prompts, Intervention inner);
/**
 * `inner` at some steps of generation only. Positions are the same with a cache
 * and without, alone and in a batch. Elsewhere a pass is a prompt: `inner` acts
 * if `when` has step 0, and else it throws usage, since it would never act.
 */
Intervention during(When when, Intervention inner);
/** Heads of q, k, v, z, result, scores or pattern (k and v: kv heads). */
Intervention on_heads(std::vector<int> heads, Intervention inner);
/** Entries of the last axis: neurons of mlp.post, features of a residual. */
Intervention on_neurons(std::vector<int> neurons, Intervention inner);

}  // namespace mlxterp
