// trace/stepper.h: a model's forward pass in parts, with all that its handle
// stands for.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "mlxterp/trace/model.h"
#include "trace/overlay.h"

namespace mlxterp {

/**
 * Embedding, layers and head, each through the handle's standing edits and
 * attached modules and then through the caller's own observer. A value of one
 * thread; `model` and `observer` outlive it. All of it is lazy.
 */
class Stepper {
 public:
  explicit Stepper(
      const InterpretableModel& model,
      Observer* observer = nullptr,
      PassRows rows = {});

  /** What travels beside the residual stream: embed and each layer put it here
   * and read it here. A stepper for one layer is given that of the last one,
   * with the rows that go on. */
  Carried& carried() { return carried_; }

  /** Token ids [batch, pos] to what enters layer 0, [batch, pos, d_model]. */
  mlx::core::array embed(const mlx::core::array& ids);

  /** One layer, of the rows of a batch, or of packed ones: then `last`, int32
   * [n], says which go on behind its attention. */
  mlx::core::array layer(int i, const mlx::core::array& x);
  mlx::core::array layer(
      int i,
      const mlx::core::array& x,
      std::shared_ptr<const nn::PackedBatch> packed,
      std::optional<mlx::core::array> last);

  /** [..., d_model] to logits [..., vocab], or of `tokens` alone where there
   * are some. */
  mlx::core::array head(
      const mlx::core::array& x, const std::vector<int>& tokens = {});

  /** Whether something stands between the residual stream and the logits. */
  static bool edits_head(const InterpretableModel& model);

 private:
  Pass pass();
  mlx::core::array through(int i, const mlx::core::array& x, Pass own);

  const Decoder& decoder_;
  const SiteCatalog& sites_;
  bool edits_head_ = false;
  Carried carried_;
  std::optional<Standing> standing_;
  Observer* observer_;
};

}  // namespace mlxterp
