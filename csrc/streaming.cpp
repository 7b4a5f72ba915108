// The classes Frozen and Stream of recurra._engine: calls of a plan with parameters that never change. Arrays come from
// numpy, and everything about them is checked here: their types, shapes and strides.
#include "streaming.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "plan.hpp"

namespace nb = nanobind;

namespace recurra {
namespace {

using Given = nb::ndarray<nb::ro, nb::device::cpu>;
using Written = nb::ndarray<nb::device::cpu>;
using Maybe = std::optional<Given>;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

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

template <class Array> void* address(const Array& array) { return const_cast<void*>(static_cast<const void*>(array.data())); }

// The last dimension is a row of `columns` elements; the strides of the others are the caller's to set.
template <class Array> Strided rows_of(const Array& array, const char* name, long columns, int item_size) {
  check_floats(array, name, item_size);
  const std::size_t last = array.ndim() - 1;
  if (static_cast<long>(array.shape(last)) != columns)
    fail(std::string(name) + " has shape " + shape_of(array) + ", expected " + std::to_string(columns) + " columns");
  if (columns > 1 && array.size() > 0 && array.stride(last) != 1) fail(std::string(name) + ": the columns of a row do not follow each other");
  return {address(array), 0, 0};
}

void check_apart(const Strided& x, const Given& x_array, const Strided& y, const Written& y_array) {
  if (x_array.size() == 0 || y_array.size() == 0) return;
  const auto span = [](const auto& array, const Strided& rows, int item) {
    const char *begin = static_cast<const char*>(rows.address), *end = begin;
    for (std::size_t i = 0; i < array.ndim(); ++i) {
      const std::int64_t reach = (static_cast<std::int64_t>(array.shape(i)) - 1) * array.stride(i) * item;
      (reach < 0 ? begin : end) += reach;
    }
    return std::pair<const char*, const char*>(begin, end + item);
  };
  const auto a = span(x_array, x, static_cast<int>(x_array.itemsize())), b = span(y_array, y, static_cast<int>(y_array.itemsize()));
  if (a.first < b.second && b.first < a.second) fail("out shares memory with the input");
}

// Below this estimate, giving up the interpreter's lock would cost more than others could do meanwhile.
constexpr double locked_operations = 2e6;

struct Freed {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Freed>;

Memory reserve(long count, long item_size) {
  long bytes;
  if (__builtin_mul_overflow(count, item_size, &bytes) || bytes > (1L << 46)) throw std::bad_alloc();
  const std::size_t size = static_cast<std::size_t>((bytes + 63) / 64 * 64 + 64);
  Memory memory(static_cast<char*>(std::aligned_alloc(64, size)));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory.get(), 0, size);
  return memory;
}

// What calls of one size share, once two of them have followed each other. In use by one thread; another one goes without.
class Again {
 public:
  // Whether the call was run.
  bool run(const Plan& plan, const Arguments& call) {
    if (call.lengths != nullptr || call.reset != nullptr || call.batch * call.time == 0) return false;
    if (in_use_.test_and_set(std::memory_order_acquire)) return false;
    const Release release{in_use_};
    if (call.batch != batch_ || call.time != time_) {
      batch_ = call.batch;
      time_ = call.time;
      seen_ = 0;
      prepared_.reset();
    }
    if (seen_ == 0 || refused_ == call.threads) {
      seen_ = 1;
      return false;
    }
    if (prepared_ == nullptr) prepared_ = prepare(plan, call);
    if (prepared_ == nullptr) {
      refused_ = call.threads;
      return false;
    }
    prepared_->run(call);
    return true;
  }

