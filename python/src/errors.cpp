// C++ errors as the classes of mlxterp/errors.py.

#include <fmt/format.h>

#include <string_view>

#include "bind.h"
#include "mlxterp/core/error.h"

namespace mlxterp::python {

namespace {

const char* class_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::unknown_name:
      return "UnknownNameError";
    case ErrorKind::out_of_range:
      return "OutOfRangeError";
    case ErrorKind::bad_data:
      return "BadDataError";
    case ErrorKind::environment:
      return "IoError";
    default:
      return "UsageError";
  }
}

}  // namespace

Held hold(nb::callable f) {
  return {new nb::callable(std::move(f)), [](nb::callable* held) {
            nb::gil_scoped_acquire gil;
            delete held;
          }};
}

void check_signals() {
  nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

Progress progress_of(const std::optional<nb::callable>& f) {
  return [held = f ? hold(*f) : nullptr](std::string_view what, double done) {
    nb::gil_scoped_acquire gil;
    check_signals();
    if (held) (*held)(what, done);
  };
}

void fail_field(
    const char* options, const std::string& field, nb::handle value) {
  if (!value.is_valid())
    throw Error(
        ErrorKind::usage,
        fmt::format("[{}] has no field '{}'", options, field));
  throw Error(
      ErrorKind::usage,
      fmt::format(
          "[{}] {} cannot be {:.80}", options, field, nb::repr(value).c_str()));
}

void bind_errors(nb::module_& m) {
  nb::class_<AnyOptions>(m, "Options")
      .def("__getattr__", &AnyOptions::get)
      .def("__dir__", &AnyOptions::names);
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      const auto type =
          nb::module_::import_("mlxterp.errors").attr(class_of(e.kind()));
      // A name that was half a surrogate pair is quoted in the message.
      const std::string_view text(e.what());
      const auto shown = nb::steal(PyUnicode_DecodeUTF8(
          text.data(),
          static_cast<Py_ssize_t>(text.size()),
          "backslashreplace"));
      PyErr_SetObject(type.ptr(), shown.ptr());
    }
  });
}

}  // namespace mlxterp::python
