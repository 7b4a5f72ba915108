// Reads a plan's code from front to back and checks every integer of it. The phases are in plan.cpp.
#pragma once

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "plan.hpp"

namespace recurra {

constexpr std::int64_t plan_magic = 0x72656375, plan_version = 2;
constexpr std::int64_t most_columns = 1 << 24, most_code = 1 << 22, most_units = 1 << 20, most_registers = 256, most_list = 1024;

const char* const kind_names[kind_count] = {
  "REGISTER", "CONSTANT", "VECTOR", "INPUT", "ELAPSED", "OUTPUT", "CHUNK", "TAPE", "TEMP", "STATE_PREVIOUS",
  "STATE_NEXT", "GRAD_OUTPUT", "GRAD_NEXT", "GRAD_PREVIOUS", "GRAD_INPUT", "GRAD_ELAPSED", "SCALAR_TEMP",
  "SCALAR_CHUNK", "SCALAR_TAPE", "UNIT",
};
const char* const section_names[section_count] = {"pre", "loop", "post", "gradients"};

// Columns [begin, end) of a piece of memory; two operands that may alias have the same space.
struct Span {
  Kind kind;
  int index;
  long begin, end;
  bool same_space(const Span& o) const { return kind == o.kind && index == o.index; }
  bool overlaps(const Span& o) const { return same_space(o) && begin < o.end && o.begin < end; }
  bool equals(const Span& o) const { return same_space(o) && begin == o.begin && end == o.end; }
};

// Which columns hold a value by now.
class Intervals {
 public:
  void add(long begin, long end) {
    auto it = ends_.upper_bound(begin);
    if (it != ends_.begin() && std::prev(it)->second >= begin) {
      --it;
      begin = it->first;
    }
    while (it != ends_.end() && it->first <= end) {
      end = std::max(end, it->second);
      it = ends_.erase(it);
    }
    ends_[begin] = end;
  }
  bool covers(long begin, long end) const {
    if (begin >= end) return true;
    auto it = ends_.upper_bound(begin);
    return it != ends_.begin() && std::prev(it)->second >= end;
  }
  bool empty() const { return ends_.empty(); }

 private:
  std::map<long, long> ends_;
};

struct Operand {
  Kind kind;
  int index;
  long offset;
};

struct Located {
  Reference reference;
  Span span;
};

class Decoder {
 public:
  Decoder(Plan& plan, const std::int64_t* code, std::size_t size) : plan_(plan), code_(code), size_(size) {}

  void decode() {
    header();
    for (int s = 0; s < section_count; ++s) section(static_cast<Section>(s));
    if (position_ != size_) fail("integers are left over after the last section");
    completeness();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw std::invalid_argument("plan: " + where_ + what); }

  std::int64_t next(const char* what, std::int64_t least, std::int64_t most) {
    if (position_ >= size_) fail(std::string("the code ends before ") + what);
    const std::int64_t value = code_[position_++];
    if (value < least || value > most)
      fail(std::string(what) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
        std::to_string(most));
    return value;
  }
  // A count of items that take at least `integers` each: one that exceeds the code left is caught before it allocates.
  long count(const char* what, long integers, std::int64_t most = most_code) {
    const std::int64_t value = next(what, 0, most);
    if (value * integers > static_cast<std::int64_t>(size_ - position_))
      fail(std::string("the code is too short for ") + what + " " + std::to_string(value));
    return static_cast<long>(value);
  }

  bool backward() const { return plan_.direction == Direction::backward; }
  bool train() const { return plan_.direction == Direction::train; }