 private:
  struct Release {
    std::atomic_flag& flag;
    ~Release() { flag.clear(std::memory_order_release); }
  };
  std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
  long batch_ = -1, time_ = -1;
  int seen_ = 0, refused_ = 0;
  std::unique_ptr<Prepared> prepared_;
};

}  // namespace

// A forward plan with its parameters: matrices are packed once, vectors copied.
class Frozen {
 public:
  Frozen(nb::object plan, int item_size, const std::vector<Given>& parameters, const std::vector<Maybe>& scales)
      : plan_object_(std::move(plan)), plan_(nb::cast<const Plan&>(plan_object_)), item_size_(item_size) {
    if (parameters.size() != plan_.parameters.size())
      fail("got " + std::to_string(parameters.size()) + " parameters, expected " + std::to_string(plan_.parameters.size()));
    if (!scales.empty()) copy_scales(scales);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = plan_.parameters[i];
      if (!is_int8(i)) check_floats(parameters[i], "a parameter", item_size);
      else if (parameters[i].dtype() != nb::dtype<std::int8_t>()) fail("a parameter with scales has another dtype than int8");
      check_whole(parameters[i], "a parameter");
      if (p.columns == 0) check_shape(parameters[i], "a parameter", {p.rows});
      else check_shape(parameters[i], "a parameter", {p.rows, p.columns});
      addresses_.push_back(address(parameters[i]));
    }
    packed_ = pack(plan_, item_size, addresses_.data(), int8_scales());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = plan_.parameters[i];
      // a matrix is read in its packed form only, but for one of int8
      const long kept = is_int8(i) ? p.rows * p.columns : p.columns == 0 ? p.rows * item_size : 0;
      kept_.push_back(kept > 0 ? reserve(kept, 1) : nullptr);
      if (kept > 0) std::memcpy(kept_[i].get(), addresses_[i], kept);
      addresses_[i] = kept_[i].get();
    }
  }

  const Plan& plan() const { return plan_; }
  int item_size() const { return item_size_; }

  void run(Arguments& call, Again& again) const {
    call.item_size = item_size_;
    call.parameters = addresses_.data();
    call.packed = packed_.get();
    call.scales = int8_scales();
    call.int8 = &int8_kernels();
    // the plan may read what was not given
    if (plan_.uses_elapsed && call.elapsed.address == nullptr && call.batch * call.time > 0) fail("elapsed is missing");
    if (static_cast<double>(call.batch) * static_cast<double>(call.time) * plan_.row_cost < locked_operations) {
      if (!again.run(plan_, call)) recurra::run(plan_, call);
      return;
    }
    const nb::gil_scoped_release released;
    recurra::run(plan_, call);
  }

  void forward(const Given& x, const Written& y, const std::vector<Given>& before, const std::vector<Written>& after,
               const Maybe& lengths, const Maybe& reset, const Maybe& elapsed, int threads) const {
    if (x.ndim() != 3 || y.ndim() != 3) fail("x and y need three dimensions: batch, time, columns");
    Arguments call{};
    call.batch = static_cast<long>(x.shape(0));
    call.time = static_cast<long>(x.shape(1));
    call.threads = threads;
    call.x = strided(x, "x", plan_.input_columns);
    check_shape(y, "y", {call.batch, call.time, plan_.output_columns});
    call.output = strided(y, "y", plan_.output_columns);
    if (lengths) call.lengths = static_cast<const std::int64_t*>(flags<std::int64_t>(*lengths, "lengths", {call.batch}));
    if (reset) call.reset = static_cast<const std::uint8_t*>(flags<bool>(*reset, "reset", {call.batch, call.time}));
    if (elapsed) {
      check_floats(*elapsed, "elapsed", item_size_);
      check_shape(*elapsed, "elapsed", {call.batch, call.time});
      call.elapsed = {address(*elapsed), elapsed->stride(0), elapsed->stride(1)};
    }
    run_between(call, before, after);
  }

  void step(const Given& x, const Written& y, const std::vector<Given>& before, const std::vector<Written>& after,
            const Maybe& elapsed, int threads) const {
    if (x.ndim() != 2 || y.ndim() != 2) fail("x and y need two dimensions: batch, columns");
    Arguments call{};
    call.batch = static_cast<long>(x.shape(0));
    call.time = 1;
    call.threads = threads;
    call.x = rows_of(x, "x", plan_.input_columns, item_size_);
    call.x.batch_stride = x.stride(0);
    check_shape(y, "y", {call.batch, plan_.output_columns});
    call.output = rows_of(y, "y", plan_.output_columns, item_size_);
    call.output.batch_stride = y.stride(0);
    if (elapsed) {
      check_floats(*elapsed, "elapsed", item_size_);
      check_shape(*elapsed, "elapsed", {call.batch});
      call.elapsed = {address(*elapsed), elapsed->stride(0), 0};
    }
    run_between(call, before, after);
  }

  template <class T> static const void* flags(const Given& array, const char* name, std::initializer_list<long> shape) {
    check_shape(array, name, shape);
    check_whole(array, name);
    if (array.dtype() != nb::dtype<T>())
      fail(std::string(name) + " has another dtype than " + (sizeof(T) == 1 ? "bool" : "int64"));
    return address(array);
  }

 private:
  template <class Array> Strided strided(const Array& array, const char* name, long columns) const {
    Strided rows = rows_of(array, name, columns, item_size_);
    rows.batch_stride = array.stride(0);
    rows.time_stride = array.stride(1);
    return rows;
  }

  void run_between(Arguments& call, const std::vector<Given>& before, const std::vector<Written>& after) const {
    constexpr std::size_t few = 16;
    void* on_stack[2 * few];
    std::vector<void*> more;
    void** addresses = on_stack;
    const std::size_t count = plan_.states.size();
    if (count > few) {
      more.resize(2 * count);
      addresses = more.data();
    }
    check_states(before, "a state", call.batch, addresses);
    check_states(after, "a state after", call.batch, addresses + count);
    call.initial = addresses;
    call.final = addresses + count;
    run(call, again_);
  }

  template <class Array>
  void check_states(const std::vector<Array>& states, const char* name, long batch, void** addresses) const {
    if (states.size() != plan_.states.size())
      fail("got " + std::to_string(states.size()) + " states, expected " + std::to_string(plan_.states.size()));
    for (std::size_t k = 0; k < states.size(); ++k) {
      check_floats(states[k], name, item_size_);
      check_shape(states[k], name, {batch, plan_.states[k].columns});
      check_whole(states[k], name);
      addresses[k] = address(states[k]);
    }
  }

  bool is_int8(std::size_t i) const { return !scales_.empty() && scales_[i] != nullptr; }
  const float* const* int8_scales() const { return scales_.empty() ? nullptr : scales_.data(); }

  void copy_scales(const std::vector<Maybe>& scales) {
    if (scales.size() != plan_.parameters.size())
      fail("got " + std::to_string(scales.size()) + " scales, expected " + std::to_string(plan_.parameters.size()));
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales_.push_back(nullptr);
      if (!scales[i]) continue;
      const long rows = plan_.parameters[i].rows;
      check_floats(*scales[i], "the scales of a parameter", 4);
      check_whole(*scales[i], "the scales of a parameter");
      check_shape(*scales[i], "the scales of a parameter", {rows});
      scale_memory_.push_back(reserve(rows, 4));
      std::memcpy(scale_memory_.back().get(), address(*scales[i]), rows * 4);
      scales_[i] = reinterpret_cast<const float*>(scale_memory_.back().get());
    }
  }

  nb::object plan_object_;
  const Plan& plan_;
  int item_size_;
  std::vector<void*> addresses_;  // of packed matrices: null
  std::vector<Memory> kept_, scale_memory_;
  std::vector<const float*> scales_;  // empty: nothing is int8; null: this parameter is not
  std::unique_ptr<PackedParameters> packed_;
  mutable Again again_;
};

