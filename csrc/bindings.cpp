// The Python module recurra._engine. Arrays come as addresses and strides in elements: the Python layer has checked them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "arena.hpp"
#include "dispatch.hpp"
#include "plan.hpp"
#include "profile.hpp"
#include "streaming.hpp"

namespace nb = nanobind;
using recurra::Arguments;
using recurra::Direction;
using recurra::Plan;

namespace {

using Address = std::uintptr_t;
void* pointer(Address address) { return reinterpret_cast<void*>(address); }

// Addresses of a Python list, on the stack unless there are very many.
class Addresses {
 public:
  Addresses(const nb::list& list, std::size_t expected, const char* name, bool may_be_null) {
    if (list.size() != expected)
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(list.size()) + " addresses, expected " +
                                  std::to_string(expected));
    if (expected > few) {
      more_.resize(expected);
      data_ = more_.data();
    }
    for (std::size_t i = 0; i < expected; ++i) {
      data_[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)));
      if (data_[i] != nullptr) continue;
      if (PyErr_Occurred()) throw nb::python_error();
      if (!may_be_null)
        throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is null, expected an address");
    }
  }
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;
  void* const* data() const { return data_; }

 private:
  static constexpr std::size_t few = 32;
  void* stack_[few];
  std::vector<void*> more_;
  void** data_ = stack_;
};

Plan* make_plan(void* memory, nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> code,
                nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu> constants) {
  return new (memory) Plan(code.data(), code.size(), constants.data(), constants.size());
}

void run_released(const Plan& plan, const Arguments& call) {
  if (is_short(plan, call)) {
    recurra::run(plan, call);
    return;
  }
  const nb::gil_scoped_release released;
  recurra::run(plan, call);
}

// One byte of each parameter; null for None. They belong to the object.
const std::uint8_t* bfloat16_uses_of(const nb::object& uses, const Plan& plan) {
  if (uses.is_none()) return nullptr;
  const auto bytes = nb::cast<nb::bytes>(uses);
  if (bytes.size() != plan.parameters.size())
    throw std::invalid_argument("bfloat16 has " + std::to_string(bytes.size()) + " bytes, expected " +
                                std::to_string(plan.parameters.size()));
  return static_cast<const std::uint8_t*>(bytes.data());
}

void require(Address address, const Arguments& call, const char* name) {
  if (address == 0 && call.batch > 0 && call.time > 0)
    throw std::invalid_argument(std::string(name) + " is null, expected an address");
}

void forward(const Plan& plan, int item_size, long batch, long time, int threads, Address x, long x_batch_stride,
             long x_time_stride, Address y, long y_batch_stride, long y_time_stride, Address elapsed,
             long elapsed_batch_stride, long elapsed_time_stride, Address lengths, Address reset, Address tape,
             const nb::list& parameters, const nb::list& initial, const nb::list& final, const nb::object& scales,
             const nb::object& bfloat16) {
  if (plan.direction == Direction::backward) throw std::invalid_argument("forward of a backward plan");
  const bool empty = batch == 0;
  const Addresses parameter_list(parameters, plan.parameters.size(), "parameters", false);
  const Addresses initial_list(initial, plan.states.size(), "initial", empty);
  const Addresses final_list(final, plan.states.size(), "final", empty);
  std::optional<Addresses> scale_list;
  if (!scales.is_none()) scale_list.emplace(nb::cast<nb::list>(scales), plan.parameters.size(), "scales", true);
  Arguments call{};
  call.item_size = item_size;
  call.batch = batch;
  call.time = time;
  call.threads = threads;
  call.x = {pointer(x), x_batch_stride, x_time_stride};
  call.output = {pointer(y), y_batch_stride, y_time_stride};
  call.elapsed = {pointer(elapsed), elapsed_batch_stride, elapsed_time_stride};
  call.lengths = static_cast<const std::int64_t*>(pointer(lengths));
  call.reset = static_cast<const std::uint8_t*>(pointer(reset));
  call.tape = pointer(tape);
  call.parameters = parameter_list.data();
  if (scale_list) call.scales = reinterpret_cast<const float* const*>(scale_list->data());
  call.bfloat16 = bfloat16_uses_of(bfloat16, plan);
  call.initial = initial_list.data();
  call.final = final_list.data();
  if (plan.input_columns > 0) require(x, call, "x");
  if (plan.output_columns > 0) require(y, call, "y");
  run_released(plan, call);
}

