// Arrays that come from numpy: everything about them is checked here, their types, shapes and strides.
#pragma once

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "arguments.hpp"

namespace recurra {

namespace nb = nanobind;

using Given = nb::ndarray<nb::ro, nb::device::cpu>;
using Written = nb::ndarray<nb::device::cpu>;
using Maybe = std::optional<Given>;

[[noreturn]] inline void fail(const std::string& what) { throw std::invalid_argument(what); }

template <class Array> std::string shape_of(const Array& array) {
  std::string text = "(";
  for (std::size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + ")";
}

template <class Array> void check_floats(const Array& array, const char* name, int item_size) {
  const bool fits = item_size == 4 ? array.dtype() == nb::dtype<float>() : array.dtype() == nb::dtype<double>();
  if (!fits) fail(std::string(name) + " has another dtype than the parameters, float" + std::to_string(8 * item_size));
}

template <class Array> void check_shape(const Array& array, const char* name, std::initializer_list<long> shape) {
  bool fits = array.ndim() == shape.size();
  std::size_t i = 0;
  for (long size : shape) fits = fits && static_cast<long>(array.shape(i++)) == size;
  if (fits) return;
  std::string expected;
  for (long size : shape) expected += (expected.empty() ? "(" : ", ") + std::to_string(size);
  fail(std::string(name) + " has shape " + shape_of(array) + ", expected " + expected + ")");
}

// Elements of a row follow each other, and rows follow each other.
template <class Array> void check_whole(const Array& array, const char* name) {
  if (array.size() == 0) return;
  std::int64_t stride = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) > 1 && array.stride(i) != stride) fail(std::string(name) + " is not contiguous");
    stride *= static_cast<std::int64_t>(array.shape(i));
  }
}

template <class Array> void* address(const Array& array) {
  return const_cast<void*>(static_cast<const void*>(array.data()));
}

// The last dimension is a row of `columns` elements; the strides of the others are the caller's to set.
template <class Array> Strided rows_of(const Array& array, const char* name, long columns, int item_size) {
  check_floats(array, name, item_size);
  const std::size_t last = array.ndim() - 1;
  if (static_cast<long>(array.shape(last)) != columns)
    fail(std::string(name) + " has shape " + shape_of(array) + ", expected " + std::to_string(columns) + " columns");
  if (columns > 1 && array.size() > 0 && array.stride(last) != 1)
    fail(std::string(name) + ": the columns of a row do not follow each other");
  return {address(array), 0, 0};
}

inline void check_apart(const Strided& x, const Given& x_array, const Strided& y, const Written& y_array) {
  if (x_array.size() == 0 || y_array.size() == 0) return;
  const auto span = [](const auto& array, const Strided& rows, int item) {
    const char *begin = static_cast<const char*>(rows.address), *end = begin;
    for (std::size_t i = 0; i < array.ndim(); ++i) {
      const std::int64_t reach = (static_cast<std::int64_t>(array.shape(i)) - 1) * array.stride(i) * item;
      (reach < 0 ? begin : end) += reach;
    }
    return std::pair<const char*, const char*>(begin, end + item);
  };
  const auto a = span(x_array, x, static_cast<int>(x_array.itemsize()));
  const auto b = span(y_array, y, static_cast<int>(y_array.itemsize()));
  if (a.first < b.second && b.first < a.second) fail("out shares memory with the input");
}

}  // namespace recurra
