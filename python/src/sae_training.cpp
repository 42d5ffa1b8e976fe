// Training sparse autoencoders.

#include "bind.h"
#include "mlxterp/report/sae_train.h"
#include "mlxterp/sae/train_run.h"

namespace mlxterp::python {

namespace {

template <typename T>
Field<SaeRunOptions> train_field(T SaeTrainOptions::*member) {
  return {[member](SaeRunOptions& self, nb::handle value) {
    self.train.*member = nb::cast<T>(value);
  }};
}

Field<SaeRunOptions> whole(
    std::function<void(SaeRunOptions&, const std::string&)> set) {
  return {[set = std::move(set)](SaeRunOptions& self, nb::handle value) {
    set(self, nb::cast<std::string>(value));
  }};
}

}  // namespace

void bind_sae_training(nb::module_& m) {
  bind_options<SaeRunOptions>(
      m,
      "SaeRunOptions",
      {},
      {// First of all: what is given behind it replaces what it says.
       {"preset", {[](SaeRunOptions& self, nb::handle value) {
          const auto [peer, recipe] =
              nb::cast<std::pair<std::string, std::string>>(value);
          self.train = sae_preset(peer, parse_sae_recipe(recipe));
        }}},
       {"across_layers",
        whole([](SaeRunOptions& self, const std::string& name) {
          self.train = clt_preset(parse_sae_recipe(name), 0);
        })},
       {"crosscoder", whole([](SaeRunOptions& self, const std::string& name) {
          self.train = crosscoder_preset(parse_sae_recipe(name), 0);
          self.crosscoder = true;
        })},
       {"penalty", whole([](SaeRunOptions& self, const std::string& name) {
          self.train.penalty = parse_sae_penalty(name);
        })},
       {"features", train_field(&SaeTrainOptions::features)},
       {"expansion", train_field(&SaeTrainOptions::expansion)},
       {"scaled", {[](SaeRunOptions& self, nb::handle value) {
          if (!nb::cast<bool>(value)) self.train.scale = SaeInputScale::none;
        }}},
       {"k", train_field(&SaeTrainOptions::k)},
       {"widths", train_field(&SaeTrainOptions::widths)},
       {"sparsity", train_field(&SaeTrainOptions::sparsity)},
       {"tanh_scale", train_field(&SaeTrainOptions::tanh_scale)},
       {"target_l0", train_field(&SaeTrainOptions::target_l0)},
       {"bandwidth", train_field(&SaeTrainOptions::bandwidth)},
       {"threshold", train_field(&SaeTrainOptions::threshold)},
       {"pre_act", train_field(&SaeTrainOptions::pre_act)},
       {"aux_weight", train_field(&SaeTrainOptions::aux_weight)},
       {"aux_k", train_field(&SaeTrainOptions::aux_k)},
       {"dead_after", train_field(&SaeTrainOptions::dead_after)},
       {"transcoder", train_field(&SaeTrainOptions::transcoder)},
       {"skip", train_field(&SaeTrainOptions::skip)},
       {"rows_per_step", train_field(&SaeTrainOptions::batch_size)},
       {"tokens", train_field(&SaeTrainOptions::tokens)},
       {"learning_rate", train_field(&SaeTrainOptions::learning_rate)},
       {"warm_up", train_field(&SaeTrainOptions::warm_up)},
       {"decay", train_field(&SaeTrainOptions::decay)},
       {"clip", train_field(&SaeTrainOptions::clip)},
       {"bfloat16", train_field(&SaeTrainOptions::bfloat16)},
       {"seed", train_field(&SaeTrainOptions::seed)},
       {"layers", field(&SaeRunOptions::layers)},
       {"site", field(&SaeRunOptions::site)},
       {"site_out", field(&SaeRunOptions::site_out)},
       {"name", field(&SaeRunOptions::model)},
       {"resume", field(&SaeRunOptions::resume)},
       {"checkpoint_seconds", field(&SaeRunOptions::checkpoint_seconds)},
       {"longest", field(&SaeRunOptions::longest)},
       {"buffer_rows", field(&SaeRunOptions::buffer_rows)},
       {"baseline", field(&SaeRunOptions::baseline)},
       {"length", field(&SaeRunOptions::length)},
       {"batch_size", field(&SaeRunOptions::batch_size)}});
  m.def(
      "train_sae_on_text",
      [](const Model& model,
         const std::string& text,
         const std::string& folder,
         const Bound<SaeRunOptions>& options) {
        const auto own = options.value;
        const std::filesystem::path from = checked_path(text),
                                    to = checked_path(folder);
        nb::gil_scoped_release no_gil;
        return report::to_json(report::SaeTrainReport{
            .model = own.model,
            .text = text,
            .folder = folder,
            .summary = train_sae(model.model, from, to, own)});
      });
  m.def(
      "train_sae_on_store",
      [](const ActivationStore& store,
         const std::string& folder,
         const Bound<SaeRunOptions>& options) {
        const auto own = options.value;
        const std::filesystem::path to = checked_path(folder);
        nb::gil_scoped_release no_gil;
        return report::to_json(report::SaeTrainReport{
            .model = own.model,
            .folder = folder,
            .summary = train_sae(store, to, own)});
      });
}

}  // namespace mlxterp::python