void backward(const Plan& plan, int item_size, long batch, long time, int threads, Address x, long x_batch_stride,
              long x_time_stride, Address grad_y, long grad_y_batch_stride, long grad_y_time_stride, Address elapsed,
              long elapsed_batch_stride, long elapsed_time_stride, Address lengths, Address reset, Address tape,
              const nb::list& parameters, const nb::list& initial, const nb::list& grad_final, Address grad_x,
              long grad_x_batch_stride, long grad_x_time_stride, Address grad_elapsed, long grad_elapsed_batch_stride,
              long grad_elapsed_time_stride, const nb::list& grad_initial, const nb::list& grad_parameters,
              bool accumulate, const nb::object& bfloat16) {
  if (plan.direction != Direction::backward) throw std::invalid_argument("backward of a forward plan");
  const Addresses parameter_list(parameters, plan.parameters.size(), "parameters", false);
  const Addresses initial_list(initial, plan.states.size(), "initial", batch == 0);
  const Addresses grad_final_list(grad_final, plan.states.size(), "grad_final", true);
  const Addresses grad_initial_list(grad_initial, plan.states.size(), "grad_initial", true);
  const Addresses grad_parameter_list(grad_parameters, plan.parameters.size(), "grad_parameters", true);
  Arguments call{};
  call.item_size = item_size;
  call.batch = batch;
  call.time = time;
  call.threads = threads;
  call.x = {pointer(x), x_batch_stride, x_time_stride};
  call.output = {pointer(grad_y), grad_y_batch_stride, grad_y_time_stride};
  call.elapsed = {pointer(elapsed), elapsed_batch_stride, elapsed_time_stride};
  call.grad_input = {pointer(grad_x), grad_x_batch_stride, grad_x_time_stride};
  call.grad_elapsed = {pointer(grad_elapsed), grad_elapsed_batch_stride, grad_elapsed_time_stride};
  call.lengths = static_cast<const std::int64_t*>(pointer(lengths));
  call.reset = static_cast<const std::uint8_t*>(pointer(reset));
  call.tape = pointer(tape);
  call.parameters = parameter_list.data();
  call.initial = initial_list.data();
  call.final = grad_final_list.data();
  call.grad_initial = grad_initial_list.data();
  call.grad_parameters = grad_parameter_list.data();
  call.accumulate = accumulate;
  call.bfloat16 = bfloat16_uses_of(bfloat16, plan);
  if (plan.input_columns > 0) require(x, call, "x");
  if (plan.output_columns > 0) require(grad_y, call, "grad_y");
  run_released(plan, call);
}

