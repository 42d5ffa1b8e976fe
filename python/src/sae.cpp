// Sparse autoencoders and transcoders.

#include "sae.h"

#include "bind.h"
#include "mlxterp/report/sae.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/sae.h"
#include "mlxterp/sae/save.h"
#include "mlxterp/sae/set.h"

namespace mlxterp::python {

namespace {

SaeLoadOptions options_of(
    const std::string& format,
    int layer,
    std::optional<float> activation_scale,
    std::optional<int> k,
    const std::string& revision) {
  return {
      .format = format,
      .layer = layer,
      .activation_scale = activation_scale,
      .k = k,
      .revision = revision,
      .progress = progress_of({})};
}

}  // namespace

void bind_saes(nb::module_& m) {
  nb::class_<Sae>(m, "Sae")
      .def_ro("W_enc", &Sae::W_enc)
      .def_ro("b_enc", &Sae::b_enc)
      .def_ro("W_dec", &Sae::W_dec)
      .def_ro("b_dec", &Sae::b_dec)
      .def_ro("threshold", &Sae::threshold)
      .def_ro("W_skip", &Sae::W_skip)
      .def(
          "pre_activations",
          [](const Sae& self, const mx::array& x) {
            return pre_activations(self, x);
          })
      .def(
          "encode",
          [](const Sae& self, const mx::array& x) { return encode(self, x); })
      .def(
          "decode",
          [](const Sae& self,
             const mx::array& acts,
             const std::optional<mx::array>& x) {
            return decode(self, acts, x);
          },
          nb::arg("acts"),
          nb::arg("x").none() = nb::none())
      .def(
          "info",
          [](const Sae& self, const std::string& name) {
            nb::gil_scoped_release no_gil;
            return report::to_json(report::sae_info(name, self));
          },
          "As JSON.")
      .def(
          "save_saelens",
          [](const Sae& self, const std::string& path, bool overwrite) {
            const auto folder = checked_path(path);
            nb::gil_scoped_release no_gil;
            save_saelens(self, folder, overwrite);
          });
  m.def(
      "load_sae",
      [](const std::string& name,
         const std::string& format,
         int layer,
         std::optional<float> activation_scale,
         std::optional<int> k,
         const std::string& revision) {
        const auto options =
            options_of(format, layer, activation_scale, k, revision);
        const auto& own = checked_path(name);
        nb::gil_scoped_release no_gil;
        return load_sae(own, options);
      });
  m.def("sae_formats", [] {
    std::vector<std::pair<std::string, std::string>> out;
    for (const auto& format : sae_formats())
      out.emplace_back(format.name, format.summary);
    return out;
  });
}

}  // namespace mlxterp::python
