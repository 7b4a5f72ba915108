// One call of a plan: its rows in order of length, its chunks of time, and where everything lies in the work memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "arena.hpp"
#include "arguments.hpp"
#include "barrier.hpp"
#include "outer.hpp"
#include "plan.hpp"
#include "pointwise.hpp"
#include "product.hpp"
#include "sparse.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Hands out aligned pieces of the work memory. Run once without memory, it measures how much is needed.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T> T* take(long count) {
    long bytes;
    if (__builtin_mul_overflow(count, static_cast<long>(sizeof(T)), &bytes) || bytes > most || used_ + bytes > most)
      throw std::bad_alloc();
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    return piece;
  }
  long used() const { return used_; }

 private:
  static constexpr long most = 1L << 46;
  char* base_;
  long used_ = 0;
};

inline long product_of(long a, long b) {
  long result;
  if (__builtin_mul_overflow(a, b, &result)) throw std::bad_alloc();
  return result;
}

struct Range {
  long begin, end;
  bool empty() const { return begin >= end; }
};
// Part `index` of `count` nearly equal parts of [0, total) that begin at multiples of `unit`.
inline Range share_of(long total, long unit, int index, int count) {
  const long units = (total + unit - 1) / unit;
  return {smaller(total, units * index / count * unit), smaller(total, units * (index + 1) / count * unit)};
}

constexpr long product_rows = 512;  // rows whose addresses are gathered at a time
constexpr long small_rows_at_once = 64;
constexpr long row_unit = 64 / sizeof(float);
// Of rounded rows. After pairs there is room for the half vector that rounding may write beyond them.
constexpr long float_stride(long length) { return (length + row_unit - 1) / row_unit * row_unit; }
constexpr long pair_stride(long length) { return float_stride(pair_count(length + 1) + row_unit / 2); }

// The buffers of one thread.
template <class T> struct Scratch {
  T *registers, *extra, *discard;
  T **a, **init, **c;
  std::int8_t* int8_rows;  // the rows of `a`, rounded, and what a unit of each stands for
  float* int8_scales;
  void* bfloat16_rows;     // the rows of `a`, rounded: to pairs, which `pairs` tells, or to floats
  Pair** pairs;
  Slot<T>* slots;
  Slot<T>* origins;
  int *moving, *special;
};

// What the packs of a plan's matrices are made into; `memory` holds them where they outlive the call.
template <class T> struct Packed : PackedParameters {
  std::vector<void*> packs;
  std::vector<SparseRows<T>> sparse;
  std::vector<long> nonzero;
  std::unique_ptr<char, void (*)(void*)> memory{nullptr, std::free};
};

