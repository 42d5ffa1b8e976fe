// python/src/bind.h: what the files of the extension share.

#pragma once

#include <string>
#include <utility>

#include <nanobind/nanobind.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "mlx/array.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"
#include "values.h"

namespace mlxterp::python {

namespace nb = nanobind;
namespace mx = mlx::core;

/** A model and the words of its checkpoint. */
struct Model {
  InterpretableModel model;
  std::string path;        ///< What it was loaded from.
  std::string model_type;  ///< Of its config.json.
  /** Every module, children before parents, and what the checkpoint calls it.
   */
  std::vector<std::pair<std::string, std::string>> modules;
  /** Whether parameters have been set since, of all that share them. */
  std::shared_ptr<bool> updated = std::make_shared<bool>(false);
};

/** Rows of ids, an array as it is, or texts. */
using Ids = std::
    variant<std::vector<std::vector<int>>, mx::array, std::vector<std::string>>;
Inputs inputs_of(const Ids& ids);

/** A text for a model. Throws usage for half of a surrogate pair, which is no
 * character and has no bytes. */
const std::string& checked_text(const std::string& text);

/** A path as the system takes it. Throws usage where it is empty or holds a
 * zero byte, where the system would see its end. */
const std::string& checked_path(const std::string& path);

/** A Python function that C++ may copy, call and drop without the GIL. */
using Held = std::shared_ptr<nb::callable>;
Held hold(nb::callable f);

/** A SiteView that owns what it shows. */
struct View {
  std::string name;
  SiteId site = -1;
  Layout layout = Layout::features;
  std::vector<int> lengths;
  int offset = 0, step = 0, batch = 0;
  std::vector<PackedRows> packed;
  std::vector<int> positions;

  View() = default;
  explicit View(const SiteView& at);
  operator SiteView() const;  // NOLINT(google-explicit-constructor)
};

/** An Intervention of C++'s as it is, a Python function as one. */
Intervention intervention_of(const nb::callable& f);

/** Site or pattern, and an intervention or function. */
using PyEdit = std::pair<std::string, nb::callable>;
std::vector<Edit> edits_of(const std::vector<PyEdit>& edits);

/** Raises what a signal meant, KeyboardInterrupt; on other threads nothing. */
void check_signals();

/** Calls `f(what, done)`, or only checks signals. */
Progress progress_of(const std::optional<nb::callable>& f);

/** A member of a result and its name in Python; without one it is pickled
 * alone. */
template <typename T, typename M>
struct Member {
  const char* name;
  M T::*at;

  /** As it is pickled: an enumeration as its number. */
  nb::object stored(const T& self) const {
    if constexpr (std::is_enum_v<M>)
      return nb::int_(static_cast<int>(self.*at));
    else
      return nb::cast(self.*at);
  }
  void restore(T& self, nb::handle value) const {
    if constexpr (std::is_enum_v<M>)
      self.*at = static_cast<M>(nb::cast<int>(value));
    else
      self.*at = nb::cast<M>(value);
  }
};
template <typename T, typename M>
Member(const char*, M T::*) -> Member<T, M>;

/** A value of these members, which Python reads, pickles, copies and shows.
 * Of an enumeration the caller defines what is read. */
template <typename T, typename... M>
nb::class_<T> bind_result(
    nb::module_& m, const char* name, Member<T, M>... members) {
  nb::class_<T> bound(m, name);
  const auto read = [&](const auto& member) {
    using Value = std::decay_t<decltype(std::declval<T&>().*member.at)>;
    if constexpr (!std::is_enum_v<Value>)
      if (*member.name) bound.def_ro(member.name, member.at);
  };
  (read(members), ...);
  bound
      .def(
          "__getstate__",
          [members...](const T& self) {
            return nb::make_tuple(members.stored(self)...);
          })
      .def(
          "__setstate__",
          [members...](T& self, const nb::tuple& state) {
            new (&self) T{};
            size_t i = 0;
            (members.restore(self, state[i++]), ...);
          })
      .def("__repr__", [name, members...](nb::handle self) {
        nb::list shown;
        const auto show = [&](const char* member) {
          if (!*member) return;
          shown.append(
              nb::str("{}={!r:.60}").format(member, self.attr(member)));
        };
        (show(members.name), ...);
        return nb::str("{}({})").format(
            name, nb::str(", ").attr("join")(shown));
      });
  return bound;
}

/** A field of an option struct: how Python sets it, and reads it if it can. */
template <typename Options>
struct Field {
  std::function<void(Options&, nb::handle)> set;
  std::function<nb::object(const Options&)> get = {};
};
template <typename Options>
using Fields = std::map<std::string, Field<Options>>;

template <typename T>
constexpr bool is_list = false;
template <typename T>
constexpr bool is_list<std::vector<T>> = true;

/** Of a list, one value stands for a list of it. */
template <typename Options, typename T>
Field<Options> field(T Options::*member) {
  return {
      [member](Options& self, nb::handle value) {
        if constexpr (is_list<T>)
          if (typename T::value_type one;
              !nb::isinstance<nb::list>(value) && nb::try_cast(value, one)) {
            self.*member = {one};
            return;
          }
        self.*member = nb::cast<T>(value);
      },
      [member](const Options& self) { return nb::cast(self.*member); }};
}

/** A field whose values are words, which `parse` reads and `word` writes. */
template <typename Options, typename T, typename Parse, typename Word>
Field<Options> worded_by(
    T Options::*member, const char* name, Parse parse, Word word) {
  return {
      [member, name, parse](Options& self, nb::handle value) {
        self.*member = parse(nb::cast<std::string>(value), name);
      },
      [member, word](const Options& self) {
        return nb::cast(word(self.*member));
      }};
}

/** The same with the one of several functions of a name that takes T. */
template <typename Options, typename T, typename Parse>
Field<Options> worded(
    T Options::*member, const char* name, Parse parse, const char* (*word)(T)) {
  return worded_by(member, name, parse, word);
}

/** A field of prompts: texts, rows of ids or an array. */
template <typename Options, typename T>
Field<Options> prompts(T Options::*member) {
  return {[member](Options& self, nb::handle value) {
    self.*member = inputs_of(nb::cast<Ids>(value));
  }};
}

/** A field of edits: pairs of a site and what acts there. */
template <typename Options>
Field<Options> edits(std::vector<Edit> Options::*member) {
  return {[member](Options& self, nb::handle value) {
    self.*member = edits_of(nb::cast<std::vector<PyEdit>>(value));
  }};
}

/** For prompts that are yet to be given; refused by every analysis. */
inline const Inputs no_prompts = Inputs::Rows{};

[[noreturn]] void fail_field(
    const char* options, const std::string& field, nb::handle value);

/** What Python asks of every option struct. */
struct AnyOptions {
  virtual ~AnyOptions() = default;
  virtual nb::object get(const std::string& field) const = 0;
  virtual std::vector<std::string> names() const = 0;
};

/** An option struct with its fields. */
template <typename Options>
struct Bound : AnyOptions {
  Options value;
  std::shared_ptr<const Fields<Options>> fields;

