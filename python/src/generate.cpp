// Generated text.

#include <fmt/format.h>

#include "bind.h"
#include "mlxterp/core/error.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/spec/when.h"

namespace mlxterp::python {

namespace {

GenerateOptions options_of(
    const Model& model,
    int max_tokens,
    const SamplingChoice& choice,
    std::vector<uint64_t> seeds,
    std::vector<std::string> stop,
    bool ends,
    std::vector<int> end_ids,
    const std::vector<PyEdit>& edits,
    std::vector<std::string> save,
    std::vector<std::vector<int>> forced,
    bool cache,
    int chunk,
    int shared_prefix,
    std::optional<PromptCache> reuse) {
  GenerateOptions out;
  out.max_tokens = max_tokens;
  out.sampling = resolve(choice, model.model.generation_config()).sampling;
  out.seeds = std::move(seeds);
  for (const auto& text : stop)
    out.stop.push_back(checked_text(text));
  out.ends = ends;
  out.end_ids = std::move(end_ids);
  out.edits = edits_of(edits);
  out.save = std::move(save);
  out.forced = std::move(forced);
  out.cache = cache;
  out.chunk = chunk;
  out.shared_prefix = shared_prefix;
  out.reuse = std::move(reuse);
  out.between = [] {
    nb::gil_scoped_acquire gil;
    check_signals();
  };
  return out;
}

}  // namespace

void bind_generate(nb::module_& m) {
  nb::class_<When>(
      m,
      "When",
      "When an edit acts while text is generated: 'prompt', 'generated', "
      "'all', "
      "'step:3', 'steps:2..5'. Step 0 is the prompt, all of it; step k is the "
      "position whose input is the k-th generated token.")
      .def(
          "__init__",
          [](When* self, const std::string& text) {
            new (self) When(spec::parse_when(text));
          },
          nb::arg("text"))
      .def_ro("first", &When::first)
      .def_ro("last", &When::last)
      .def("__eq__", [](const When& a, const When& b) { return a == b; })
      .def("__repr__", [](const When& self) {
        return fmt::format("When('{}')", spec::text_of(self));
      });
  m.def(
      "during",
      [](const std::variant<When, std::string>& when, const nb::callable& f) {
        const auto* text = std::get_if<std::string>(&when);
        return during(
            text ? spec::parse_when(*text) : std::get<When>(when),
            intervention_of(f));
      },
      nb::arg("when"),
      nb::arg("intervention"),
      "The intervention at some steps of generation only: see When. Elsewhere "
      "a "
      "pass is a prompt.");

  nb::class_<GeneratedToken>(m, "GeneratedToken", "One that was generated.")
      .def_ro("id", &GeneratedToken::id)
      .def_ro(
          "log_prob",
          &GeneratedToken::log_prob,
          "Natural logarithm of its probability, before any filter of "
          "sampling.")
      .def("__repr__", [](const GeneratedToken& self) {
        return fmt::format(
            "GeneratedToken(id={}, log_prob={:.4f})", self.id, self.log_prob);
      });
  nb::class_<GeneratedText>(
      m,
      "GeneratedText",
      "What one prompt was continued with. `finish`: 'length', 'stop', "
      "'end_of_text' or 'unfinished'.")
      .def_ro("prompt", &GeneratedText::prompt)
      .def_ro("tokens", &GeneratedText::tokens)
      .def_prop_ro("ids", &GeneratedText::ids)
      .def_ro(
          "reused",
          &GeneratedText::reused,
          "Positions of the prompt that did not run again.")
      .def_prop_ro(
          "text",
          [](const GeneratedText& self) {
            return nb::steal<nb::str>(PyUnicode_DecodeUTF8(
                self.text.data(),
                static_cast<Py_ssize_t>(self.text.size()),
                "replace"));
          })
      .def_prop_ro(
          "finish",
          [](const GeneratedText& self) {
            return std::string(name_of(self.finish));
          })
      .def("__repr__", [](const nb::object& self) {
        return nb::str("GeneratedText({!r}, finish={!r})")
            .format(self.attr("text"), self.attr("finish"));
      });

  nb::class_<PromptCache>(
      m,
      "PromptCache",
      "Beginnings of prompts that earlier generations left and later ones need "
      "not run again; `most` are kept. A beginning is known by its tokens, the "
      "model's weights and the very interventions that were active. Python "
      "functions are new each time; mlxterp's own, kept in a variable, are "
      "not.")
      .def(nb::init<size_t>(), nb::arg("most") = 8)
      .def("__len__", &PromptCache::size)
      .def("clear", &PromptCache::clear);

  nb::class_<Generator>(m, "Generator")
      .def(
          "__init__",
          [](Generator* self,
             const Model& model,
             const Ids& prompts,
             int max_tokens,
             std::optional<float> temperature,
             std::optional<int> top_k,
             std::optional<float> top_p,
             std::optional<float> min_p,
             std::optional<float> repetition_penalty,
             std::optional<uint64_t> seed,
             std::vector<uint64_t> seeds,
             std::vector<std::string> stop,
             bool ends,
             std::vector<int> end_ids,
             const std::vector<PyEdit>& edits,
             std::vector<std::string> save,
             std::vector<std::vector<int>> forced,
             bool cache,
             int chunk,
             int shared_prefix,
             std::optional<PromptCache> reuse) {
            SamplingChoice choice;
            choice.temperature = temperature;
            choice.top_k = top_k;
            choice.top_p = top_p;
            choice.min_p = min_p;
            choice.repetition_penalty = repetition_penalty;
            choice.seed = seed;
            new (self) Generator(
                model.model,
                inputs_of(prompts),
                options_of(
                    model,
                    max_tokens,
                    choice,
                    std::move(seeds),
                    std::move(stop),
                    ends,
                    std::move(end_ids),
                    edits,
                    std::move(save),
                    std::move(forced),
                    cache,
                    chunk,
                    shared_prefix,
                    std::move(reuse)));
          },
          nb::arg("model"),
          nb::arg("prompts"),
          nb::arg("max_tokens") = 100,
          nb::arg("temperature") = nb::none(),
          nb::arg("top_k") = nb::none(),
          nb::arg("top_p") = nb::none(),
          nb::arg("min_p") = nb::none(),
          nb::arg("repetition_penalty") = nb::none(),
          nb::arg("seed") = nb::none(),
          nb::arg("seeds") = std::vector<uint64_t>{},
          nb::arg("stop") = std::vector<std::string>{},
          nb::arg("ends") = true,
          nb::arg("end_ids") = std::vector<int>{},
          nb::arg("edits") = std::vector<PyEdit>{},
          nb::arg("save") = std::vector<std::string>{},
          nb::arg("forced") = std::vector<std::vector<int>>{},
          nb::arg("cache") = true,
          nb::arg("chunk") = GenerateOptions{}.chunk,
          nb::arg("shared_prefix") = GenerateOptions{}.shared_prefix,
          nb::arg("reuse") = nb::none())
      .def(
          "step",
          &Generator::step,
          nb::call_guard<nb::gil_scoped_release>(),
          "Runs one step; False: every text has ended.")
      .def_prop_ro("steps", &Generator::steps)
      .def_prop_ro("texts", &Generator::texts, nb::rv_policy::copy)
      .def(
          "value",
          &Generator::value,
          nb::arg("site"),
          nb::call_guard<nb::gil_scoped_release>())
      .def(
          "saved",
          [](const Generator& self) {
            const auto all = [&] {
              nb::gil_scoped_release no_gil;
              return self.saved();
            }();
            nb::dict values;
            for (const auto& [name, value] : all)
              values[nb::cast(name)] = nb::cast(value);
            return nb::make_tuple(values, all.lengths());
          },
          "Values by site, [prompt, pos, ...], and how many positions of each "
          "prompt ran.")
      .def(
          "idle",
          nb::overload_cast<const std::vector<std::string>&>(
              &Generator::idle, nb::const_),
          nb::arg("last"),
          "Which of the last edits, by their sites in the order made, changed "
          "no value.")
      .def_prop_ro("prefill_seconds", &Generator::prefill_seconds)
      .def_prop_ro("decode_seconds", &Generator::decode_seconds);
}

}  // namespace mlxterp::python