  void header() {
    next("magic", plan_magic, plan_magic);
    next("version", plan_version, plan_version);
    plan_.direction = static_cast<Direction>(next("direction", 0, 2));
    plan_.input_columns = next("input_columns", 0, most_columns);
    plan_.output_columns = next("output_columns", 0, most_columns);
    plan_.tape_columns = next("tape_columns", 0, plan_.direction == Direction::infer ? 0 : most_columns);
    plan_.register_count = static_cast<int>(next("register_count", 0, most_registers));
    const auto constants = static_cast<std::int64_t>(plan_.constants.size());
    next("constant_count", constants, constants);
    plan_.parameters.resize(count("parameter_count", 3));
    for (Parameter& p : plan_.parameters) {
      p.rows = next("a parameter's rows", 1, most_columns);
      p.columns = next("a parameter's columns", 0, most_columns);
      p.sparse = next("a parameter's sparse", 0, p.columns > 0 ? 1 : 0) != 0;
    }
    states();
    plan_.chunks.resize(count("chunk_count", 1));
    for (long& columns : plan_.chunks) columns = next("a chunk's columns", 1, most_columns);
    plan_.temps.resize(count("temp_count", 1));
    for (long& columns : plan_.temps) columns = next("a temp's columns", 1, most_columns);
    for (long i = count("field_count", 2); i > 0; --i) {
      const long offset = next("a field's offset", 0, most_columns);
      field(offset, next("a field's columns", 1, most_columns));
    }
  }

  void states() {
    plan_.states.resize(count("state_count", 4));
    for (std::size_t k = 0; k < plan_.states.size(); ++k) {
      State& s = plan_.states[k];
      s.columns = next("a state's columns", 1, most_columns);
      s.tape_offset = next("a state's tape_offset", -1, most_columns);
      s.initial = static_cast<int>(
        next("a state's initial", 0, static_cast<std::int64_t>(plan_.constants.size()) - 1));
      s.kept = next("whether a state is kept", 0, 1) != 0;
      s.gradient_written = false;
      if (s.tape_offset >= 0) {
        field(s.tape_offset, s.columns);
        state_fields_[s.tape_offset] = static_cast<int>(k);
      }
    }
  }

  void field(long offset, long columns) {
    if (offset + columns > plan_.tape_columns)
      fail("the tape field at " + std::to_string(offset) + " ends beyond tape_columns");
    const auto after = fields_.lower_bound(offset);
    const bool collides = (after != fields_.end() && after->first < offset + columns) ||
               (after != fields_.begin() && std::prev(after)->second > offset);
    if (collides) fail("the tape field at " + std::to_string(offset) + " overlaps another");
    fields_[offset] = offset + columns;
  }

  void section(Section section) {
    section_ = section;
    where_ = std::string(section_names[section]) + ": ";
    const long phases = count("phase_count", 1);
    if (section == section_gradients && phases > 0 && !backward())
      fail("only a backward plan has gradients");
    for (long i = 0; i < phases; ++i) {
      where_ = std::string(section_names[section]) + " phase " + std::to_string(i) + ": ";
      const auto type = static_cast<PhaseType>(next("the phase type", 0, 5));
      const bool gradient = type == PhaseType::outer || type == PhaseType::rowsum;
      if (gradient != (section == section_gradients))
        fail(gradient ? "OUTER and ROWSUM stand in gradients only" : "gradients hold OUTER and ROWSUM only");
      switch (type) {
        case PhaseType::pointwise: pointwise(); break;
        case PhaseType::product: product(); break;
        case PhaseType::reduce: reduce(); break;
        case PhaseType::outer: outer(); break;
        case PhaseType::rowsum: rowsum(); break;
        case PhaseType::normalise: normalise(); break;
      }
    }
    where_.clear();
  }

  Operand operand() {
    const auto kind = static_cast<Kind>(next("an operand's kind", 0, kind_count - 1));
    const auto index = static_cast<int>(next("an operand's index", 0, most_code));
    return {kind, index, static_cast<long>(next("an operand's offset", 0, most_columns))};
  }

