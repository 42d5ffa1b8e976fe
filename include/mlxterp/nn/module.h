// mlxterp/nn/module.h: the tree of modules, their parameters and their sites.

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/nn/matrix.h"
#include "mlxterp/nn/pass.h"

namespace mlxterp {

class SiteCatalog;

namespace nn {

/**
 * A part of a model. Derive from it, `add` what it consists of and write
 * `forward`: that is all it takes for its input and output, and those of every
 * part, to be sites that traces read and edit by path.
 *
 *     struct Block : nn::Module {
 *       nn::Linear attn, mlp;
 *       explicit Block(int d) : attn(d, d), mlp(d, d) {
 *         add("attn", attn);
 *         add("mlp", mlp);
 *       }
 *       mx::array forward(const mx::array& x, Pass& pass) const override {
 *         return x + mlp(attn(x, pass), pass);
 *       }
 *     };
 *
 * A parent refers to its parts where they lie, so modules are neither copied
 * nor moved. Running one is const and thread-safe.
 */
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /** The module's value on `x`. Builds a lazy graph; evaluates nothing. */
  virtual mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const = 0;

  /** `forward` with the module's input and output passed through their sites.
   */
  mlx::core::array operator()(const mlx::core::array& x, Pass& pass) const {
    if (!pass.observed()) return forward(x, pass);
    return tap_output(pass, forward(tap_input(pass, x), pass));
  }

  using Child = std::pair<std::string, Module*>;
  using Parameter = std::pair<std::string, mlx::core::array*>;

  /** The direct parts, in the order they were added. */
  const std::vector<Child>& children() const { return children_; }

  /** Every module below and including this one (whose path is ""), by dotted
   * path, parents first. */
  std::vector<std::pair<std::string, const Module*>> named_modules() const;

  /** Every parameter below, by dotted path. A shared module counts once. A
   * packed matrix `weight` is its words, with the other parts of Packed beside
   * it. */
  std::vector<std::pair<std::string, const mlx::core::array*>> parameters()
      const;

  /** The same, for loading and training. Never while a pass runs. */
  std::vector<Parameter> mutable_parameters();

  /** The matrices below, which may be packed, by dotted path. */
  std::vector<std::pair<std::string, const Matrix*>> matrices() const;
  std::vector<std::pair<std::string, Matrix*>> mutable_matrices();

  /** The sites of what it reads and returns; -1 where no catalog has numbered
   * them. */
  SiteId input_site() const { return first_site_; }
  SiteId output_site() const { return first_site_ < 0 ? -1 : first_site_ + 1; }

 protected:
  /** A site this module declares, counted from its own first one. */
  enum class Slot : int {};
  static constexpr Slot input_slot = Slot{0};  ///< Every module has it.

  /** Registers a part or a parameter; both must be members of this object (or
   * owned by one) and live as long as it does. `name` may hold dots. `stage`:
   * where in its layer the part stands, and what lies below it. */
  void add(std::string name, Module& child, Stage stage = Stage::outside);
  void add(std::string name, mlx::core::array& parameter);
  void add(std::string name, Matrix& matrix);

  /** Declares a site of its own beside input and output. */
  Slot site(std::string name, const SiteTraits& traits);
  Slot site(std::string name, Layout layout) {
    return site(std::move(name), SiteTraits{.layout = layout});
  }

  /** Gives a site below (`path`, relative to this module) a better name. */
  void alias(std::string name, std::string path);

  /** What the input and output of this module are; features where nothing
   * else is said. */
  void describe(const SiteTraits& input, const SiteTraits& output);

  mlx::core::array tap_input(Pass& pass, const mlx::core::array& x) const {
    return pass.tap(first_site_, x);
  }
  mlx::core::array tap_output(Pass& pass, mlx::core::array x) const {
    return pass.tap(output_site(), std::move(x));
  }
  SiteId id(Slot slot) const {
    return first_site_ < 0 ? -1 : first_site_ + static_cast<int>(slot);
  }
  mlx::core::array tap(Pass& pass, Slot slot, mlx::core::array x) const {
    return pass.tap(id(slot), std::move(x));
  }

  /** "layers.3.mlp.router_logits", for messages. */
  std::string site_name(Slot slot) const;

 private:
  friend class mlxterp::SiteCatalog;

  struct DeclaredSite {
    std::string name;
    SiteTraits traits;
  };

  // Those of a packed matrix in its place.
  std::vector<Parameter> own_parameters() const;

  std::vector<Child> children_;
  std::vector<Parameter> parameters_;
  std::vector<std::pair<std::string, Matrix*>> matrices_;
  std::vector<DeclaredSite> sites_ = {{"input", {}}, {"output", {}}};
  std::vector<std::pair<std::string, std::string>> aliases_;
  Stage stage_ = Stage::outside;  // as the parent says
  // Set once, by the SiteCatalog of the model.
  SiteId first_site_ = -1;
  std::string path_;
};

}  // namespace nn
}  // namespace mlxterp