// Rows with the states that they carry from call to call. Not for two threads at once, which is refused.
class Stream {
 public:
  Stream(nb::object frozen, long rows) : frozen_object_(std::move(frozen)), frozen_(nb::cast<const Frozen&>(frozen_object_)), rows_(rows) {
    if (rows < 1 || rows > (1L << 24)) fail("a stream has 1 to 16,777,216 rows, got " + std::to_string(rows));
    for (auto& side : states_)
      for (const State& s : plan().states) side.push_back(reserve(rows * s.columns, frozen_.item_size()));
    for (auto& side : addresses_) side.resize(plan().states.size());
    if (rows > 1) {
      for (auto& side : gathered_)
        for (const State& s : plan().states) side.push_back(reserve(rows * s.columns, frozen_.item_size()));
      seen_.resize(static_cast<std::size_t>(rows));
    }
    restart(0, rows_);
  }

  // Steps of the one row: x (time, input), y (time, output), elapsed (time,).
  void push(const Given& x, const Written& y, const Maybe& elapsed) {
    const Busy busy(busy_);
    if (rows_ != 1) fail("push is for one row");
    if (x.ndim() != 2 || y.ndim() != 2) fail("x and y need two dimensions: time, columns");
    Arguments call = begin(x, y);
    call.batch = 1;
    call.time = static_cast<long>(x.shape(0));
    call.threads = 1;
    call.x.time_stride = x.stride(0);
    call.output.time_stride = y.stride(0);
    if (elapsed) {
      check_floats(*elapsed, "elapsed", frozen_.item_size());
      check_shape(*elapsed, "elapsed", {call.time});
      call.elapsed = {address(*elapsed), 0, elapsed->stride(0)};
    }
    advance_all(call);
  }