void set_split(const std::string& split) {
  if (split == "automatic") recurra::settings.split = recurra::Split::automatic;
  else if (split == "rows") recurra::settings.split = recurra::Split::rows;
  else if (split == "columns") recurra::settings.split = recurra::Split::columns;
  else throw std::invalid_argument("split is " + split + ", expected automatic, rows or columns");
}

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "Runs compiled plans (docs/plan-format.md) over batches of sequences.";
  nb::class_<Plan>(m, "Plan")
      .def("__init__", [](Plan* self, nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> code,
                          nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu> constants) {
             make_plan(self, code, constants);
           }, nb::arg("code"), nb::arg("constants"), "Decodes and verifies; ValueError when the plan breaks a rule.")
      .def_prop_ro("direction", [](const Plan& p) {
        return p.direction == Direction::infer ? "infer" : p.direction == Direction::train ? "train" : "backward";
      })
      .def_ro("input_columns", &Plan::input_columns)
      .def_ro("output_columns", &Plan::output_columns)
      .def_ro("tape_columns", &Plan::tape_columns)
      .def_ro("uses_elapsed", &Plan::uses_elapsed)
      .def_ro("row_cost", &Plan::row_cost)
      .def_prop_ro("parameter_shapes", [](const Plan& p) {
        nb::list shapes;
        for (const auto& q : p.parameters)
          shapes.append(q.columns == 0 ? nb::make_tuple(q.rows) : nb::make_tuple(q.rows, q.columns));
        return shapes;
      })
      .def_prop_ro("parameter_sparse", [](const Plan& p) {
        nb::list sparse;
        for (const auto& q : p.parameters) sparse.append(q.sparse);
        return sparse;
      })
      .def_prop_ro("state_columns", [](const Plan& p) {
        nb::list columns;
        for (const auto& s : p.states) columns.append(s.columns);
        return columns;
      })
      .def("forward", forward, nb::arg("item_size"), nb::arg("batch"), nb::arg("time"), nb::arg("threads"),
           nb::arg("x"), nb::arg("x_batch_stride"), nb::arg("x_time_stride"), nb::arg("y"), nb::arg("y_batch_stride"),
           nb::arg("y_time_stride"), nb::arg("elapsed"), nb::arg("elapsed_batch_stride"),
           nb::arg("elapsed_time_stride"), nb::arg("lengths"), nb::arg("reset"), nb::arg("tape"),
           nb::arg("parameters"), nb::arg("initial"), nb::arg("final"), nb::arg("scales") = nb::none(),
           nb::arg("bfloat16") = nb::none())
      .def("backward", backward, nb::arg("item_size"), nb::arg("batch"), nb::arg("time"), nb::arg("threads"),
           nb::arg("x"), nb::arg("x_batch_stride"), nb::arg("x_time_stride"), nb::arg("grad_y"),
           nb::arg("grad_y_batch_stride"), nb::arg("grad_y_time_stride"), nb::arg("elapsed"),
           nb::arg("elapsed_batch_stride"), nb::arg("elapsed_time_stride"), nb::arg("lengths"), nb::arg("reset"),
           nb::arg("tape"), nb::arg("parameters"), nb::arg("initial"), nb::arg("grad_final"), nb::arg("grad_x"),
           nb::arg("grad_x_batch_stride"), nb::arg("grad_x_time_stride"), nb::arg("grad_elapsed"),
           nb::arg("grad_elapsed_batch_stride"), nb::arg("grad_elapsed_time_stride"), nb::arg("grad_initial"),
           nb::arg("grad_parameters"), nb::arg("accumulate") = false,
           nb::arg("bfloat16") = nb::none());
  recurra::bind_streaming(m);
  m.def("lease", [](std::size_t size) {
    auto* lease = new recurra::Lease(size);
    const nb::capsule owner(lease, [](void* p) noexcept { delete static_cast<recurra::Lease*>(p); });
    return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(lease->data(), {size}, owner);
  }, nb::arg("size"), "Bytes of work memory, not initialised; they go back to the engine when the array is freed.");
  m.def("isa", [] { return recurra::engine().name; }, "The instruction set that runs: RECURRA_ISA, else the best.");
  m.def("int8_isa", [] { return recurra::int8_kernels().name; }, "The instruction set of products with int8 weights.");
  m.def("bfloat16_isa", [] {
    return recurra::engine().has_pairs ? recurra::engine().name : "";
  }, "The instruction set of products of bfloat16 by bfloat16; empty: they are computed in float32.");
  m.def("available_isas", recurra::available_isas, "Instruction sets of this build that this processor has, best first.");
  m.def("peak_flops", [](int item_size, int threads, double seconds) {
    const nb::gil_scoped_release released;
    return recurra::peak_flops(item_size, threads, seconds);
  }, nb::arg("item_size"), nb::arg("threads"), nb::arg("seconds"),
        "Floating point operations a second of threads that do nothing but multiply and add on registers.");
  m.def("set_split", set_split, nb::arg("split"),
        "How threads share the work: automatic, rows or columns. For tests and measurements: results do not depend on it.");
  m.def("start_profile", [] {
    for (auto& spent : recurra::profile.nanoseconds) spent = 0;
    recurra::profile.on = true;
  }, "From now on, measure where the time of calls goes.");
  m.def("stop_profile", [] {
    recurra::profile.on = false;
    nb::dict parts;
    for (std::size_t i = 0; i < recurra::profile_parts.size(); ++i)
      parts[recurra::profile_parts[i]] = 1e-9 * static_cast<double>(recurra::profile.nanoseconds[i].load());
    return parts;
  }, "Ends the measurement: seconds by part, of each call the mean of its threads.");
  m.def("set_poison", [](bool enabled) { recurra::settings.poison = enabled; }, nb::arg("enabled"),
        "Fill the work memory with NaN before each run. For tests: results do not depend on it.");
}
