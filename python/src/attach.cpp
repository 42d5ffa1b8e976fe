// Modules and functions of Python's, attached to a site of a model of C++'s.

#include <fmt/format.h>

#include "bind.h"
#include "mlxterp/core/error.h"
#include "mlxterp/nn/module.h"

namespace mlxterp::python {

namespace {

// Stands where a part of the Python module is, for its sites: Python runs it.
struct Part final : nn::Module {
  mx::array forward(const mx::array& x, Pass&) const override { return x; }
  void put(std::string name, Part& part) { add(std::move(name), part); }
};

// `run(x, tap)` is the module on x. Where somebody watches the pass, `tap(path,
// is_input, value)` gives what a part goes on with; else it is None.
class PythonModule final : public nn::Module {
 public:
  // `parts`: dotted paths, parents first.
  PythonModule(nb::callable run, const std::vector<std::string>& parts)
      : run_(hold(std::move(run))) {
    for (const auto& path : parts) {
      auto& part = parts_[path];
      auto parent = path;
      size_t dot;
      while ((dot = parent.rfind('.')) != std::string::npos) {
        parent.resize(dot);
        if (const auto found = parts_.find(parent); found != parts_.end()) {
          found->second.put(path.substr(dot + 1), part);
          break;
        }
      }
      if (dot == std::string::npos) add(path, part);
    }
  }

  mx::array forward(const mx::array& x, Pass& pass) const override {
    nb::gil_scoped_acquire gil;
    nb::object tap = nb::none();
    if (pass.observed())
      tap = nb::cpp_function(
          [&](const std::string& path, bool is_input, const mx::array& value) {
            const auto& part = parts_.at(path);
            return pass.tap(
                is_input ? part.input_site() : part.output_site(), value);
          });
    const nb::object y = (*run_)(x, tap);
    if (!nb::isinstance<mx::array>(y))
      throw Error(
          ErrorKind::usage,
          fmt::format(
              "[attach] the module returned {}; expected an mlx.core.array",
              nb::repr(y.type()).c_str()));
    return nb::cast<mx::array>(y);
  }

 private:
  Held run_;
  std::map<std::string, Part> parts_;
};

}  // namespace

void bind_attach(nb::class_<Model>& model) {
  using Mode = AttachOptions::Mode;
  model.def(
      "attach",
      [](const Model& self,
         const std::string& site,
         nb::callable run,
         const std::vector<std::string>& parts,
         const std::string& mode,
         const std::string& name,
         bool by_position) {
        AttachOptions options;
        options.name = name;
        options.by_position = by_position;
        if (mode == "replace") options.mode = Mode::replace;
        if (mode == "replace_with_error")
          options.mode = Mode::replace_with_error;
        return Model{
            self.model.attach(
                site,
                std::make_shared<PythonModule>(std::move(run), parts),
                options),
            self.path,
            self.model_type,
            self.modules,
            self.updated};
      },
      nb::arg("site"),
      nb::arg("run"),
      nb::arg("parts"),
      nb::arg("mode"),
      nb::arg("name"),
      nb::arg("by_position") = false);
}

}  // namespace mlxterp::python
