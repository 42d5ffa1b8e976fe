// Metrics, and the tasks that come with one.

#include <fmt/format.h>

#include "bind.h"
#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/tasks.h"
#include "mlxterp/core/error.h"

namespace mlxterp::python {

namespace {

using PyToken = std::variant<int, std::string>;
using PyTokens = std::variant<int, std::string, std::vector<PyToken>>;

Token token_of(const PyToken& token) {
  if (const auto* text = std::get_if<std::string>(&token))
    return checked_text(*text);
  return std::get<int>(token);
}

Tokens tokens_of(const PyTokens& tokens) {
  if (const auto* each = std::get_if<std::vector<PyToken>>(&tokens)) {
    std::vector<Token> all;
    for (const auto& it : *each)
      all.push_back(token_of(it));
    return all;
  }
  if (const auto* id = std::get_if<int>(&tokens)) return *id;
  return checked_text(std::get<std::string>(tokens));
}

nb::tuple state_of(const Metric& self) {
  if (self.kind == Metric::Kind::custom)
    throw Error(
        ErrorKind::usage,
        "[metric] '" + self.name +
            "' is a function, which is not copied; make it again");
  const auto list = [](const Tokens& tokens) {
    std::vector<PyToken> all;
    for (const auto& token : tokens.each())
      all.push_back(token.value());
    return all;
  };
  return nb::make_tuple(
      static_cast<int>(self.kind),
      self.name,
      list(self.token),
      list(self.foil),
      self.position);
}

template <auto ids>
std::vector<std::vector<int>> ids_of(const Task& task) {
  std::vector<std::vector<int>> rows;
  for (const auto& pair : task.pairs)
    rows.push_back(pair.*ids);
  return rows;
}

// A number is taken for an array of one.
Metric::Function function_of(const std::string& name, nb::callable f) {
  return [name, held = hold(std::move(f))](const mx::array& logits) {
    nb::gil_scoped_acquire gil;
    const nb::object value = (*held)(logits);
    if (nb::isinstance<mx::array>(value)) return nb::cast<mx::array>(value);
    if (nb::isinstance<nb::float_>(value) || nb::isinstance<nb::int_>(value))
      return mx::array({nb::cast<float>(value)});
    throw Error(
        ErrorKind::usage,
        fmt::format(
            "[metric] '{}' returned {}; expected an mlx.core.array",
            name,
            nb::repr(value.type()).c_str()));
  };
}

}  // namespace

void bind_metrics(nb::module_& m) {
  nb::class_<Metric>(m, "Metric")
      .def_ro("name", &Metric::name)
      .def_prop_rw(
          "position",
          [](const Metric& self) { return self.position; },
          [](Metric& self, nb::handle value) {
            if (!nb::try_cast<int>(value, self.position))
              fail_field("Metric", "position", value);
          },
          nb::for_setter(nb::arg("value").none()))
      .def("__repr__", [](const Metric& self) { return self.name; })
      .def("__getstate__", &state_of)
      .def("__setstate__", [](Metric& self, const nb::tuple& state) {
        new (&self) Metric;
        self.kind = static_cast<Metric::Kind>(nb::cast<int>(state[0]));
        self.name = nb::cast<std::string>(state[1]);
        self.token = tokens_of(nb::cast<PyTokens>(state[2]));
        self.foil = tokens_of(nb::cast<PyTokens>(state[3]));
        self.position = nb::cast<int>(state[4]);
      });
  m.def(
      "logit",
      [](const PyTokens& token) { return logit(tokens_of(token)); },
      nb::arg("token"),
      "The token's logit.");
  m.def(
      "logit_diff",
      [](const PyTokens& token, const PyTokens& foil) {
        return logit_diff(tokens_of(token), tokens_of(foil));
      },
      nb::arg("token"),
      nb::arg("foil"),
      "The token's logit minus the foil's (Wang et al., 2022).");
  m.def(
      "probability",
      [](const PyTokens& token) { return probability(tokens_of(token)); },
      nb::arg("token"),
      "The token's probability, 0 to 1.");
  m.def(
      "log_probability",
      [](const PyTokens& token) { return log_probability(tokens_of(token)); },
      nb::arg("token"),
      "The natural logarithm of its probability.");
  m.def(
      "rank",
      [](const PyTokens& token) { return rank(tokens_of(token)); },
      nb::arg("token"),
      "How many tokens are ahead of it: 0 for the winner.");
  m.def(
      "kl_divergence",
      &kl_divergence,
      "From the clean run's prediction to this run's, in nats.");
  m.def(
      "loss",
      &loss,
      "Mean cross-entropy of the prompt's own next tokens, in nats.");
  m.def(
      "custom",
      [](std::string name, nb::callable f) {
        auto function = function_of(name, std::move(f));
        return custom(std::move(name), std::move(function));
      },
      nb::arg("name"),
      nb::arg("function"),
      "A custom metric: from logits [row, vocab], float32, at its position "
      "to values [row].");
  m.def(
      "custom_of_run",
      [](std::string name, nb::callable f) {
        auto function = function_of(name, std::move(f));
        return custom_of_run(std::move(name), std::move(function));
      },
      nb::arg("name"),
      nb::arg("function"),
      "A custom metric over all positions: from one run's logits [pos, vocab], "
      "float32, to one number. A sweep calls it once for each cell.");

  bind_result(
      m,
      "TaskPair",
      Member{"clean", &Task::Pair::clean},
      Member{"corrupt", &Task::Pair::corrupt},
      Member{"clean_ids", &Task::Pair::clean_ids},
      Member{"corrupt_ids", &Task::Pair::corrupt_ids},
      Member{"answers", &Task::Pair::answers},
      Member{"foils", &Task::Pair::foils});
  bind_result(
      m, "Task", Member{"name", &Task::name}, Member{"pairs", &Task::pairs})
      .def_prop_ro("clean", ids_of<&Task::Pair::clean_ids>)
      .def_prop_ro("corrupt", ids_of<&Task::Pair::corrupt_ids>)
      .def_prop_ro("metric", &Task::metric);
  bind_result(
      m,
      "TaskScores",
      Member{"clean", &TaskScores::clean},
      Member{"corrupt", &TaskScores::corrupt},
      Member{"clean_mean", &TaskScores::clean_mean},
      Member{"corrupt_mean", &TaskScores::corrupt_mean},
      Member{"accuracy", &TaskScores::accuracy});
  m.def("task_list", [] {
    std::vector<std::pair<std::string, std::string>> all;
    for (const auto& it : task_list())
      all.emplace_back(it.name, it.about);
    return all;
  });
  m.def(
      "make_task",
      [](const Model& model, std::string_view name, int pairs, uint64_t seed) {
        return make_task(model.model, name, {.pairs = pairs, .seed = seed});
      });
  m.def("score_task", [](const Model& model, const Task& task) {
    nb::gil_scoped_release no_gil;
    return score(model.model, task);
  });
}

}  // namespace mlxterp::python
