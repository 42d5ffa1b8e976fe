// Sweeps over a model's inside: patching, ablation, tracing, paths, gradients.

#include "bind.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"

namespace mlxterp::python {

namespace {

using Axes = std::vector<Axis>;
using Numbers = std::vector<int>;
using Aligned = std::vector<std::pair<int, int>>;
using Told = std::optional<nb::callable>;

}  // namespace

void bind_sweeps(nb::module_& m) {
  nb::enum_<Axis>(m, "Axis")
      .value("layer", Axis::layer)
      .value("pos", Axis::position)
      .value("head", Axis::head)
      .value("neuron", Axis::neuron);
  nb::enum_<Direction>(m, "Direction")
      .value("denoise", Direction::denoise)
      .value("noise", Direction::noise);
  nb::enum_<Ablation>(m, "Ablation")
      .value("zero", Ablation::zero)
      .value("mean", Ablation::mean)
      .value("resample", Ablation::resample);
  nb::enum_<Receiver::Input>(m, "ReceiverInput")
      .value("q", Receiver::Input::q)
      .value("k", Receiver::Input::k)
      .value("v", Receiver::Input::v);

  nb::class_<Sweep>(m, "Sweep")
      .def_prop_ro(
          "axes",
          [](const Sweep& self) {
            std::vector<std::pair<std::string, Numbers>> axes;
            for (const auto& range : self.axes)
              axes.emplace_back(name(range.axis), range.values);
            return axes;
          })
      .def_ro("metric", &Sweep::metric)
      .def_ro("spread", &Sweep::spread)
      .def_ro("clean", &Sweep::clean)
      .def_ro("corrupt", &Sweep::corrupt)
      .def_ro("direction", &Sweep::direction)
      .def_ro("pairs", &Sweep::pairs)
      .def_ro("computed", &Sweep::computed)
      .def_ro("rows", &Sweep::rows)
      .def_ro("ids", &Sweep::ids)
      .def_prop_ro("shape", &Sweep::shape)
      .def("effect", &Sweep::effect)
      .def("change", &Sweep::change);

  m.def(
      "patch",
      [](const Model& model,
         const Ids& clean,
         const Ids& corrupt,
         const Metric& metric,
         const std::string& site,
         const Axes& by,
         Direction direction,
         const Numbers& layers,
         const Numbers& positions,
         const Numbers& heads,
         const Numbers& neurons,
         const Aligned& aligned,
         bool plain,
         size_t memory,
         const Told& progress) {
        const PatchOptions options{
            .clean = inputs_of(clean),
            .corrupt = inputs_of(corrupt),
            .site = site,
            .by = by,
            .metric = metric,
            .direction = direction,
            .layers = layers,
            .positions = positions,
            .heads = heads,
            .neurons = neurons,
            .aligned = aligned,
            .plain = plain,
            .memory = memory,
            .progress = progress_of(progress)};
        nb::gil_scoped_release no_gil;
        return patch(model.model, options);
      });

  m.def(
      "ablate",
      [](const Model& model,
         const Ids& prompts,
         const Metric& metric,
         const std::string& site,
         const Axes& by,
         Ablation ablation,
         const std::optional<Ids>& data,
         int samples,
         uint64_t seed,
         const Numbers& layers,
         const Numbers& positions,
         const Numbers& heads,
         const Numbers& neurons,
         size_t memory,
         const Told& progress) {
        const AblateOptions options{
            .prompts = inputs_of(prompts),
            .site = site,
            .by = by,
            .metric = metric,
            .ablation = ablation,
            .data = data ? std::optional(inputs_of(*data)) : std::nullopt,
            .samples = samples,
            .seed = seed,
            .layers = layers,
            .positions = positions,
            .heads = heads,
            .neurons = neurons,
            .memory = memory,
            .progress = progress_of(progress)};
        nb::gil_scoped_release no_gil;
        return ablate(model.model, options);
      },
      nb::arg("model"),
      nb::arg("prompts"),
      nb::arg("metric"),
      nb::arg("site"),
      nb::arg("by"),
      nb::arg("ablation"),
      nb::arg("data").none(),
      nb::arg("samples"),
      nb::arg("seed"),
      nb::arg("layers"),
      nb::arg("positions"),
      nb::arg("heads"),
      nb::arg("neurons"),
      nb::arg("memory"),
      nb::arg("progress").none());

  m.def(
      "causal_trace",
      [](const Model& model,
         const Ids& prompt,
         const std::string& subject,
         const std::optional<Metric>& metric,
         const std::string& site,
         int window,
         float noise,
         int samples,
         uint64_t seed,
         const Numbers& layers,
         const Numbers& positions,
         size_t memory,
         const Told& progress) {
        const CausalTraceOptions options{
            .prompt = inputs_of(prompt),
            .subject = subject,
            .metric = metric,
            .site = site,
            .window = window,
            .noise = noise,
            .samples = samples,
            .seed = seed,
            .layers = layers,
            .positions = positions,
            .memory = memory,
            .progress = progress_of(progress)};
        CausalTrace found;
        {
          nb::gil_scoped_release no_gil;
          found = causal_trace(model.model, options);
        }
        return nb::make_tuple(found.sweep, found.metric, found.subject);
      });

  m.def(
      "path_patch",
      [](const Model& model,
         const Ids& clean,
         const Ids& corrupt,
         const Metric& metric,
         const std::vector<std::tuple<int, int, Receiver::Input>>& receivers,
         const std::string& senders,
         bool through_mlps,
         Direction direction,
         const Numbers& layers,
         const Numbers& heads,
         size_t memory,
         const Told& progress) {
        PathPatchOptions options{
            .clean = inputs_of(clean),
            .corrupt = inputs_of(corrupt),
            .senders = senders,
            .through_mlps = through_mlps,
            .metric = metric,
            .direction = direction,
            .layers = layers,
            .heads = heads,
            .memory = memory,
            .progress = progress_of(progress)};
        for (const auto& [layer, head, input] : receivers)
          options.receivers.push_back({layer, head, input});
        nb::gil_scoped_release no_gil;
        return path_patch(model.model, options);
      });

  m.def(
      "attribute",
      [](const Model& model,
         const Ids& clean,
         const Ids& corrupt,
         const Metric& metric,
         const std::vector<std::string>& sites,
         const Axes& by,
         Direction direction,
         int steps,
         const Numbers& layers,
         const Numbers& positions,
         const Numbers& heads,
         const Numbers& neurons,
         const Aligned& aligned,
         const Told& progress) {
        const AttributeOptions options{
            .clean = inputs_of(clean),
            .corrupt = inputs_of(corrupt),
            .sites = sites,
            .by = by,
            .metric = metric,
            .direction = direction,
            .steps = steps,
            .layers = layers,
            .positions = positions,
            .heads = heads,
            .neurons = neurons,
            .aligned = aligned,
            .progress = progress_of(progress)};
        std::vector<Attribution> found;
        {
          nb::gil_scoped_release no_gil;
          found = attribute(model.model, options);
        }
        std::vector<std::pair<std::string, Sweep>> all;
        for (auto& it : found)
          all.emplace_back(it.site, std::move(it.sweep));
        return all;
      });

  m.def("compare", [](const Sweep& exact, const Sweep& approximate, size_t n) {
    const auto found = compare(exact, approximate, n);
    std::vector<std::tuple<size_t, float, float>> worst;
    for (const auto& it : found.worst)
      worst.emplace_back(it.cell, it.exact, it.approximate);
    return nb::make_tuple(found.pearson, found.spearman, worst);
  });
}

}  // namespace mlxterp::python
