// The phases of a plan, as one thread runs them.
#pragma once

#include "problem.hpp"
#include "reductions.hpp"

namespace recurra {
namespace RECURRA_ISA {

// Rows of one step: row b begins at base + b * stride.
template <class T> struct View {
  T* base;
  long stride;
};

// Which rows (of which steps) and which part of the columns a phase is run for.
struct Extent {
  Range steps, rows;
  int part = 0, parts = 1;
};

template <class T> class Worker {
 public:
  Worker(Problem<T>& problem, int index) : p_(problem), s_(problem.scratch[index]) {}

  Range chunk;  // the steps whose rows the CHUNK buffers hold

  void run(const Phase& phase, const Extent& extent) {
    switch (phase.type) {
      case PhaseType::product: product(p_.plan.products[phase.index], extent); break;
      case PhaseType::pointwise:
        for (long t = extent.steps.begin; t < extent.steps.end; ++t)
          pointwise(p_.plan.pointwise[phase.index], t, rows_at(extent.rows, t), extent.part, extent.parts);
        break;
      case PhaseType::reduce:
        for (long t = extent.steps.begin; t < extent.steps.end; ++t)
          reduce(p_.plan.reduces[phase.index], t, rows_at(extent.rows, t), extent.part, extent.parts);
        break;
      case PhaseType::normalise:
        for (long t = extent.steps.begin; t < extent.steps.end; ++t)
          normalise(p_.plan.normalises[phase.index], t, rows_at(extent.rows, t), extent.part, extent.parts);
        break;
      default: break;
    }
  }

  // The rows of `rows` that are not beyond their length at step t.
  Range rows_at(const Range& rows, long t) const { return {rows.begin, smaller(rows.end, p_.active[t])}; }

  // Rows whose addresses are not evenly spaced at step t.
  bool irregular(const Source& source, long t) const {
    switch (source.kind) {
      case Kind::input: case Kind::elapsed: case Kind::output: case Kind::grad_output: case Kind::grad_input:
      case Kind::grad_elapsed: return p_.order != nullptr;
      case Kind::state_previous: return p_.reset_at && p_.reset_at[t] && !p_.plan.states[source.index].kept;
      default: return false;
    }
  }

  View<T> view(const Source& source, long t) const {
    const int i = source.index;
    switch (source.kind) {
      case Kind::vector: return {p_.parameter(i), 0};
      case Kind::unit: return {p_.units, 0};
      case Kind::input: return caller_view(p_.call.x, t);
      case Kind::elapsed: return caller_view(p_.call.elapsed, t);
      case Kind::output: case Kind::grad_output: return caller_view(p_.call.output, t);
      case Kind::grad_input: return caller_view(p_.call.grad_input, t);
      case Kind::grad_elapsed: return caller_view(p_.call.grad_elapsed, t);
      case Kind::chunk: {
        const long stride = Problem<T>::padded(source.columns);
        return {p_.chunk[i] + (t - chunk.begin) * p_.batch * stride, stride};
      }
      case Kind::tape: return tape_view(source.field, source.columns, t);
      case Kind::temp: return {p_.temp[i], Problem<T>::padded(source.columns)};
      case Kind::state_previous: return t == 0 ? View<T>{p_.initial[i], source.columns} : state_view(i, t - 1);
      case Kind::state_next: return state_view(i, t);
      case Kind::grad_next: return {p_.gradient[(t + 1) & 1][i], Problem<T>::padded(source.columns)};
      case Kind::grad_previous: return {p_.gradient[t & 1][i], Problem<T>::padded(source.columns)};
      default: return {nullptr, 0};
    }
  }

  View<T> state_view(int k, long t) const {
    const State& state = p_.plan.states[k];
    if (state.tape_offset >= 0) return tape_view(state.tape_offset, state.columns, t);
    return {p_.state[t & 1][k], Problem<T>::padded(state.columns)};
  }

  T* row(const Source& source, long t, long b) const {
    switch (source.kind) {
      case Kind::input: return p_.caller_row(p_.call.x, b, t);
      case Kind::elapsed: return p_.caller_row(p_.call.elapsed, b, t);
      case Kind::output: case Kind::grad_output: return p_.caller_row(p_.call.output, b, t);
      case Kind::grad_input: return p_.call.grad_input.address ? p_.caller_row(p_.call.grad_input, b, t) : s_.discard;
      case Kind::grad_elapsed:
        return p_.call.grad_elapsed.address ? p_.caller_row(p_.call.grad_elapsed, b, t) : s_.discard;
      case Kind::state_previous:
        if (p_.is_reset(b, t) && !p_.plan.states[source.index].kept) return p_.restart[source.index];
        [[fallthrough]];
      default: {
        const View<T> v = view(source, t);
        return v.base + b * v.stride;
      }
    }
  }

  // The addresses of `count` rows in order of time, from row b of step t on.
  void gather(const Reference& reference, const Extent& extent, long t, long b, long count, T** out) const {
    const Source& source = p_.plan.sources[reference.source];
    for (; count > 0; b = extent.rows.begin, ++t) {
      const long n = larger(0, smaller(count, rows_at(extent.rows, t).end - b));
      if (irregular(source, t)) {
        for (long i = 0; i < n; ++i) out[i] = row(source, t, b + i) + reference.offset;
      } else {
        const View<T> v = view(source, t);
        T* p = v.base + b * v.stride + reference.offset;
        for (long i = 0; i < n; ++i, p += v.stride) out[i] = p;
      }
      out += n;
      count -= n;
    }
  }

  long count_rows(const Extent& extent) const {
    long count = 0;
    for (long t = extent.steps.begin; t < extent.steps.end; ++t) {
      const Range rows = rows_at(extent.rows, t);
      count += larger(0, rows.end - rows.begin);
    }
    return count;
  }

 private:
  View<T> caller_view(const Strided& s, long t) const {
    if (!s.address) return {s_.discard, 0};
    return {static_cast<T*>(s.address) + t * s.time_stride, s.batch_stride};
  }
  View<T> tape_view(long field, long columns, long t) const {
    return {p_.tape() + p_.batch * p_.time * field + p_.start[t] * columns, columns};
  }

  void product(const ProductPhase& phase, const Extent& extent) {
    long left = count_rows(extent), t = extent.steps.begin, b = extent.rows.begin;
    while (left > 0) {
      const bool rounds = p_.is_int8(phase.parameter) || p_.rounds_rows(phase.parameter);
      const long count = smaller(left, rounds ? small_rows_at_once : product_rows);
      product_of_rows(phase, extent, t, b, count);
      left -= count;
      for (long passed = count; left > 0 && passed > 0;) {
        const long here = larger(0, rows_at(extent.rows, t).end - b);
        if (passed < here) {
          b += passed;
          break;
        }
        passed -= here;
        ++t;
        b = extent.rows.begin;
      }
    }
  }

  void product_of_rows(const ProductPhase& phase, const Extent& extent, long t, long b, long count) {
    int gathered = -1;  // the segment whose rows s_.a holds
    long panels = 0;
    for (const Block& block : phase.blocks) panels += Product<T>::panels(block.count);
    Range mine = share_of(panels, 1, extent.part, extent.parts);
    for (const Block& block : phase.blocks) {
      const long here = Product<T>::panels(block.count);
      const Range range{larger(0, mine.begin), smaller(here, mine.end)};
      mine = {mine.begin - here, mine.end - here};
      if (range.empty() || p_.skips(block)) continue;
      gather(block.destination, extent, t, b, count, s_.c);
      const bool has_init = block.init.source >= 0;
      if (has_init) gather(block.init, extent, t, b, count, s_.init);
      const T* const* init = has_init ? s_.init : nullptr;
      for (int i = block.first_segment; i < block.first_segment + block.segment_count; ++i) {
        const Segment& segment = phase.segments[i];
        if (i != gathered) {
          gather(segment.reference, extent, t, b, count, s_.a);
          if (p_.is_int8(phase.parameter)) round_rows_to_int8(segment.length, count);
          else if (p_.in_pairs(phase.parameter)) round_rows_to_pairs(segment, count);
          else if (p_.rounds_rows(phase.parameter)) round_rows_to_bfloat16(segment.length, count);
        }
        gathered = i;
        segment_product(phase, block, segment, count, init, range);
        init = s_.c;
      }
    }
  }

  // Parameters are int8 where T is float only: dispatch.cpp has checked that.
  void round_rows_to_int8(long length, long count) {
    if constexpr (sizeof(T) == sizeof(float))
      for (long r = 0; r < count; ++r)
        s_.int8_scales[r] = p_.call.int8->quantise(s_.a[r], length, s_.int8_rows + r * int8_padded(length));
  }

  // s_.a becomes the rows with the numbers rounded.
  void round_rows_to_bfloat16(long length, long count) {
    if constexpr (sizeof(T) == sizeof(float)) {
      using V = Vec<float>;
      float* to = static_cast<float*>(s_.bfloat16_rows);
      for (long r = 0; r < count; ++r, to += float_stride(length)) {
        for (long i = 0; i < length; i += V::V) {
          const long lanes = smaller(V::V, length - i);
          V::store_partial(to + i, rounded(Tile<float>::load_last(s_.a[r] + i, lanes)), lanes);
        }
        s_.a[r] = to;
      }
    }
  }

  // The pairs of a matrix begin at even columns: for a segment that does not, a zero comes first.
  void round_rows_to_pairs(const Segment& segment, long count) {
    if constexpr (sizeof(T) == sizeof(float))
      for (long r = 0; r < count; ++r) {
        s_.pairs[r] = static_cast<Pair*>(s_.bfloat16_rows) + r * pair_stride(segment.length);
        round_to_pairs(s_.a[r], segment.length, segment.begin % 2, s_.pairs[r]);
      }
  }

  void paired_product(const ProductPhase& phase, const Block& block, const Segment& segment, long count,
                      const T* const* init, const Range& panels) {
    if constexpr (sizeof(T) == sizeof(float))
      Product<float, Pair>::product(count, s_.pairs, pair_count(segment.begin % 2 + segment.length),
                                    static_cast<const Pair*>(p_.packs[block.pack]), pair_count(phase.k),
                                    segment.begin / 2, block.count, init, s_.c, panels.begin, panels.end);
  }

  void int8_product(const ProductPhase& phase, const Block& block, const Segment& segment, long count,
                    const T* const* init, const Range& panels) {
    if constexpr (sizeof(T) == sizeof(float)) {
      const long columns = p_.plan.parameters[phase.parameter].columns;
      const auto* values = static_cast<const std::int8_t*>(p_.call.parameters[phase.parameter]);
      const Int8Matrix matrix{values + block.begin * columns + segment.begin, columns,
                              p_.call.scales[phase.parameter] + block.begin, segment.length};
      p_.call.int8->product({s_.int8_rows, int8_padded(segment.length), s_.int8_scales, count}, matrix, init, s_.c,
                            panels.begin * Product<T>::panel, smaller(block.count, panels.end * Product<T>::panel));
    }
  }

  void segment_product(const ProductPhase& phase, const Block& block, const Segment& segment, long count,
                       const T* const* init, const Range& panels) {
    if (p_.is_sparse(phase.parameter)) {
      const Range rows{panels.begin * Product<T>::panel, smaller(block.count, panels.end * Product<T>::panel)};
      for (long r = 0; r < count; ++r)
        Sparse<T>::product(p_.sparse_packs[block.pack], s_.a[r], init ? init[r] : nullptr, s_.c[r], rows.begin, rows.end);
      return;
    }
    if (p_.is_int8(phase.parameter)) return int8_product(phase, block, segment, count, init, panels);
    if (p_.in_pairs(phase.parameter)) return paired_product(phase, block, segment, count, init, panels);
    if constexpr (sizeof(T) == sizeof(float))
      if (p_.rounds_products(phase.parameter))
        return direct(static_cast<const RoundedFloat*>(p_.call.parameters[phase.parameter]), phase, block, segment, count,
                      init, panels);
    p_.with_elements(phase.parameter, [&](const auto* matrix) {
      using Element = std::decay_t<decltype(*matrix)>;
      if (!p_.use_packs) return direct(matrix, phase, block, segment, count, init, panels);
      Product<T, Element>::product(count, s_.a, segment.length, static_cast<const Element*>(p_.packs[block.pack]),
                                   phase.k, segment.begin, block.count, init, s_.c, panels.begin, panels.end);
    });
  }

  template <class Element>
  void direct(const Element* matrix, const ProductPhase& phase, const Block& block, const Segment& segment, long count,
              const T* const* init, const Range& panels) {
    const long columns = p_.plan.parameters[phase.parameter].columns;
    const long row_stride = phase.transposed ? 1 : columns, column_stride = phase.transposed ? columns : 1;
    Product<T, Element>::direct(count, s_.a, segment.length, matrix + block.begin * row_stride, row_stride, column_stride,
                                segment.begin, init, s_.c, panels.begin * Product<T>::panel,
                                smaller(block.count, panels.end * Product<T>::panel));
  }

  // A strip of columns of a few rows at a time, so that the registers stay in the first cache.
  void pointwise(const PointwisePhase& phase, long t, const Range& rows, int part, int parts) {
    const Range columns = share_of(phase.width, row_unit, part, parts);
    if (rows.empty() || columns.empty()) return;
    const long total = columns.end - columns.begin, strip = smaller(total, p_.strip);
    const long stride = (strip + Vec<T>::V - 1) / Vec<T>::V * Vec<T>::V;
    const long block = smaller(larger(1, p_.strip / stride), rows.end - rows.begin);
    int moving = 0, special = 0;
    resolve(phase, t, columns.begin, stride, moving, special);
    for (long b = rows.begin; b < rows.end; b += block) {
      const long count = smaller(block, rows.end - b);
      for (long column = 0; column < total; column += strip) {
        const long width = smaller(strip, total - column);
        for (int i = 0; i < moving; ++i) {
          const int o = s_.moving[i];
          s_.slots[o].p = s_.origins[o].p + b * s_.origins[o].stride + column;
        }
        for (int i = 0; i < special; ++i)
          bring(phase.operands[s_.special[i]], s_.special[i], t, {b, b + count}, columns.begin + column, width, column);
        for (const Instruction& i : phase.instructions)
          kernels<T>[i.opcode](count, width, s_.slots[i.destination], s_.slots[i.a], s_.slots[i.b], s_.slots[i.c]);
        for (int i = 0; i < special; ++i)
          scatter(phase.operands[s_.special[i]], s_.special[i], t, {b, b + count}, columns.begin + column, width);
      }
    }
  }

  // Where the operands of a phase lie at step t. `moving` ones advance with rows and columns; `special` ones are scalars
  // and rows that are not evenly spaced, which go through a strip of their own.
  void resolve(const PointwisePhase& phase, long t, long column, long stride, int& moving, int& special) {
    const long room = Problem<T>::padded(p_.strip);
    const int count = static_cast<int>(phase.operands.size());
    for (int o = 0; o < count; ++o) {
      const PointwiseOperand& operand = phase.operands[o];
      switch (operand.mode) {
        case Mode::register_: s_.slots[o] = {s_.registers + operand.index * room, stride}; break;
        case Mode::constant: s_.slots[o] = {p_.constants + operand.index * p_.strip, 0}; break;
        case Mode::scalar:
          s_.slots[o] = {s_.extra + o * room, stride};
          s_.special[special++] = o;
          break;
        case Mode::row: {
          const Source& source = p_.plan.sources[operand.reference.source];
          if (irregular(source, t)) {
            s_.slots[o] = {s_.extra + o * room, stride};
            s_.special[special++] = o;
            break;
          }
          const View<T> v = view(source, t);
          s_.origins[o] = {v.base + operand.reference.offset + column, v.stride};
          s_.slots[o].stride = v.stride;
          s_.moving[moving++] = o;
        }
      }
    }
  }

  void bring(const PointwiseOperand& operand, int o, long t, const Range& rows, long column, long width, long done) {
    const Source& source = p_.plan.sources[operand.reference.source];
    T* to = s_.extra + o * Problem<T>::padded(p_.strip);
    const long stride = s_.slots[o].stride;
    if (operand.mode == Mode::scalar) {
      if (done > 0) return;
      for (long b = rows.begin; b < rows.end; ++b, to += stride) {
        const T value = row(source, t, b)[operand.reference.offset];
        for (long j = 0; j < width; ++j) to[j] = value;
      }
      return;
    }
    if (operand.written) return;
    for (long b = rows.begin; b < rows.end; ++b, to += stride)
      std::memcpy(to, row(source, t, b) + operand.reference.offset + column, sizeof(T) * width);
  }

  void scatter(const PointwiseOperand& operand, int o, long t, const Range& rows, long column, long width) {
    if (!operand.written) return;
    const Source& source = p_.plan.sources[operand.reference.source];
    const T* from = s_.extra + o * Problem<T>::padded(p_.strip);
    for (long b = rows.begin; b < rows.end; ++b, from += s_.slots[o].stride)
      std::memcpy(row(source, t, b) + operand.reference.offset + column, from, sizeof(T) * width);
  }

  T* at(const Reference& reference, long t, long b) const {
    return row(p_.plan.sources[reference.source], t, b) + reference.offset;
  }

  void reduce(const ReducePhase& phase, long t, const Range& rows, int part, int parts) {
    if (rows.empty()) return;
    const Range mine = share_of(rows.end - rows.begin, 1, part, parts);
    for (long b = rows.begin + mine.begin; b < rows.begin + mine.end; ++b)
      *at(phase.destination, t, b) =
        Reductions<T>::reduce(phase, p_.plan, at(phase.source, t, b), at(phase.second, t, b));
  }

  void normalise(const NormalisePhase& phase, long t, const Range& rows, int part, int parts) {
    if (rows.empty()) return;
    const Range mine = share_of(rows.end - rows.begin, 1, part, parts);
    for (long b = rows.begin + mine.begin; b < rows.begin + mine.end; ++b)
      Reductions<T>::normalise(phase, at(phase.source, t, b),
                               phase.normal.source < 0 ? nullptr : at(phase.normal, t, b), *at(phase.scale, t, b),
                               at(phase.destination, t, b));
  }

  Problem<T>& p_;
  Scratch<T>& s_;
};

}  // namespace RECURRA_ISA
}  // namespace recurra
