// Models: loading, names, parameters, text.

#include <fmt/format.h>

#include <locale>
#include <sstream>

#include "bind.h"
#include "core/fail.h"
#include "core/utf8.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "mlxterp/analysis/verify.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/hub.h"
#include "mlxterp/models/family.h"
#include "mlxterp/report/names.h"
#include "models/original_name.h"
#include "weights.h"

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
    std::optional<bool> packed,
    bool half,
    const std::optional<nb::callable>& progress,
    const std::optional<nb::callable>& warn,
    bool verify,
    const std::string& revision) {
  const auto told = progress_of(progress);
  const Warn warned = [&](std::string_view sentence) {
    nb::gil_scoped_acquire gil;
    if (warn) (*warn)(sentence);
  };
  checked_path(path);
  nb::gil_scoped_release no_gil;
  const auto found = find_model(path, {.revision = revision, .progress = told});
  auto model = InterpretableModel::load(
      found.string(),
      {.dtype = dtype,
       .packed = packed,
       .half = half,
       .progress = told,
       .warn = warned});
  if (verify) {
    VerifyOptions options;
    options.progress = told;
    require_verified(model, options);
  }
  const auto checkpoint = Checkpoint::open(found);
  const auto family = family_of(checkpoint.config());
  Names names;
  add_modules(model.module(), "", OriginalNames(checkpoint, family), names);
  return {
      std::move(model), path, std::string(family.model_type), std::move(names)};
}

std::string shown(const mx::array& x) {
  std::ostringstream dtype;
  dtype.imbue(std::locale::classic());
  dtype << x.dtype();
  return fmt::format(
      "{} ({})",
      dtype.str(),
      fmt::join(x.shape().begin(), x.shape().end(), ", "));
}

// Evaluates them all at once; not where they are only being traced.
void check_finite(
    const std::vector<std::pair<std::string, mx::array>>& values) {
  std::vector<std::pair<std::string, mx::array>> finite;
  std::vector<mx::array> all;
  for (const auto& [path, value] : values)
    if (!value.is_tracer())
      all.push_back(
          finite.emplace_back(path, mx::all(mx::isfinite(value))).second);
  {
    nb::gil_scoped_release no_gil;
    mx::eval(all);
  }
  for (auto& [path, yes] : finite)
    if (!yes.item<bool>())
      throw Error(
          ErrorKind::usage,
          fmt::format(
              "[update] '{}' is given values that are NaN or infinite; nothing "
              "was updated",
              path));
}

// What mlxterp 0.1 calls every module's output, in the order of the pass, and
// the site it means: behind `model.` what mlx-lm calls the module, which is
// what the checkpoint does.
Names keys_of(const Model& self) {
  const auto& sites = self.model.sites();
  const auto parent = [](const std::string& path) {
    const auto dot = path.rfind('.');
    return dot == path.npos ? std::string() : path.substr(0, dot);
  };
  const auto site = [&](const std::string& name) {
    return sites[sites.find(name)].name;
  };
  Names keys;
  for (const auto& [path, words] : self.modules) {
    if (path == "unembed" && self.model.decoder().config().tied) continue;
    if (path.ends_with(".attn.o_proj"))
      keys.emplace_back(
          "model." + parent(words) + ".rope", parent(path) + ".rope");
    keys.emplace_back("model." + words, site(path + ".output"));
    if (path.ends_with(".attn"))
      keys.emplace_back(
          "model." + words + ".attention_weights", site(path + ".pattern"));
    // The inner model of mlx-lm, everything but the unembedding.
    if (path == "ln_final" && !parent(words).empty())
      keys.emplace_back("model." + parent(words), site(path + ".output"));
  }
  return keys;
}

const char* name_of(nn::Activation activation) {
  switch (activation) {
    case nn::Activation::silu:
      return "silu";
    case nn::Activation::gelu:
      return "gelu";
    case nn::Activation::gelu_tanh:
      return "gelu_new";
    case nn::Activation::relu:
      return "relu";
    case nn::Activation::relu_squared:
      return "relu2";
    case nn::Activation::xielu:
      return "xielu";
  }
  return "";
}

nb::bytes bytes_of(const std::string& text) {
  return nb::bytes(text.data(), text.size());
}

}  // namespace

const std::string& checked_text(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(std::string_view(text).substr(i));
    if (length == 0)
      throw Error(
          ErrorKind::usage,
          fmt::format(
              "[text] '{}' holds half of a surrogate pair after {} bytes of "
              "UTF-8; it is no character, take it out",
              printable(text, 60),
              i));
    i += length;
  }
  return text;
}

const std::string& checked_path(const std::string& path) {
  const auto half = [&](size_t i) {  // of a surrogate pair, U+D800 to U+DFFF
    return i + 1 < path.size() && path[i] == '\xed' &&
           static_cast<unsigned char>(path[i + 1]) >= 0xa0;
  };
  bool wrong = path.empty() || path.find('\0') != path.npos;
  for (size_t i = 0; i < path.size() && !wrong; ++i)
    wrong = half(i);
  if (wrong)
    throw Error(
        ErrorKind::usage,
        fmt::format(
            "[path] '{}' names no file: it is empty, or holds a zero byte or "
            "half "
            "of a surrogate pair",
            printable(path, 60)));
  return path;
}

