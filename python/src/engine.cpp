// A model that Python runs, as the library's analyses see it: a module whose
// sites are those of a pass of an engine (mlxterp/engine/base.py).

#include "bind.h"

namespace mlxterp::python {

namespace {

/** Name here, name in the engine, layout. */
using EngineSite = std::tuple<std::string, std::string, Layout>;

class EngineModule : public nn::Module {
 public:
  /** `run`: a function of ids [batch, pos] and of edits, pairs of a site and an
   * intervention, that gives the engine's Pass. */
  EngineModule(nb::callable run, const std::vector<EngineSite>& sites)
      : run_(hold(std::move(run))) {
    for (const auto& [name, own, layout] : sites)
      sites_.emplace_back(own, site(name, layout));
    alias("tokens", "input");
    alias("logits", "output");
  }

  mx::array forward(const mx::array& ids, Pass& pass) const override {
    nb::gil_scoped_acquire gil;
    nb::list edits;
    for (const auto& [own, slot] : sites_)
      if (pass.edits(id(slot)))
        edits.append(nb::make_tuple(
            own, Intervention([this, &pass, slot](const mx::array& x) {
              return tap(pass, slot, x);
            })));
    const nb::object ran = (*run_)(ids, edits);
    const auto value = hold(nb::cast<nb::callable>(ran.attr("value")));
    for (const auto& [own, slot] : sites_)
      if (!pass.edits(id(slot)))
        pass.offer(id(slot), [value, own] {
          nb::gil_scoped_acquire held;
          return nb::cast<mx::array>((*value)(own));
        });
    return nb::cast<mx::array>(ran.attr("output"));
  }

 private:
  Held run_;
  std::vector<std::pair<std::string, Slot>> sites_;
};

Tokenizer tokenizer_of(nb::callable encode, nb::callable decode, int size) {
  return Tokenizer::from_functions(
      {.encode =
           [held = hold(std::move(encode))](std::string_view text) {
             nb::gil_scoped_acquire gil;
             return nb::cast<std::vector<int>>((*held)(text));
           },
       .decode =
           [held = hold(std::move(decode))](std::span<const int> ids) {
             nb::gil_scoped_acquire gil;
             return nb::cast<std::string>(
                 (*held)(std::vector<int>(ids.begin(), ids.end())));
           },
       .vocab_size = size});
}

}  // namespace

void bind_engine(nb::class_<Model>& model) {
  model.def_static(
      "of_engine",
      [](nb::callable run,
         const std::vector<EngineSite>& sites,
         std::string path,
         const std::optional<nb::callable>& encode,
         const std::optional<nb::callable>& decode,
         int vocab_size) {
        std::optional<Tokenizer> tokenizer;
        if (encode && decode)
          tokenizer = tokenizer_of(*encode, *decode, vocab_size);
        return Model{
            InterpretableModel(
                std::make_shared<EngineModule>(std::move(run), sites),
                std::move(tokenizer)),
            std::move(path),
            "",
            {}};
      },
      nb::arg("run"),
      nb::arg("sites"),
      nb::arg("path"),
      nb::arg("encode") = nb::none(),
      nb::arg("decode") = nb::none(),
      nb::arg("vocab_size") = 0,
      "What an engine of Python's runs, for analyses by plain passes.");
}

}  // namespace mlxterp::python
