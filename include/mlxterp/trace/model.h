// mlxterp/trace/model.h: InterpretableModel, where everything begins.

#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/generation_config.h"
#include "mlxterp/models/load.h"
#include "mlxterp/text/tokenizer.h"
#include "mlxterp/trace/attach.h"
#include "mlxterp/trace/proxy.h"
#include "mlxterp/trace/trace.h"

namespace mlxterp {

class Overlay;

/** What a model runs on: one prompt or several, as text or token ids. Several
 * run as one batch: shorter ones are padded after their end, which causal
 * attention never sees, so each row equals its single run. */
class Inputs {
 public:
  using Texts = std::vector<std::string>;
  using Rows = std::vector<std::vector<int>>;

  // NOLINTBEGIN(google-explicit-constructor): each of these is an input
  Inputs(const char* prompt) : Inputs(std::string(prompt)) {}
  Inputs(std::nullptr_t) = delete;
  Inputs(int) = delete;  // 0 would be a null pointer to text
  Inputs(std::string prompt) : value_(Texts{std::move(prompt)}) {}
  Inputs(Texts prompts) : value_(std::move(prompts)) {}
  Inputs(std::vector<int> ids) : value_(Rows{std::move(ids)}) {}
  Inputs(std::initializer_list<int> ids) : Inputs(std::vector<int>(ids)) {}
  Inputs(Rows ids) : value_(std::move(ids)) {}
  /** Ids [batch, pos], or whatever a module of your own takes; integers are
   * evaluated. */
  Inputs(mlx::core::array array) : value_(std::move(array)) {}
  // NOLINTEND(google-explicit-constructor)

 private:
  friend class InterpretableModel;
  std::variant<Texts, Rows, mlx::core::array> value_;
};

struct RunOptions {
  std::vector<std::string> save = {};  ///< Sites or patterns.
  std::vector<Edit> edits = {};        ///< In the order they act.
  /** If given, the prompts continue after the positions it holds, and it then
   * holds theirs too; if the run throws, it is unchanged. All prompts
   * have one length, so that none is padded. */
  nn::KvCache* cache = nullptr;
  /** Called now and then while the pass is evaluated on a CPU; what it throws
   * ends the run. */
  std::function<void()> between = {};
};

/**
 * A model whose every inner value has a name. A cheap handle on shared,
 * immutable state: copies are the same model, and all members may be called
 * from several threads at once.
 *
 *     const auto model = InterpretableModel::load("demo");
 *     Saved attn;
 *     {
 *       auto trace = model.trace("The Eiffel Tower is located in the city of");
 *       attn = model.layers()[3]["self_attn"].output().save();
 *     }
 *     attn.value().shape();  // (1, 10, 576)
 */
class InterpretableModel {
 public:
  /** `model`: a .gguf file, a Hugging Face folder or id (downloaded where it is
   * not in the cache, see io/hub.h), or "demo". Reads and checks every weight.
   * Throws Error. */
  static InterpretableModel load(
      const std::string& model, const LoadOptions& options = {});

  /** Any module tree. Its sites are numbered now: keep it unchanged, and make
   * none of its parts a part of another. */
  explicit InterpretableModel(
      std::shared_ptr<nn::Module> root,
      std::optional<Tokenizer> tokenizer = std::nullopt,
      std::span<const Rename> renames = {});

  /** The same model with standing edits, which every pass of the handle makes,
   * in traces and in every analysis. Edits and modules act in the order they
   * were added, before the edits of a pass. This handle stays as it is, and no
   * weights are copied. Throws unknown_name. */
  [[nodiscard]] InterpretableModel with(const std::vector<Edit>& edits) const;

  /** The same model with a module that runs at one of its sites, on the site's
   * value: an autoencoder, a probe, a transcoder. What the module declares
   * becomes sites of the new handle, `<site>.<name>.<site in the module>`, to
   * be read, edited and swept like all others. A module may be attached at
   * several sites, and a site may have several modules. Throws unknown_name,
   * and usage where the name is taken. */
  [[nodiscard]] InterpretableModel attach(
      std::string_view site,
      std::shared_ptr<nn::Module> module,
      const AttachOptions& options = {}) const;

  /** Starts a traced pass; see Trace. */
  [[nodiscard]] Trace trace(
      const Inputs& inputs, std::vector<Edit> edits = {}) const;

  /** One pass planned in full: makes the edits, evaluates what is to be saved
   * and nothing else. */
  ActivationCache run(const Inputs& inputs, const RunOptions& options) const;

  /** The plain forward, lazy: logits [batch, pos, vocab]. */
  mlx::core::array operator()(const Inputs& inputs) const;

  LayerListProxy layers() const;
  /** A module or site by any of its names. */
  ModuleProxy operator[](std::string_view path) const;
  /** The model's own output, the logits of a Decoder. */
  OutputProxy output() const;

  /** The token ids of each prompt, checked: in the vocabulary, not empty,
   * within the context. Throws usage, out_of_range. */
  Inputs::Rows token_ids(const Inputs& inputs) const;

  const SiteCatalog& sites() const { return *sites_; }
  /** The same, to be shared by what outlives the model. */
  const std::shared_ptr<const SiteCatalog>& shared_sites() const {
    return sites_;
  }
  /** Throws usage where the model came without one. */
  const Tokenizer& tokenizer() const;
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  /** How its makers sample from it; what came without a folder says nothing. */
  const GenerationConfig& generation_config() const;
  /** The Decoder inside. Throws usage where the module is another. */
  const Decoder& decoder() const;
  const nn::Module& module() const { return *root_; }
  const std::shared_ptr<const nn::Module>& shared_module() const {
    return root_;
  }
  /** What the handle adds to each pass, for those who run one by parts (see
   * src/trace/stepper.h); null: nothing. */
  const Overlay* overlay() const { return overlay_.get(); }

  std::vector<std::pair<std::string, const nn::Module*>> named_modules() const {
    return root_->named_modules();
  }
  std::vector<std::pair<std::string, const mlx::core::array*>> parameters()
      const {
    return root_->parameters();
  }

 private:
  /** Prompts made ready to run. */
  struct Batch {
    mlx::core::array ids;      // [batch, pos] int32
    std::vector<int> lengths;  // real positions of each row
  };

  Batch prepare(const Inputs& inputs) const;
  /** The root on a batch, with what stands and then `observer`. */
  mlx::core::array forward(
      const Batch& batch, Observer* observer, nn::KvCache* cache) const;

  std::shared_ptr<const nn::Module> root_;
  std::shared_ptr<const SiteCatalog> sites_;
  std::optional<Tokenizer> tokenizer_;
  std::shared_ptr<const GenerationConfig> generation_config_;  // may be null
  const Decoder* decoder_ = nullptr;  // root_, where it is one
  std::shared_ptr<const Overlay> overlay_;
};

}  // namespace mlxterp