  Bound(Options initial, std::shared_ptr<const Fields<Options>> known)
      : value(std::move(initial)), fields(std::move(known)) {}

  nb::object get(const std::string& field) const override {
    const auto found = fields->find(field);
    if (found == fields->end() || !found->second.get)
      throw nb::attribute_error(field.c_str());
    return found->second.get(value);
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, field] : *fields)
      all.push_back(name);
    return all;
  }
};

/** An option struct, made by the names of its fields: `PatchOptions(site="z")`.
 * `progress` is a function of what is being done and how much of it is; Ctrl-C
 * ends the work with or without one. */
template <typename Options>
void bind_options(
    nb::module_& m,
    const char* name,
    const Options& initial,
    Fields<Options> fields) {
  if constexpr (requires { initial.progress; })
    fields["progress"].set = [](Options& self, nb::handle f) {
      self.progress = progress_of(nb::cast<std::optional<nb::callable>>(f));
    };
  const auto known = std::make_shared<const Fields<Options>>(std::move(fields));
  nb::class_<Bound<Options>, AnyOptions>(m, name).def(
      "__init__",
      [name, initial, known](Bound<Options>* self, const nb::kwargs& given) {
        auto made = initial;
        if constexpr (requires { made.progress; })
          made.progress = progress_of({});
        for (const auto& [key, value] : given) {
          const auto field = nb::cast<std::string>(key);
          const auto found = known->find(field);
          if (found == known->end()) fail_field(name, field, {});
          try {
            found->second.set(made, value);
          } catch (const nb::cast_error&) {
            fail_field(name, field, value);
          }
        }
        new (self) Bound<Options>(std::move(made), known);
      });
}

/** An analysis that is a function of a model and its options. */
template <typename Options, auto analysis>
auto run(const Model& model, const Bound<Options>& options) {
  const Options own = options.value;
  nb::gil_scoped_release no_gil;
  return analysis(model.model, own);
}

void bind_attach(nb::class_<Model>& model);
void bind_blas(nb::module_& m);
void bind_chat(nb::module_& m);
void bind_generate(nb::module_& m);
void bind_errors(nb::module_& m);
void bind_interventions(nb::module_& m);
void bind_model(nb::module_& m);
void bind_engine(nb::class_<Model>& model);
void bind_pass(nb::module_& m);
void bind_metrics(nb::module_& m);
void bind_sweeps(nb::module_& m);
void bind_readings(nb::module_& m);
void bind_stores(nb::module_& m);
void bind_sae_training(nb::module_& m);
void bind_probes(nb::module_& m);
void bind_features(nb::module_& m);
void bind_specs(nb::module_& m);
void bind_steering(nb::module_& m);
void bind_reports(nb::module_& m);

}  // namespace mlxterp::python
