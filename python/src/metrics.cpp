// Metrics, and the tasks that come with one.

#include "bind.h"
#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/tasks.h"

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

template <auto ids>
std::vector<std::vector<int>> ids_of(const Task& task) {
  std::vector<std::vector<int>> rows;
  for (const auto& pair : task.pairs)
    rows.push_back(pair.*ids);
  return rows;
}

Metric::Function function_of(nb::callable f) {
  return [held = hold(std::move(f))](const mx::array& logits) {
    nb::gil_scoped_acquire gil;
    return nb::cast<mx::array>((*held)(logits));
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
      .def("__repr__", [](const Metric& self) { return self.name; });
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
      "The token's logit less the foil's (Wang et al., 2022).");
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
      "From what the clean run says to what this one says, in nats.");
  m.def(
      "loss",
      &loss,
      "Mean cross-entropy of the prompt's own next tokens, in nats.");
  m.def(
      "custom",
      [](std::string name, nb::callable f) {
        return custom(std::move(name), function_of(std::move(f)));
      },
      nb::arg("name"),
      nb::arg("function"),
      "One's own: from logits [row, vocab], float32, at the metric's position "
      "to values [row].");
  m.def(
      "custom_of_run",
      [](std::string name, nb::callable f) {
        return custom_of_run(std::move(name), function_of(std::move(f)));
      },
      nb::arg("name"),
      nb::arg("function"),
      "One's own, of every position: from the logits of one run, [pos, vocab], "
      "float32, to one number. A sweep calls it once for each cell.");

  nb::class_<Task::Pair>(m, "TaskPair")
      .def_ro("clean", &Task::Pair::clean)
      .def_ro("corrupt", &Task::Pair::corrupt)
      .def_ro("clean_ids", &Task::Pair::clean_ids)
      .def_ro("corrupt_ids", &Task::Pair::corrupt_ids)
      .def_ro("answers", &Task::Pair::answers)
      .def_ro("foils", &Task::Pair::foils);
  nb::class_<Task>(m, "Task")
      .def_ro("name", &Task::name)
      .def_ro("pairs", &Task::pairs)
      .def_prop_ro("clean", ids_of<&Task::Pair::clean_ids>)
      .def_prop_ro("corrupt", ids_of<&Task::Pair::corrupt_ids>)
      .def_prop_ro("metric", &Task::metric);
  nb::class_<TaskScores>(m, "TaskScores")
      .def_ro("clean", &TaskScores::clean)
      .def_ro("corrupt", &TaskScores::corrupt)
      .def_ro("clean_mean", &TaskScores::clean_mean)
      .def_ro("corrupt_mean", &TaskScores::corrupt_mean)
      .def_ro("accuracy", &TaskScores::accuracy);
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
