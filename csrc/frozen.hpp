// A forward plan with parameters that never change.
#pragma once

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "dispatch.hpp"
#include "plan.hpp"

namespace recurra {

struct Freed {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Freed>;

inline Memory reserve(long count, long item_size) {
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

// A forward plan with its parameters: matrices are packed once, vectors copied.
class Frozen {
 public:
  Frozen(nb::object plan, int item_size, const std::vector<Given>& parameters, const std::vector<Maybe>& scales,
         bool bfloat16_vectors)
      : plan_object_(std::move(plan)), plan_(nb::cast<const Plan&>(plan_object_)), item_size_(item_size) {
    if (parameters.size() != plan_.parameters.size())
      fail("got " + std::to_string(parameters.size()) + " parameters, expected " +
           std::to_string(plan_.parameters.size()));
    if (!scales.empty()) copy_scales(scales);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = plan_.parameters[i];
      const bool half = !is_int8(i) && parameters[i].dtype() == nb::dtype<std::uint16_t>();
      bfloat16_.push_back(!half ? bfloat16_none : bfloat16_vectors ? bfloat16_both : bfloat16_weights);
      if (is_int8(i)) {
        if (parameters[i].dtype() != nb::dtype<std::int8_t>())
          fail("a parameter with scales has another dtype than int8");
      } else if (!bfloat16_[i]) {
        check_floats(parameters[i], "a parameter", item_size);
      }
      check_whole(parameters[i], "a parameter");
      if (p.columns == 0) check_shape(parameters[i], "a parameter", {p.rows});
      else check_shape(parameters[i], "a parameter", {p.rows, p.columns});
      addresses_.push_back(address(parameters[i]));
    }
    packed_ = pack(plan_, item_size, addresses_.data(), int8_scales(), bfloat16());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = plan_.parameters[i];
      // a matrix is read in its packed form only
      const long kept = is_int8(i)       ? p.rows * p.columns
                        : p.columns == 0 ? p.rows * item_size
                                         : 0;
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
    call.bfloat16 = bfloat16();
    // the plan may read what was not given
    if (plan_.uses_elapsed && call.elapsed.address == nullptr && call.batch * call.time > 0) fail("elapsed is missing");
    if (is_short(plan_, call)) {
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
    if (lengths)
      call.lengths = static_cast<const std::int64_t*>(flags<std::int64_t>(*lengths, "lengths", {call.batch}));
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

  const std::uint8_t* bfloat16() const {
    const bool any = std::any_of(bfloat16_.begin(), bfloat16_.end(), [](auto use) { return use != bfloat16_none; });
    return any ? bfloat16_.data() : nullptr;
  }

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
  std::vector<std::uint8_t> bfloat16_;  // of each parameter, a Bfloat16Use
  std::vector<const float*> scales_;  // empty: nothing is int8; null: this parameter is not
  std::unique_ptr<PackedParameters> packed_;
  mutable Again again_;
};

}  // namespace recurra