template <class T> struct Problem {
  const Plan& plan;
  const Arguments& call;
  const long batch, time;
  int threads;
  bool columns_split = false, use_packs = false;

  long total_rows = 0;           // the sum of the lengths
  long* order = nullptr;         // sorted row -> row of the caller; null: the same
  long *length = nullptr, *given = nullptr;  // of each sorted row, of each row of the caller
  long *active = nullptr, *start = nullptr;  // of each step: rows not yet ended, and rows of the steps before
  unsigned char* reset_at = nullptr;         // is any row reset before this step? null: none ever
  long chunk_steps = 1;
  long strip = 0;                // elements of a register

  T *constants = nullptr, *units = nullptr, *outer_pack = nullptr;
  T **chunk = nullptr, **temp = nullptr, **state[2] = {}, **gradient[2] = {}, **initial = nullptr, **restart = nullptr;
  void** packs = nullptr;  // of each, elements of the kind that its matrix has
  SparseRows<T>* sparse_packs = nullptr;
  std::vector<long> nonzero;  // of each parameter whose zeros are left out, else -1; empty: none
  long* outer_offset = nullptr;  // of each operand b of each OUTER, in the order of the plan
  Scratch<T>* scratch = nullptr;
  Barrier barrier;

  Problem(const Plan& plan_, const Arguments& call_)
      : plan(plan_), call(call_), batch(call_.batch), time(call_.time), threads(call_.threads) {}

  bool backward() const { return plan.direction == Direction::backward; }
  long original(long row) const { return order ? order[row] : row; }
  static long padded(long columns) { return (columns + row_unit - 1) / row_unit * row_unit; }
  bool is_reset(long row, long t) const {
    return reset_at && reset_at[t] && call.reset[original(row) * time + t];
  }
  T* tape() const { return static_cast<T*>(call.tape); }
  T* parameter(int index) const { return static_cast<T*>(call.parameters[index]); }
  T* grad_parameter(int index) const { return static_cast<T*>(call.grad_parameters[index]); }
  T* caller_row(const Strided& s, long row, long t) const {
    return static_cast<T*>(s.address) + original(row) * s.batch_stride + t * s.time_stride;
  }
  bool skips(const Block& block) const { return block.writes_grad_input && !call.grad_input.address; }

  long chunk_columns() const {
    long columns = 0;
    for (long c : plan.chunks) columns += padded(c);
    return columns;
  }

  // By shape alone, for the gradients of weights are summed chunk by chunk. They are read and written once a chunk, which
  // is worth its while from some hundred rows on. Backwards it is a power of two: where a segment that is computed again
  // (ops/segments.py) begins at a multiple of it, the sums are the same to the bit.
  void choose_chunk() {
    constexpr long most_rows = 4096, gradient_rows = 256;
    const long bytes = backward() ? 1 << 20 : 512 << 10, rows = larger(batch, 1);
    const long step_bytes = product_of(rows, larger(chunk_columns(), 1) * static_cast<long>(sizeof(T)));
    const long most = larger(1, smaller(bytes / step_bytes, most_rows / rows));
    if (backward())
      for (chunk_steps = 1; chunk_steps * rows < gradient_rows || 2 * chunk_steps <= most;) chunk_steps *= 2;
    else
      chunk_steps = most;
    chunk_steps = larger(1, smaller(chunk_steps, time));
  }

  void choose_strip() {
    constexpr long bytes = 16 << 10, most = 512, least = 64;
    strip = bytes / static_cast<long>(sizeof(T)) / larger(plan.register_count, 1) / least * least;
    strip = larger(least, smaller(strip, most));
  }

  const Packed<T>* ready_packs() const { return static_cast<const Packed<T>*>(call.packed); }

  bool is_int8(int parameter) const { return call.scales && call.scales[parameter]; }
  // What may be multiplied without its zeros stays in floats.
  Bfloat16Use bfloat16_use(int parameter) const {
    if (!call.bfloat16 || plan.parameters[parameter].sparse) return bfloat16_none;
    return static_cast<Bfloat16Use>(call.bfloat16[parameter]);
  }
  bool is_bfloat16(int parameter) const {
    return bfloat16_use(parameter) == bfloat16_weights || bfloat16_use(parameter) == bfloat16_both;
  }
  bool rounds_rows(int parameter) const { return bfloat16_use(parameter) >= bfloat16_both; }
  bool rounds_products(int parameter) const { return bfloat16_use(parameter) == bfloat16_products; }
  // Without instructions for pairs, products of floats and widened bfloat16 are faster: pairs are for rounded products
  // alone then.
  bool in_pairs(int parameter) const {
    return use_packs && (rounds_products(parameter) || (has_pairs && bfloat16_use(parameter) == bfloat16_both));
  }
  long element_size(int parameter) const {
    return is_int8(parameter) ? 1 : static_cast<long>(bfloat16_use(parameter) ? sizeof(Bfloat16) : sizeof(T));
  }
  // Hands a matrix that is not int8 to `use`, as what its elements are. They are bfloat16 where T is float only:
  // dispatch.cpp has checked that.
  template <class Use> void with_elements(int index, const Use& use) const {
    if constexpr (sizeof(T) == sizeof(float))
      if (is_bfloat16(index)) return use(static_cast<const Bfloat16*>(call.parameters[index]));
    use(static_cast<const T*>(call.parameters[index]));
  }
  bool is_sparse(int parameter) const { return !nonzero.empty() && nonzero[parameter] >= 0; }

  // Leaving out the zeros pays where the rows are few: more of them share the loading of a dense matrix.
  void choose_sparse() {
    constexpr long most_work = 4;
    if (ready_packs()) nonzero = ready_packs()->nonzero;
    if (!use_packs || ready_packs()) return;
    for (std::size_t i = 0; i < plan.parameters.size(); ++i) {
      const Parameter& matrix = plan.parameters[i];
      if (!matrix.sparse) continue;
      nonzero.resize(plan.parameters.size(), -1);
      const long size = matrix.rows * matrix.columns, count = Sparse<T>::count(parameter(static_cast<int>(i)), size);
      if (product_of(count, most_work * batch) <= size) nonzero[i] = count;
    }
  }

  void pack_sparse(int index) const {
    const Pack& pack = plan.packs[index];
    const long columns = plan.parameters[pack.parameter].columns;
    const long row_stride = pack.transposed ? 1 : columns, column_stride = pack.transposed ? columns : 1;
    Sparse<T>::pack(parameter(pack.parameter) + pack.begin * row_stride, row_stride, column_stride, pack.count, pack.k,
                    sparse_packs[index]);
  }

  void lay_out(Carver& carver) {
    if (call.lengths) {
      order = carver.take<long>(batch);
      given = carver.take<long>(batch);
    }
    length = carver.take<long>(batch);
    active = carver.take<long>(time + 2);
    start = carver.take<long>(time + 1);
    if (call.reset) reset_at = carver.take<unsigned char>(time + 1);
    lay_out_buffers(carver);
    lay_out_packs(carver);
    scratch = carver.take<Scratch<T>>(threads);
    for (int i = 0; i < threads; ++i) lay_out_scratch(carver, scratch ? &scratch[i] : nullptr);
  }

  // A table of `count` buffers, the i-th of rows * padded(columns(i)) elements.
  template <class Columns> void table(Carver& carver, T**& entries, long count, long rows, Columns columns) {
    entries = carver.take<T*>(count);
    for (long i = 0; i < count; ++i) {
      T* buffer = carver.take<T>(product_of(rows, padded(columns(i))));
      if (entries) entries[i] = buffer;
    }
  }

  void lay_out_buffers(Carver& carver) {
    const long states = static_cast<long>(plan.states.size());
    const auto state_columns = [&](long k) { return plan.states[k].columns; };
    table(carver, chunk, static_cast<long>(plan.chunks.size()), product_of(chunk_steps, batch),
          [&](long i) { return plan.chunks[i]; });
    table(carver, temp, static_cast<long>(plan.temps.size()), batch, [&](long i) { return plan.temps[i]; });
    for (int parity = 0; parity < 2; ++parity) {
      if (backward())
        table(carver, gradient[parity], states, batch, state_columns);
      else
        table(carver, state[parity], states, batch,
              [&](long k) { return plan.states[k].tape_offset < 0 ? plan.states[k].columns : 0; });
    }
    table(carver, initial, states, call.lengths ? batch : 0, state_columns);
    table(carver, restart, states, call.reset ? 1 : 0, state_columns);
    constants = carver.take<T>(static_cast<long>(plan.constants.size()) * strip);
    units = carver.take<T>(padded(plan.unit_columns));
  }

  long packed_bytes(const Pack& pack) const {
    const bool pairs = in_pairs(pack.parameter);
    const long summands = pairs ? pair_count(pack.k) : pack.k;
    const long size = pairs ? static_cast<long>(sizeof(Pair)) : element_size(pack.parameter);
    return product_of(Product<T>::packed_size(pack.count, summands), size);
  }

  void lay_out_packs(Carver& carver) {
    if (const Packed<T>* ready = ready_packs()) {
      packs = const_cast<void**>(ready->packs.data());
      sparse_packs = const_cast<SparseRows<T>*>(ready->sparse.data());
      return;
    }
    packs = carver.take<void*>(static_cast<long>(plan.packs.size()));
    sparse_packs = carver.take<SparseRows<T>>(static_cast<long>(plan.packs.size()));
    for (std::size_t i = 0; i < plan.packs.size(); ++i) {
      const Pack& pack = plan.packs[i];
      const bool sparse = is_sparse(pack.parameter);
      void* packed = carver.take<char>(use_packs && !sparse && !is_int8(pack.parameter) ? packed_bytes(pack) : 0);
      const long count = sparse ? nonzero[pack.parameter] : 0;
      const SparseRows<T> rows{carver.take<long>(sparse ? pack.count + 1 : 0), carver.take<std::int32_t>(count),
                               carver.take<T>(count)};
      if (packs) packs[i] = packed;
      if (sparse_packs) sparse_packs[i] = rows;
    }
    if (!backward()) return;
    long operands = 0, offset = 0;
    for (const OuterPhase& outer : plan.outers) operands += static_cast<long>(outer.b.size());
    outer_offset = carver.take<long>(operands);
    operands = 0;
    for (const OuterPhase& outer : plan.outers)
      for (const Segment& b : outer.b) {
        if (outer_offset) outer_offset[operands++] = offset;
        if (call.grad_parameters[outer.parameter])
          offset += (Outer<T>::workspace(chunk_steps * batch, b.length) + row_unit - 1) / row_unit * row_unit;
      }
    outer_pack = carver.take<T>(offset);
  }

  void lay_out_scratch(Carver& carver, Scratch<T>* scratch) {
    Scratch<T> unused;
    Scratch<T>& s = scratch ? *scratch : unused;
    long operands = 1;
    for (const PointwisePhase& phase : plan.pointwise)
      operands = larger(operands, static_cast<long>(phase.operands.size()));
    const long columns = padded(strip);
    s.registers = carver.take<T>(plan.register_count * columns);
    s.extra = carver.take<T>(operands * columns);
    s.discard = carver.take<T>(padded(larger(plan.input_columns, 1)));
    const long rows = larger(product_rows, plan.outers.empty() && plan.rowsums.empty() ? 0 : chunk_steps * batch);
    s.a = carver.take<T*>(rows);
    s.init = carver.take<T*>(product_rows);
    s.c = carver.take<T*>(product_rows);
    if (call.scales || call.bfloat16) {
      long length = 0;
      for (const ProductPhase& phase : plan.products)
        for (const Segment& segment : phase.segments) length = larger(length, segment.length);
      s.int8_rows = carver.take<std::int8_t>(call.scales ? small_rows_at_once * int8_padded(length) : 0);
      s.int8_scales = carver.take<float>(call.scales ? small_rows_at_once : 0);
      s.bfloat16_rows =
          carver.take<float>(call.bfloat16 ? small_rows_at_once * larger(float_stride(length), pair_stride(length)) : 0);
      s.pairs = carver.take<Pair*>(call.bfloat16 ? small_rows_at_once : 0);
    }
    s.slots = carver.take<Slot<T>>(operands);
    s.origins = carver.take<Slot<T>>(operands);
    s.moving = carver.take<int>(operands);
    s.special = carver.take<int>(operands);
  }

  void sort_rows() {
    // active[t] first counts the rows of length t, then holds the number of longer ones: where those rows begin.
    std::memset(active, 0, sizeof(long) * (time + 2));
    if (!call.lengths) {
      for (long t = 0; t < time; ++t) active[t] = batch;
      for (long b = 0; b < batch; ++b) length[b] = time;
    } else {
      bool sorted = true;
      for (long b = 0; b < batch; ++b) {
        // A copy within bounds: whatever another thread does to the caller's lengths, no row leaves its buffer.
        given[b] = larger(0, smaller(call.lengths[b], time));
        ++active[given[b]];
        sorted = sorted && (b == 0 || given[b] <= given[b - 1]);
      }
      long longer = 0;
      for (long t = time; t >= 0; --t) {
        const long here = active[t];
        active[t] = longer;
        longer += here;
      }
      for (long b = 0; b < batch; ++b) {
        const long place = active[given[b]]++;
        order[place] = b;
        length[place] = given[b];
      }
      // Each entry has moved to the end of its rows, which is the number of rows longer than t - 1.
      for (long t = 0; t < time; ++t) active[t] = active[t + 1];
      active[time] = 0;
      if (sorted) order = nullptr;
    }
    start[0] = 0;
    for (long t = 0; t < time; ++t) start[t + 1] = start[t] + active[t];
    total_rows = start[time];
  }

  void find_resets() {
    if (!call.reset) return;
    std::memset(reset_at, 0, time + 1);
    bool any = false;
    for (long row = 0; row < batch; ++row) {
      const std::uint8_t* flags = call.reset + original(row) * time;
      for (long t = 0; t < length[row]; ++t) {
        reset_at[t] |= flags[t] != 0;
        any = any || flags[t];
      }
    }
    if (!any) reset_at = nullptr;
  }

  void fill() {
    sort_rows();
    find_resets();
    for (std::size_t i = 0; i < plan.constants.size(); ++i)
      for (long j = 0; j < strip; ++j) constants[static_cast<long>(i) * strip + j] = static_cast<T>(plan.constants[i]);
    for (long j = 0; j < plan.unit_columns; ++j) units[j] = static_cast<T>(j);
    for (std::size_t k = 0; k < plan.states.size(); ++k) {
      const State& s = plan.states[k];
      T* given = static_cast<T*>(call.initial[k]);
      if (reset_at)
        for (long j = 0; j < s.columns; ++j) restart[k][j] = static_cast<T>(plan.constants[s.initial]);
      if (order)
        for (long b = 0; b < batch; ++b)
          std::memcpy(initial[k] + b * s.columns, given + order[b] * s.columns, sizeof(T) * s.columns);
      else
        initial[k] = given;
    }
  }
};

}  // namespace RECURRA_ISA
}  // namespace recurra