  // A step of all rows, or of those with these numbers, each once: x (rows, input), y (rows, output), elapsed (rows,).
  void tick(const Given& x, const Written& y, const Maybe& rows, const Maybe& elapsed, int threads) {
    const Busy busy(busy_);
    if (x.ndim() != 2 || y.ndim() != 2) fail("x and y need two dimensions: rows, columns");
    Arguments call = begin(x, y);
    call.batch = static_cast<long>(x.shape(0));
    call.time = 1;
    call.threads = threads;
    call.x.batch_stride = x.stride(0);
    call.output.batch_stride = y.stride(0);
    if (elapsed) {
      check_floats(*elapsed, "elapsed", frozen_.item_size());
      check_shape(*elapsed, "elapsed", {call.batch});
      call.elapsed = {address(*elapsed), elapsed->stride(0), 0};
    }
    if (rows) return advance_some(call, *rows);
    if (call.batch != rows_) fail("x has " + std::to_string(call.batch) + " rows, expected " + std::to_string(rows_));
    advance_all(call);
  }

  void reset(const Maybe& rows) {
    const Busy busy(busy_);
    if (!rows) return restart(0, rows_);
    const std::int64_t* numbers = check_rows(*rows);
    for (std::size_t i = 0; i < rows->shape(0); ++i) restart(numbers[i], numbers[i] + 1);
  }

  void read(std::size_t k, const Written& out) {
    const Busy busy(busy_);
    check_state(k, out);
    std::memcpy(address(out), states_[side_][k].get(), bytes(k, rows_));
  }

  void write(std::size_t k, const Given& values) {
    const Busy busy(busy_);
    check_state(k, values);
    std::memcpy(states_[side_][k].get(), address(values), bytes(k, rows_));
  }

 private:
  struct Busy {
    std::atomic_flag& flag;
    explicit Busy(std::atomic_flag& f) : flag(f) {
      if (flag.test_and_set(std::memory_order_acquire)) throw std::runtime_error("a stream is in use by another thread");
    }
    ~Busy() { flag.clear(std::memory_order_release); }
  };

  const Plan& plan() const { return frozen_.plan(); }
  std::size_t bytes(std::size_t k, long rows) const {
    return static_cast<std::size_t>(rows * plan().states[k].columns * frozen_.item_size());
  }

  Arguments begin(const Given& x, const Written& y) const {
    Arguments call{};
    call.x = rows_of(x, "x", plan().input_columns, frozen_.item_size());
    call.output = rows_of(y, "out", plan().output_columns, frozen_.item_size());
    if (y.shape(0) != x.shape(0))
      fail("out has shape " + shape_of(y) + ", expected " + std::to_string(x.shape(0)) + " rows");
    check_apart(call.x, x, call.output, y);
    return call;
  }

  void advance_all(Arguments& call) {
    run(call, states_[side_], states_[1 - side_]);
    side_ = 1 - side_;
  }

  void advance_some(Arguments& call, const Given& rows) {
    const std::int64_t* numbers = check_rows(rows);
    if (rows.shape(0) != static_cast<std::size_t>(call.batch)) fail("x and rows differ in length");
    if (rows_ == 1) {
      if (call.batch == 1) advance_all(call);
      return;
    }
    for (std::size_t k = 0; k < plan().states.size(); ++k) {
      const std::size_t size = bytes(k, 1);
      for (long i = 0; i < call.batch; ++i)
        std::memcpy(gathered_[0][k].get() + i * size, states_[side_][k].get() + numbers[i] * size, size);
    }
    run(call, gathered_[0], gathered_[1]);
    for (std::size_t k = 0; k < plan().states.size(); ++k) {
      const std::size_t size = bytes(k, 1);
      for (long i = 0; i < call.batch; ++i)
        std::memcpy(states_[side_][k].get() + numbers[i] * size, gathered_[1][k].get() + i * size, size);
    }
  }

  void run(Arguments& call, const std::vector<Memory>& before, const std::vector<Memory>& after) {
    for (std::size_t k = 0; k < before.size(); ++k) {
      addresses_[0][k] = before[k].get();
      addresses_[1][k] = after[k].get();
    }
    call.initial = addresses_[0].data();
    call.final = addresses_[1].data();
    frozen_.run(call, again_);
  }