  long items(const Operand& o) const {
    switch (o.kind) {
      case Kind::register_: return plan_.register_count;
      case Kind::constant: return static_cast<long>(plan_.constants.size());
      case Kind::vector: return static_cast<long>(plan_.parameters.size());
      case Kind::chunk: case Kind::scalar_chunk: return static_cast<long>(plan_.chunks.size());
      case Kind::temp: case Kind::scalar_temp: return static_cast<long>(plan_.temps.size());
      case Kind::state_previous: case Kind::state_next: case Kind::grad_next: case Kind::grad_previous:
        return static_cast<long>(plan_.states.size());
      default: return 1;
    }
  }

  long columns(const Operand& o) const {
    switch (o.kind) {
      case Kind::vector: return plan_.parameters[o.index].rows;
      case Kind::input: case Kind::grad_input: return plan_.input_columns;
      case Kind::elapsed: case Kind::grad_elapsed: return 1;
      case Kind::output: case Kind::grad_output: return plan_.output_columns;
      case Kind::chunk: case Kind::scalar_chunk: return plan_.chunks[o.index];
      case Kind::tape: case Kind::scalar_tape: return plan_.tape_columns;
      case Kind::temp: case Kind::scalar_temp: return plan_.temps[o.index];
      case Kind::state_previous: case Kind::state_next: case Kind::grad_next: case Kind::grad_previous:
        return plan_.states[o.index].columns;
      case Kind::unit: return most_units;
      default: return 0;
    }
  }

  bool readable(Kind kind) const {
    const bool loop = section_ == section_loop;
    switch (kind) {
      case Kind::vector: case Kind::input: case Kind::elapsed: case Kind::chunk: case Kind::scalar_chunk:
      case Kind::unit: return true;
      case Kind::tape: case Kind::scalar_tape: return plan_.direction != Direction::infer;
      case Kind::temp: case Kind::scalar_temp: return loop;
      case Kind::state_previous: case Kind::state_next: return loop || backward();
      case Kind::grad_output: return backward();
      case Kind::grad_next: case Kind::grad_previous: return backward() && loop;
      default: return false;
    }
  }

  bool writable(const Operand& o) const {
    const bool loop = section_ == section_loop;
    switch (o.kind) {
      case Kind::output: return !backward();
      case Kind::chunk: return true;
      case Kind::tape: return train() && !in_state_field(o.offset);
      case Kind::temp: return loop;
      case Kind::state_next: return loop && !backward();
      case Kind::grad_previous: return loop && backward();
      case Kind::grad_input: case Kind::grad_elapsed: return backward();
      default: return false;
    }
  }

  long field_begin(long offset) const {
    auto it = fields_.upper_bound(offset);
    return it == fields_.begin() || std::prev(it)->second <= offset ? -1 : std::prev(it)->first;
  }
  bool in_state_field(long offset) const { return state_fields_.count(field_begin(offset)) > 0; }

  std::string text(const Operand& o) const {
    return std::string(kind_names[static_cast<int>(o.kind)]) + " " + std::to_string(o.index) + " at column " +
       std::to_string(o.offset);
  }

  // The row operand `o`, `width` columns wide. Everything about it is checked but whether it holds a value yet.
  Located locate(const Operand& o, long width) {
    if (o.kind == Kind::register_ || o.kind == Kind::constant) fail(text(o) + " is not allowed here");
    if (o.index >= items(o)) fail(text(o) + ": there are only " + std::to_string(items(o)));
    if (!readable(o.kind) && !writable(o)) fail(text(o) + " is not allowed in this section of this direction");
    long end = columns(o);
    Source source{o.kind, o.index, end, 0};
    Span span{o.kind, o.index, o.offset, o.offset + width};
    Reference reference{-1, o.offset};
    switch (o.kind) {
      case Kind::vector:
        if (plan_.parameters[o.index].columns != 0) fail(text(o) + ": the parameter is a matrix");
        break;
      case Kind::elapsed: plan_.uses_elapsed = true; break;
      case Kind::unit: plan_.unit_columns = std::max(plan_.unit_columns, o.offset + width); break;
      case Kind::tape: case Kind::scalar_tape:
        source.kind = span.kind = Kind::tape;
        source.field = field_begin(o.offset);
        if (source.field < 0) fail(text(o) + " lies in no field of the tape");
        end = fields_[source.field];
        source.columns = end - source.field;
        reference.offset -= source.field;
        break;
      case Kind::scalar_chunk: source.kind = span.kind = Kind::chunk; break;
      case Kind::scalar_temp: source.kind = span.kind = Kind::temp; break;
      case Kind::state_previous: case Kind::state_next: {
        const State& state = plan_.states[o.index];
        if (backward() && state.tape_offset < 0) fail(text(o) + ": the state is not on the tape");
        if (o.kind == Kind::state_next && state.tape_offset >= 0)
          span = {Kind::tape, 0, state.tape_offset + span.begin, state.tape_offset + span.end};
        break;
      }
      default: break;
    }
    if (o.offset + width > end)
      fail(text(o) + ": " + std::to_string(width) + " columns end beyond column " + std::to_string(end));
    reference.source = source_index(source);
    return {reference, span};
  }

