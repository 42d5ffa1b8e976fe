// Activation stores: writing and reading them.

#include "bind.h"
#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/spec/choice.h"

namespace mlxterp::python {

namespace {

std::string word_of(const StoredTensor& tensor) {
  for (const auto* word : {"float32", "float16", "bfloat16"})
    if (spec::parse_dtype(word) == tensor.dtype) return word;
  return "int";
}

template <typename Source, auto write>
auto stored(
    const Model& model,
    const Source& source,
    const std::vector<std::string>& sites,
    const std::string& folder,
    const Bound<StoreOptions>& options) {
  const auto own = options.value;
  checked_path(folder);
  nb::gil_scoped_release no_gil;
  return write(model.model, source, sites, folder, own);
}

}  // namespace

void bind_stores(nb::module_& m) {
  bind_options<StoreOptions>(
      m,
      "StoreOptions",
      {},
      {{"positions",
        worded(
            &StoreOptions::positions,
            "positions",
            spec::parse_positions,
            spec::name)},
       {"length", field(&StoreOptions::length)},
       {"batch_size", field(&StoreOptions::batch_size)},
       {"tokens", field(&StoreOptions::tokens)},
       {"shard_rows", field(&StoreOptions::shard_rows)},
       {"dtype", field(&StoreOptions::dtype)},
       {"resume", field(&StoreOptions::resume)},
       {"name", field(&StoreOptions::model)},
       {"edits", field(&StoreOptions::edits)}});
  m.def(
      "store_text_activations",
      [](const Model& model,
         const std::string& text,
         const std::vector<std::string>& sites,
         const std::string& folder,
         const Bound<StoreOptions>& options) {
        const std::filesystem::path path = checked_path(text);
        stored<std::filesystem::path, store_text_activations>(
            model, path, sites, folder, options);
      });
  m.def(
      "store_activations",
      [](const Model& model,
         const Ids& prompts,
         const std::vector<std::string>& sites,
         const std::string& folder,
         const Bound<StoreOptions>& options) {
        stored<Inputs, store_activations>(
            model, inputs_of(prompts), sites, folder, options);
      });

  nb::class_<ActivationStore>(m, "ActivationStore")
      .def_static(
          "open",
          [](const std::string& folder) {
            return ActivationStore::open(checked_path(folder));
          })
      .def_prop_ro("rows", &ActivationStore::rows)
      .def_prop_ro("manifest", &ActivationStore::manifest)
      .def_prop_ro(
          "tensors",
          [](const ActivationStore& self) {
            std::vector<std::tuple<std::string, std::vector<int>, std::string>>
                out;
            for (const auto& it : self.tensors())
              out.emplace_back(it.name, it.shape, word_of(it));
            return out;
          })
      .def(
          "read",
          &ActivationStore::read,
          nb::arg("tensor"),
          nb::arg("begin"),
          nb::arg("end"));
  nb::class_<ShuffledRows>(m, "ShuffledRows")
      .def(
          "__init__",
          [](ShuffledRows* self,
             const ActivationStore& store,
             const std::vector<std::string>& tensors,
             int batch_size,
             int64_t buffer_rows,
             uint64_t seed) {
            new (self) ShuffledRows(
                store,
                tensors,
                {.batch_size = batch_size,
                 .buffer_rows = buffer_rows,
                 .seed = seed});
          })
      .def("next", [](ShuffledRows& self) {
        std::optional<StoredRows> found;
        {
          nb::gil_scoped_release no_gil;
          found = self.next();
        }
        return found ? std::make_optional(
                           std::make_pair(found->rows, found->values))
                     : std::nullopt;
      });
}

}  // namespace mlxterp::python
