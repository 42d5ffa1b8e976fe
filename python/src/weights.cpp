// A model's weights by name: mlxterp/models/weights.h.

#include "mlxterp/models/weights.h"
#include "bind.h"

namespace mlxterp::python {

void bind_weights(nb::module_& m, nb::class_<Model>& model) {
  std::vector<std::string> names;
  for (const auto name : weight_names())
    names.emplace_back(name);
  m.attr("weight_names") = nb::cast(names);
  m.def(
      "heads_of_projection",
      &heads_of_projection,
      nb::arg("parameter"),
      nb::arg("n_heads"),
      nb::arg("repeats") = 1);
  m.def(
      "heads_of_output",
      &heads_of_output,
      nb::arg("parameter"),
      nb::arg("n_heads"));
  model.def(
      "weight",
      [](const Model& self,
         const std::string& name,
         std::optional<int> layer,
         std::optional<int> head,
         std::optional<std::vector<int>> tokens,
         bool folded) {
        WeightPart part;
        part.layer = layer;
        part.head = head;
        part.tokens = std::move(tokens);
        part.folded = folded;
        return weight(self.model.decoder(), name, part);
      },
      nb::arg("name"),
      nb::arg("layer") = nb::none(),
      nb::arg("head") = nb::none(),
      nb::arg("tokens") = nb::none(),
      nb::arg("folded") = false);
}

}  // namespace mlxterp::python
