// Rows of a frozen plan that carry their states.
#pragma once

#include <algorithm>

#include "frozen.hpp"

namespace recurra {

// Rows with the states that they carry from call to call. Not for two threads at once, which is refused.
class Stream {
 public:
  Stream(nb::object frozen, long rows)
      : frozen_object_(std::move(frozen)), frozen_(nb::cast<const Frozen&>(frozen_object_)), rows_(rows) {
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
      if (flag.test_and_set(std::memory_order_acquire))
        throw std::runtime_error("a stream is in use by another thread");
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
    std::fill(values + first * state.columns, values + last * state.columns,
              static_cast<T>(plan().constants[state.initial]));
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

}  // namespace recurra
