// python/src/values.h: Python's text and whole numbers as C++ takes them, in
// place of nanobind's own casters, which refuse some with a TypeError that only
// prints the signatures of a binding.

#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>

namespace nanobind::detail {

/**
 * A str as bytes, zero bytes included. What has no UTF-8 gets through as bytes
 * that are none, so that who takes the text can say what is wrong: a
 * half of a surrogate pair as its three bytes, and a path's bytes, which Python
 * keeps as surrogates, as themselves.
 */
inline bool bytes_of_text(PyObject* text, std::string& out) noexcept {
  if (!PyUnicode_Check(text)) return false;
  for (const char* lone : {"strict", "surrogateescape", "surrogatepass"}) {
    PyObject* bytes = PyUnicode_AsEncodedString(text, "utf-8", lone);
    if (bytes) {
      out.assign(
          PyBytes_AS_STRING(bytes),
          static_cast<size_t>(PyBytes_GET_SIZE(bytes)));
      Py_DECREF(bytes);
      return true;
    }
    PyErr_Clear();
  }
  return false;
}

inline handle text_of_bytes(std::string_view bytes) noexcept {
  return PyUnicode_DecodeUTF8(
      bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape");
}

template <>
struct type_caster<std::string> {
  NB_TYPE_CASTER(std::string, const_name("str"))

  bool from_python(handle src, uint32_t, cleanup_list*) noexcept {
    return bytes_of_text(src.ptr(), value);
  }
  static handle from_cpp(
      const std::string& text, rv_policy, cleanup_list*) noexcept {
    return text_of_bytes(text);
  }
};

template <>
struct type_caster<std::string_view> {
  NB_TYPE_CASTER(std::string_view, const_name("str"))

  bool from_python(handle src, uint32_t, cleanup_list*) noexcept {
    if (!bytes_of_text(src.ptr(), own_)) return false;
    value = own_;
    return true;
  }
  static handle from_cpp(
      std::string_view text, rv_policy, cleanup_list*) noexcept {
    return text_of_bytes(text);
  }

 private:
  std::string own_;
};

/** A whole number. Beyond an int there is no index, count or id, so the nearest
 * int stands for it: it is out of range wherever the number itself is. */
template <>
struct type_caster<int> {
  NB_TYPE_CASTER(int, const_name("int"))

  bool from_python(handle src, uint32_t flags, cleanup_list*) noexcept {
    const bool convert = (flags & cast_flags::convert) != 0;
    if (!PyLong_Check(src.ptr()) && !(convert && PyIndex_Check(src.ptr())))
      return false;
    PyObject* number = PyNumber_Index(src.ptr());
    int beyond = 0;
    const long long whole =
        number ? PyLong_AsLongLongAndOverflow(number, &beyond) : 0;
    Py_XDECREF(number);
    if (PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
    using Limits = std::numeric_limits<int>;
    value = beyond > 0   ? Limits::max()
            : beyond < 0 ? Limits::min()
                         : static_cast<int>(std::clamp<long long>(
                               whole, Limits::min(), Limits::max()));
    return true;
  }
  static handle from_cpp(int number, rv_policy, cleanup_list*) noexcept {
    return PyLong_FromLong(number);
  }
};

}  // namespace nanobind::detail