  // The numbers of rows, each there and given once.
  const std::int64_t* check_rows(const Given& rows) {
    if (rows.ndim() != 1) fail("rows has shape " + shape_of(rows) + ", expected one dimension");
    const auto* numbers =
      static_cast<const std::int64_t*>(Frozen::flags<std::int64_t>(rows, "rows", {static_cast<long>(rows.shape(0))}));
    std::fill(seen_.begin(), seen_.end(), false);
    for (std::size_t i = 0; i < rows.shape(0); ++i) {
      if (numbers[i] < 0 || numbers[i] >= rows_)
        fail("rows holds " + std::to_string(numbers[i]) + ", expected 0 to " + std::to_string(rows_ - 1));
      if (rows_ == 1) continue;
      if (seen_[static_cast<std::size_t>(numbers[i])]) fail("rows holds " + std::to_string(numbers[i]) + " twice");
      seen_[static_cast<std::size_t>(numbers[i])] = true;
    }
    return numbers;
  }

  template <class Array> void check_state(std::size_t k, const Array& values) const {
    if (k >= plan().states.size()) fail("there is no state " + std::to_string(k));
    check_floats(values, "a state", frozen_.item_size());
    check_shape(values, "a state", {rows_, plan().states[k].columns});
    check_whole(values, "a state");
  }

  template <class T> void fill(std::size_t k, long first, long last) {
    const State& state = plan().states[k];
    T* values = reinterpret_cast<T*>(states_[side_][k].get());
    std::fill(values + first * state.columns, values + last * state.columns, static_cast<T>(plan().constants[state.initial]));
  }

  void restart(long first, long last) {
    for (std::size_t k = 0; k < plan().states.size(); ++k) {
      if (frozen_.item_size() == 4) fill<float>(k, first, last);
      else fill<double>(k, first, last);
    }
  }

  nb::object frozen_object_;
  const Frozen& frozen_;
  long rows_;
  int side_ = 0;
  std::vector<Memory> states_[2], gathered_[2];
  std::vector<void*> addresses_[2];
  std::vector<char> seen_;
  Again again_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

void bind_streaming(nb::module_& m) {
  nb::class_<Frozen>(m, "Frozen", "A forward plan with parameters that never change, packed once.")
      .def(nb::init<nb::object, int, const std::vector<Given>&, const std::vector<Maybe>&>(), nb::arg("plan"),
           nb::arg("item_size"), nb::arg("parameters"), nb::arg("scales") = std::vector<Maybe>())
      .def("forward", &Frozen::forward, nb::arg("x"), nb::arg("y"), nb::arg("before"), nb::arg("after"),
           nb::arg("lengths") = nb::none(), nb::arg("reset") = nb::none(), nb::arg("elapsed") = nb::none(),
           nb::arg("threads") = 1,
           "Runs x (batch, time, input) into y; states go from `before` into `after`, arrays (batch, columns).")
      .def("step", &Frozen::step, nb::arg("x"), nb::arg("y"), nb::arg("before"), nb::arg("after"),
           nb::arg("elapsed") = nb::none(), nb::arg("threads") = 1, "One step of x (batch, input) into y (batch, output).");
  nb::class_<Stream>(m, "Stream", "Rows of a Frozen plan with the states that they carry.")
      .def(nb::init<nb::object, long>(), nb::arg("frozen"), nb::arg("rows"))
      .def("push", &Stream::push, nb::arg("x"), nb::arg("y"), nb::arg("elapsed") = nb::none(),
           "Steps of the one row: x (time, input) into y (time, output).")
      .def("tick", &Stream::tick, nb::arg("x"), nb::arg("y"), nb::arg("rows") = nb::none(),
           nb::arg("elapsed") = nb::none(), nb::arg("threads") = 1,
           "A step of all rows, or of those with these numbers: x (rows, input) into y (rows, output).")
      .def("reset", &Stream::reset, nb::arg("rows") = nb::none(), "All rows, or these, start afresh.")
      .def("read", &Stream::read, nb::arg("state"), nb::arg("out"), "Copies a state (rows, columns) out.")
      .def("write", &Stream::write, nb::arg("state"), nb::arg("values"), "Copies a state (rows, columns) in.");
}

}  // namespace recurra
