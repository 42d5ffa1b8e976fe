// Interventions: C++'s own, and functions written in Python.

#include <fmt/format.h>

#include <algorithm>

#include "bind.h"
#include "core/glob.h"
#include "mlxterp/core/error.h"
#include "trace/overlay.h"

namespace mlxterp::python {

namespace {

using Indices = std::variant<int, std::vector<int>>;

std::vector<int> list_of(const Indices& indices) {
  if (const int* one = std::get_if<int>(&indices)) return {*one};
  return std::get<1>(indices);
}

// Whether a function is to be told where it acts: whether it needs a second
// argument. One with a default (`lambda x, f=f: x * f`) is the user's own.
bool takes_view(nb::handle given) {
  nb::object f = nb::borrow(given);
  while (nb::hasattr(f, "__wrapped__"))
    f = f.attr("__wrapped__");
  if (nb::isinstance<Intervention>(f)) return true;
  if (std::string_view(Py_TYPE(f.ptr())->tp_name).ends_with("nb_func") &&
      nb::cast<std::string>(f.attr("__module__")) == "mlxterp._core")
    throw Error(
        ErrorKind::usage,
        fmt::format(
            "[trace] {0} makes an intervention: call it, as in {0}(...)",
            nb::cast<std::string>(f.attr("__name__"))));
  const auto inspect = nb::module_::import_("inspect");
  nb::object signature;
  try {
    signature = inspect.attr("signature")(f);
  } catch (nb::python_error& e) {
    if (e.matches(PyExc_ValueError) || e.matches(PyExc_TypeError)) return false;
    throw;
  }
  const nb::object kind = inspect.attr("Parameter");
  int needed = 0;
  for (nb::handle it : signature.attr("parameters").attr("values")()) {
    const nb::object its = it.attr("kind");
    needed += (its.equal(kind.attr("POSITIONAL_ONLY")) ||
               its.equal(kind.attr("POSITIONAL_OR_KEYWORD"))) &&
              it.attr("default").is(kind.attr("empty"));
  }
  return needed >= 2;
}

// A view of what a user gave without saying where it comes from: the axes of a
// value with four of them are those of q, k, v and z.
View seen(const mx::array& x) {
  View view;
  if (x.ndim() == 4) view.layout = Layout::heads;
  return view;
}

// An array; of numpy or a list, too.
mx::array array_of(nb::handle given, const char* what) {
  if (nb::isinstance<mx::array>(given)) return nb::cast<mx::array>(given);
  const auto array = nb::module_::import_("mlx.core").attr("array");
  try {
    if (!given.is_none() && !nb::isinstance<nb::str>(given))
      return nb::cast<mx::array>(array(given));
  } catch (const nb::python_error&) {  // said below
  }
  throw Error(
      ErrorKind::usage,
      fmt::format(
          "[{}] an array or a number is needed, not {}",
          what,
          nb::repr(given.type()).c_str()));
}

// From the random state that mx.random.seed sets; C++ has one of its own.
Intervention noise_of_python(float std) {
  (void)noise(std);  // says what is wrong with it
  return [std](const mx::array& x, const SiteView& at) {
    uint64_t seed = 0;
    {
      nb::gil_scoped_acquire gil;
      const auto random = nb::module_::import_("mlx.core").attr("random");
      seed =
          nb::cast<uint64_t>(random.attr("randint")(0, 1 << 30).attr("item")());
    }
    return noise(std, seed)(x, at);
  };
}

Intervention with_list(
    Intervention (*select)(std::vector<int>, Intervention),
    const Indices& indices,
    const nb::callable& inner) {
  return select(list_of(indices), intervention_of(inner));
}

}  // namespace

View::View(const SiteView& at)
    : name(at.name),
      site(at.site),
      layout(at.layout),
      lengths(at.lengths.begin(), at.lengths.end()),
      offset(at.offset),
      step(at.step),
      batch(at.batch),
      packed(at.packed.begin(), at.packed.end()),
      positions(at.positions.begin(), at.positions.end()) {}

View::operator SiteView() const {
  return {
      .name = name,
      .site = site,
      .layout = layout,
      .lengths = lengths,
      .offset = offset,
      .step = step,
      .packed = packed,
      .positions = positions,
      .batch = batch};
}

Intervention intervention_of(const nb::callable& f) {
  if (nb::isinstance<Intervention>(f)) return nb::cast<Intervention>(f);
  return [held = hold(f), viewed = takes_view(f)](
             const mx::array& x, const SiteView& at) {
    nb::gil_scoped_acquire gil;
    const nb::object y = viewed ? (*held)(x, View(at)) : (*held)(x);
    if (!nb::isinstance<mx::array>(y))
      throw Error(
          ErrorKind::usage,
          fmt::format(
              "[trace] the intervention on site '{}' returned {}; expected an "
              "mlx.core.array",
              at.name,
              nb::repr(y.type()).c_str()));
    return nb::cast<mx::array>(y);
  };
}

std::vector<Edit> edits_of(const std::vector<PyEdit>& edits) {
  std::vector<Edit> all;
  for (const auto& [site, f] : edits)
    all.push_back({site, intervention_of(f)});
  return all;
}

void bind_interventions(nb::module_& m) {
  nb::enum_<Layout>(m, "Layout")
      .value("features", Layout::features)
      .value("heads", Layout::heads)
      .value("scores", Layout::scores)
      .value("other", Layout::other);
  nb::class_<View>(
      m,
      "SiteView",
      "Where an intervention is being applied. `lengths`: real positions of "
      "each row of the batch, behind which there is padding; none: no row has "
      "any. `offset`: the number of the first position, what a cache holds; "
      "`step`: of generation, 0 for the prompt.")
      .def(
          "__init__",
          [](View* self,
             std::string name,
             Layout layout,
             std::vector<int> lengths,
             SiteId site,
             int offset,
             int step) {
            new (self) View;
            self->name = std::move(name);
            self->site = site;
            self->layout = layout;
            self->lengths = std::move(lengths);
            self->offset = offset;
            self->step = step;
          },
          nb::arg("name") = "",
          nb::arg("layout") = Layout::features,
          nb::arg("lengths") = std::vector<int>{},
          nb::arg("site") = -1,
          nb::arg("offset") = 0,
          nb::arg("step") = 0)
      .def_ro("name", &View::name)
      .def_ro("site", &View::site)
      .def_ro("layout", &View::layout)
      .def_ro("lengths", &View::lengths)
      .def_ro("offset", &View::offset)
      .def_ro("step", &View::step);

  nb::class_<Intervention>(
      m,
      "Intervention",
      nb::is_weak_referenceable(),
      "A function from a site's value to its replacement, of the same shape "
      "and dtype. Made of any function of the value, or of the value and its "
      "SiteView. Called without a view, a value of four axes is taken for "
      "[batch, pos, head, d_head], any other for [batch, pos, ...].")
      .def(
          "__init__",
          [](Intervention* self, const nb::callable& f) {
            new (self) Intervention(intervention_of(f));
          },
          nb::arg("function"))
      .def(
          "__call__",
          [](const Intervention& self,
             const mx::array& x,
             const std::optional<View>& at) {
            const View view = at ? *at : seen(x);
            return self(x, view);
          },
          nb::arg("x"),
          nb::arg("at") = nb::none())
      // It never changes, so that it is its own copy.
      .def("__copy__", [](nb::object self) { return self; })
      .def("__deepcopy__", [](nb::object self, nb::handle) { return self; })
      .def("__reduce__", [](nb::handle) -> nb::object {
        throw Error(
            ErrorKind::usage,
            "[intervention] a function is not pickled; make it again, or keep "
            "its text for parse_intervention");
      });
  m.def(
      "apply_edit",
      [](const Intervention& edit, nb::handle value, const View& at) {
        const auto x = nb::cast<mx::array>(value);
        const auto y = apply_edit(edit, x, at);
        return y.id() == x.id() ? nb::borrow(value) : nb::cast(y);
      },
      nb::arg("edit"),
      nb::arg("value"),
      nb::arg("at"),
      "The edited value; itself where it is not changed. Raises UsageError "
      "where "
      "it is no array of the same shape and dtype.");

  m.def(
      "matching",
      [](std::string_view pattern, const std::vector<std::string>& names) {
        std::vector<size_t> found;
        const auto forms = expand_braces(pattern);
        for (size_t i = 0; i < names.size(); ++i)
          if (std::ranges::any_of(forms, [&](const auto& form) {
                return form == names[i] || glob_matches(form, names[i]);
              }))
            found.push_back(i);
        return found;
      },
      nb::arg("pattern"),
      nb::arg("names"),
      "Which of the names a pattern describes: `*` is any run of characters "
      "but "
      "dots, `{3..7}` and `{a,b}` are choices.");

  m.attr("zero_out") = zero_out();
  m.def("scale", &scale, nb::arg("factor"), "x * factor.");
  m.def(
      "add_vector",
      [](nb::handle vector) {
        return add_vector(array_of(vector, "add_vector"));
      },
      nb::arg("vector").none(),
      "x + vector, cast to the site's dtype: [feature], or what else "
      "broadcasts to the site's shape.");
  m.def(
      "replace_with",
      [](nb::handle value) {
        if (nb::isinstance<nb::float_>(value) ||
            nb::isinstance<nb::int_>(value))
          return replace_with(nb::cast<float>(value));
        return replace_with(array_of(value, "replace_with"));
      },
      nb::arg("value").none(),
      "A number everywhere; or an array of the site's shape, or with 1 in "
      "place of the batch, cast to its dtype.");
  m.def(
      "clamp",
      &clamp,
      nb::arg("min_val") = nb::none(),
      nb::arg("max_val") = nb::none(),
      "Clipped to the bounds given, at least one.");
  m.def(
      "noise",
      [](float std, std::optional<uint64_t> seed) {
        return seed ? noise(std, seed) : noise_of_python(std);
      },
      nb::arg("std") = 0.1f,
      nb::arg("seed") = nb::none(),
      "x plus Gaussian noise of that standard deviation. With a seed each "
      "position of each site gets its own, the same in every run and for every "
      "prompt of a batch; without, MLX's random state is used.");
  m.def(
      "compose",
      [](const std::vector<nb::callable>& steps) {
        std::vector<Intervention> all;
        for (const auto& step : steps)
          all.push_back(intervention_of(step));
        return compose(std::move(all));
      },
      nb::arg("steps"),
      "Applied one after the other, in this order.");
  m.def(
      "at_positions",
      [](const Indices& positions, const nb::callable& inner) {
        return with_list(&at_positions, positions, inner);
      },
      nb::arg("positions"),
      nb::arg("inner"),
      "`inner` at some positions only; it sees just these. Negative ones count "
      "from each row's own last real one; while text is generated, from the "
      "end "
      "of the prompt. On scores and pattern a position is a destination.");
  m.def(
      "on_prompts",
      [](const Indices& prompts, const nb::callable& inner) {
        return with_list(&on_prompts, prompts, inner);
      },
      nb::arg("prompts"),
      nb::arg("inner"),
      "`inner` on some prompts of a batch only. Negative ones count from the "
      "last.");
  m.def(
      "on_heads",
      [](const Indices& heads, const nb::callable& inner) {
        return with_list(&on_heads, heads, inner);
      },
      nb::arg("heads"),
      nb::arg("inner"),
      "`inner` on some heads only, of q, k, v, z, result, scores or pattern "
      "(of k and v: kv heads). Negative ones count from the end.");
  m.def(
      "on_neurons",
      [](const Indices& neurons, const nb::callable& inner) {
        return with_list(&on_neurons, neurons, inner);
      },
      nb::arg("neurons"),
      nb::arg("inner"),
      "`inner` on some entries of the last axis only. Negative ones count from "
      "the end.");
}

}  // namespace mlxterp::python
