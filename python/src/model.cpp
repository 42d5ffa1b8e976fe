// Models: loading, names, parameters, text.

#include <fmt/format.h>

#include "bind.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/hub.h"
#include "mlxterp/models/family.h"
#include "models/original_name.h"

namespace mlxterp::python {

namespace {

using Names = std::vector<std::pair<std::string, std::string>>;

// Children before parents, as a pass finishes them.
void add_modules(
    const nn::Module& module,
    const std::string& path,
    const OriginalNames& words,
    Names& names) {
  for (const auto& [name, child] : module.children())
    add_modules(*child, path.empty() ? name : path + "." + name, words, names);
  if (!path.empty()) names.emplace_back(path, words.of(path));
}

Model load(
    const std::string& path,
    std::optional<mx::Dtype> dtype,
    const std::optional<nb::callable>& progress,
    const std::optional<nb::callable>& warn,
    bool verify,
    const std::string& revision) {
  const auto told = progress_of(progress);
  const Warn warned = [&](std::string_view sentence) {
    nb::gil_scoped_acquire gil;
    if (warn) (*warn)(sentence);
  };
  nb::gil_scoped_release no_gil;
  const auto found = find_model(path, {.revision = revision, .progress = told});
  auto model = InterpretableModel::load(
      found.string(),
      {.dtype = dtype, .progress = told, .warn = warned, .verify = verify});
  const auto checkpoint = Checkpoint::open(found);
  const auto& family = family_of(checkpoint.config());
  Names names;
  add_modules(model.module(), "", OriginalNames(checkpoint, family), names);
  return {
      std::move(model), path, std::string(family.model_type), std::move(names)};
}

nb::bytes bytes_of(const std::string& text) {
  return nb::bytes(text.data(), text.size());
}

}  // namespace

Inputs inputs_of(const Ids& ids) {
  if (const auto* array = std::get_if<mx::array>(&ids)) return *array;
  if (const auto* texts = std::get_if<std::vector<std::string>>(&ids))
    return *texts;
  return std::get<0>(ids);
}

void bind_model(nb::module_& m) {
  nb::class_<Model>(m, "Model")
      .def_static(
          "load",
          &load,
          nb::arg("path"),
          nb::arg("dtype") = nb::none(),
          nb::arg("progress") = nb::none(),
          nb::arg("warn") = nb::none(),
          nb::arg("verify") = false,
          nb::arg("revision") = "main")
      .def_ro("path", &Model::path)
      .def_ro("model_type", &Model::model_type)
      .def_ro("modules", &Model::modules)
      .def_prop_ro(
          "paths",  // parents before their parts
          [](const Model& self) {
            std::vector<std::string> paths;
            for (const auto& [path, module] : self.model.named_modules())
              paths.push_back(path);
            return paths;
          })
      .def_prop_ro(
          "n_layers",
          [](const Model& self) { return self.model.layers().size(); })
      .def_prop_ro(
          "config",
          [](const Model& self) {
            const auto& c = self.model.decoder().config();
            nb::dict d;
            d["d_model"] = c.d_model;
            d["n_layers"] = c.n_layers;
            d["n_heads"] = c.n_heads;
            d["n_kv_heads"] = c.n_kv_heads;
            d["d_head"] = c.d_head;
            d["d_mlp"] = c.d_mlp;
            d["vocab"] = c.vocab;
            d["context"] = c.context;
            d["tied"] = c.tied;
            return d;
          })
      .def(
          "find",
          [](const Model& self, std::string_view name) {
            const auto& sites = self.model.sites();
            return sites[sites.find(name)].name;
          })
      .def(
          "match",
          [](const Model& self, std::string_view pattern) {
            const auto& sites = self.model.sites();
            std::vector<std::string> names;
            for (const auto site : sites.match(pattern))
              names.push_back(sites[site].name);
            return names;
          })
      .def(
          "sites",
          [](const Model& self) {
            const auto& sites = self.model.sites();
            std::vector<std::pair<std::string, std::vector<std::string>>> all;
            for (size_t i = 0; i < sites.size(); ++i) {
              const auto& site = sites[static_cast<SiteId>(i)];
              all.emplace_back(site.name, site.aliases);
            }
            return all;
          })
      .def(
          "parameters",
          [](const Model& self) {
            std::vector<std::pair<std::string, mx::array>> all;
            for (const auto& [path, value] : self.model.parameters())
              all.emplace_back(path, *value);
            return all;
          })
      .def(
          "update",
          [](Model& self,
             const std::vector<std::pair<std::string, mx::array>>& values) {
            // Python's own models are changed in place, too.
            auto& root = const_cast<nn::Module&>(self.model.module());
            std::map<std::string, mx::array*> known;
            for (const auto& [path, value] : root.mutable_parameters())
              known.emplace(path, value);
            for (const auto& [path, value] : values) {
              const auto found = known.find(path);
              if (found == known.end())
                throw Error(
                    ErrorKind::unknown_name,
                    fmt::format("[update] no parameter is called '{}'", path));
              const auto &old = found->second->shape(), &now = value.shape();
              if (old != now)
                throw Error(
                    ErrorKind::usage,
                    fmt::format(
                        "[update] '{}' is given as ({}), it is ({})",
                        path,
                        fmt::join(now.begin(), now.end(), ", "),
                        fmt::join(old.begin(), old.end(), ", ")));
            }
            for (const auto& [path, value] : values)
              *known.at(path) = value;
          })
      .def(
          "forward",
          [](const Model& self, const Ids& ids) {
            return self.model(inputs_of(ids));
          })
      .def(
          "call",
          [](const Model& self, const std::string& path, const mx::array& x) {
            for (const auto& [name, module] : self.model.named_modules())
              if (name == path) {
                Pass pass;
                return (*module)(x, pass);
              }
            throw Error(
                ErrorKind::unknown_name,
                "[call] no module is called '" + path + "'");
          })
      .def_prop_ro(
          "has_tokenizer",
          [](const Model& self) { return self.model.has_tokenizer(); })
      .def(
          "encode",
          [](const Model& self, nb::str text, bool special, bool parse) {
            return self.model.tokenizer().encode(
                text.c_str(), {.parse_special = parse, .add_special = special});
          },
          nb::arg("text"),
          nb::arg("add_special_tokens") = true,
          nb::arg("parse_special") = false)
      .def(
          "decode",
          [](const Model& self, const std::vector<int>& ids, bool special) {
            return bytes_of(self.model.tokenizer().decode(ids, special));
          },
          nb::arg("ids"),
          nb::arg("with_special") = true)
      .def(
          "labels",
          [](const Model& self, const std::vector<int>& ids) {
            return self.model.tokenizer().labels(ids);
          })
      .def(
          "single_token",
          [](const Model& self, std::string_view text) {
            return self.model.tokenizer().single_token(text);
          })
      .def_prop_ro(
          "vocab_size",
          [](const Model& self) { return self.model.tokenizer().vocab_size(); })
      .def_prop_ro(
          "bos", [](const Model& self) { return self.model.tokenizer().bos(); })
      .def_prop_ro("eos", [](const Model& self) {
        return self.model.tokenizer().eos();
      });
}

}  // namespace mlxterp::python