Inputs inputs_of(const Ids& ids) {
  if (const auto* array = std::get_if<mx::array>(&ids)) return *array;
  if (const auto* texts = std::get_if<std::vector<std::string>>(&ids)) {
    for (const auto& text : *texts)
      checked_text(text);
    return *texts;
  }
  return std::get<0>(ids);
}

void bind_model(nb::module_& m) {
  m.def(
      "renamed",
      [](std::string_view model_type, std::string path) {
        for (const auto& family : families())
          if (family.model_type == model_type)
            return rename(std::move(path), family.renames);
        return path;
      },
      nb::arg("model_type"),
      nb::arg("path"),
      "A dotted path of a checkpoint as the native engine has it; itself of a "
      "model_type that is not known.");

  nb::class_<Model> model(m, "Model");
  bind_attach(model);
  bind_engine(model);
  bind_weights(m, model);
  model
      .def_static(
          "load",
          &load,
          nb::arg("path"),
          nb::arg("dtype") = nb::none(),
          nb::arg("packed") = nb::none(),
          nb::arg("half") = false,
          nb::arg("progress") = nb::none(),
          nb::arg("warn") = nb::none(),
          nb::arg("verify") = false,
          nb::arg("revision") = "main")
      .def_ro("path", &Model::path)
      .def_ro("model_type", &Model::model_type)
      .def_ro("modules", &Model::modules)
      .def_prop_ro("updated", [](const Model& self) { return *self.updated; })
      .def_prop_ro("keys", &keys_of)
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
          "lens_names",  // of the sites that TransformerLens has names for
          [](const Model& self) {
            const auto& sites = self.model.sites();
            std::vector<std::pair<std::string, std::string>> all;
            for (SiteId i = 0; i < static_cast<SiteId>(sites.size()); ++i)
              if (auto name = sites.lens_name(i); !name.empty())
                all.emplace_back(std::move(name), sites[i].name);
            return all;
          })
      .def_prop_ro(
          "config",
          [](const Model& self) {
            const auto& c = self.model.decoder().config();
            nb::dict d;
            d["d_model"] = c.d_model;
            d["n_layers"] = c.n_layers;
            d["n_heads"] = c.n_heads;
            // One number of all layers, or None.
            const auto one = [](int all, const std::vector<int>& of_layers) {
              for (const int own : of_layers)
                if (own != of_layers[0]) return nb::object(nb::none());
              return nb::cast(of_layers.empty() ? all : of_layers[0]);
            };
            d["n_kv_heads"] = one(c.n_kv_heads, c.kv_heads);
            d["d_head"] = one(c.d_head, c.d_heads);
            d["d_mlp"] = one(c.d_mlp, c.d_mlps);
            d["vocab"] = c.vocab;
            d["context"] = c.context;
            d["tied"] = c.tied;
            d["norm"] =
                c.norm.kind == nn::NormConfig::Kind::layer ? "LN" : "RMS";
            d["norm_eps"] = c.norm.eps;
            d["activation"] = name_of(c.activation);
            d["gated"] = c.gated;
            d["parallel"] = c.parallel;
            d["rotary_dims"] = c.rope.dims;
            d["positions"] = c.positions;
            d["alibi"] = !c.alibi.slopes.empty();
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
              const auto &old = *found->second, &now = value;
              if (old.shape() != now.shape() || old.dtype() != now.dtype())
                throw Error(
                    ErrorKind::usage,
                    fmt::format(
                        "[update] '{}' is given as {}, it is {}; cast it with "
                        "astype where only the type differs",
                        path,
                        shown(now),
                        shown(old)));
            }
            check_finite(values);
            for (const auto& [path, value] : values)
              *known.at(path) = value;
            *self.updated = *self.updated || !values.empty();
          })
      .def(
          "edited",  // the same modules, with edits that stand
          [](const Model& self, const std::vector<PyEdit>& edits) {
            return Model{
                self.model.with(edits_of(edits)),
                self.path,
                self.model_type,
                self.modules,
                self.updated};
          },
          nb::arg("edits"))
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
                // Modules hold indices against what they pick from where they
                // see them.
                if (mx::issubdtype(x.dtype(), mx::integer) && !x.is_tracer())
                  mx::eval(x);
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
          [](const Model& self,
             const std::string& text,
             bool special,
             bool parse) {
            return self.model.tokenizer().encode(
                checked_text(text),
                {.parse_special = parse, .add_special = special});
          },
          nb::arg("text"),
          nb::arg("add_special_tokens") = true,
          nb::arg("parse_special") = true)
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
            return report::labels(self.model, ids);
          })
      .def(
          "single_token",
          [](const Model& self, const std::string& text) {
            return self.model.tokenizer().single_token(checked_text(text));
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