  int source_index(const Source& source) {
    const std::array<long, 3> key{static_cast<long>(source.kind), source.index, source.field};
    const auto found = source_indices_.emplace(key, static_cast<int>(plan_.sources.size()));
    if (found.second) plan_.sources.push_back(source);
    const int index = found.first->second;
    auto& used = plan_.section_sources[section_];
    if (std::find(used.begin(), used.end(), index) == used.end()) used.push_back(index);
    return index;
  }

  bool defined(const Span& span) const {
    switch (span.kind) {
      case Kind::vector: case Kind::input: case Kind::elapsed: case Kind::state_previous: case Kind::grad_output:
      case Kind::grad_next: case Kind::unit: return true;
      case Kind::tape:
        if (backward()) return true;
        [[fallthrough]];
      default: {
        const auto it = defined_.find({static_cast<int>(span.kind), span.index});
        return it != defined_.end() && it->second.covers(span.begin, span.end);
      }
    }
  }
  void define(const Span& span) { defined_[{static_cast<int>(span.kind), span.index}].add(span.begin, span.end); }

  Located read(const Operand& o, long width) {
    if (is_scalar(o.kind)) fail(text(o) + " broadcasts: it stands in POINTWISE phases only");
    Located located = locate(o, width);
    if (!readable(o.kind)) fail(text(o) + " can only be written here");
    if (!defined(located.span)) fail(text(o) + " is read before it is written");
    return located;
  }
  Located write(const Operand& o, long width) {
    Located located = locate(o, width);
    if (!writable(o)) fail(text(o) + " cannot be written here");
    return located;
  }

  void pointwise();
  std::vector<Located> pointwise_operands(PointwisePhase& phase, std::vector<Operand>& operands);
  void instruction(PointwisePhase& phase, const std::vector<Operand>& operands, const std::vector<Located>& located);
  void product();
  std::vector<Span> product_segments(ProductPhase& phase, bool sparse);
  void product_blocks(ProductPhase& phase, const std::vector<Span>& segments);
  static void merge_blocks(ProductPhase& phase);
  int pack_index(const Pack& pack);
  void reduce();
  void outer();
  void rowsum();
  void normalise();
  void completeness();
  void add_cost(double operations) {
    plan_.row_cost += operations;
    if (section_ == section_loop) plan_.loop_cost += operations;
  }
  void push(PhaseType type, std::size_t index) {
    plan_.sections[section_].push_back({type, static_cast<int>(index)});
  }

  Plan& plan_;
  const std::int64_t* code_;
  std::size_t size_, position_ = 0;
  std::string where_;
  Section section_ = section_pre;
  std::map<long, long> fields_;        // begin -> end
  std::map<long, int> state_fields_;   // begin -> state
  std::map<std::array<long, 3>, int> source_indices_;
  std::map<std::pair<int, int>, Intervals> defined_;
  std::vector<bool> register_defined_;
};

}  // namespace recurra
