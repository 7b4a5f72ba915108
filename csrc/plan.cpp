#include "plan.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

namespace recurra {
namespace {

constexpr std::int64_t magic = 0x72656375, version = 1;
constexpr std::int64_t most_columns = 1 << 24, most_code = 1 << 22, most_registers = 256, most_list = 1024;

const char* const kind_names[kind_count] = {
  "REGISTER", "CONSTANT", "VECTOR", "INPUT", "ELAPSED", "OUTPUT", "CHUNK", "TAPE", "TEMP", "STATE_PREVIOUS",
  "STATE_NEXT", "GRAD_OUTPUT", "GRAD_NEXT", "GRAD_PREVIOUS", "GRAD_INPUT", "GRAD_ELAPSED", "SCALAR_TEMP",
  "SCALAR_CHUNK", "SCALAR_TAPE",
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
    next("magic", magic, magic);
    next("version", version, version);
    plan_.direction = static_cast<Direction>(next("direction", 0, 2));
    plan_.input_columns = next("input_columns", 0, most_columns);
    plan_.output_columns = next("output_columns", 0, most_columns);
    plan_.tape_columns = next("tape_columns", 0, plan_.direction == Direction::infer ? 0 : most_columns);
    plan_.register_count = static_cast<int>(next("register_count", 0, most_registers));
    const auto constants = static_cast<std::int64_t>(plan_.constants.size());
    next("constant_count", constants, constants);
    plan_.parameters.resize(count("parameter_count", 2));
    for (Parameter& p : plan_.parameters) {
      p.rows = next("a parameter's rows", 1, most_columns);
      p.columns = next("a parameter's columns", 0, most_columns);
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
    plan_.states.resize(count("state_count", 3));
    for (std::size_t k = 0; k < plan_.states.size(); ++k) {
      State& s = plan_.states[k];
      s.columns = next("a state's columns", 1, most_columns);
      s.tape_offset = next("a state's tape_offset", -1, most_columns);
      s.initial = static_cast<int>(
        next("a state's initial", 0, static_cast<std::int64_t>(plan_.constants.size()) - 1));
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
      const auto type = static_cast<PhaseType>(next("the phase type", 0, 4));
      const bool gradient = type == PhaseType::outer || type == PhaseType::rowsum;
      if (gradient != (section == section_gradients))
        fail(gradient ? "OUTER and ROWSUM stand in gradients only" : "gradients hold OUTER and ROWSUM only");
      switch (type) {
        case PhaseType::pointwise: pointwise(); break;
        case PhaseType::product: product(); break;
        case PhaseType::reduce: reduce(); break;
        case PhaseType::outer: outer(); break;
        case PhaseType::rowsum: rowsum(); break;
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
      default: return 0;
    }
  }

  bool readable(Kind kind) const {
    const bool loop = section_ == section_loop;
    switch (kind) {
      case Kind::vector: case Kind::input: case Kind::elapsed: case Kind::chunk: case Kind::scalar_chunk:
        return true;
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
    if (!readable(o.kind) && !writable(o) ) fail(text(o) + " is not allowed in this section of this direction");
    long end = columns(o);
    Source source{o.kind, o.index, end, 0};
    Span span{o.kind, o.index, o.offset, o.offset + width};
    Reference reference{-1, o.offset};
    switch (o.kind) {
      case Kind::vector:
        if (plan_.parameters[o.index].columns != 0) fail(text(o) + ": the parameter is a matrix");
        break;
      case Kind::elapsed: plan_.uses_elapsed = true; break;
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
      case Kind::grad_next: return true;
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
    if (o.kind >= Kind::scalar_temp) fail(text(o) + " broadcasts: it stands in POINTWISE phases only");
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
  void product_blocks(ProductPhase& phase, const std::vector<Span>& segments);
  static void merge_blocks(ProductPhase& phase);
  int pack_index(const Pack& pack);
  void reduce();
  void outer();
  void rowsum();
  void completeness();
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

void Decoder::pointwise() {
  PointwisePhase phase;
  phase.width = next("width", 1, most_columns);
  std::vector<Operand> operands(count("operand_count", 3, most_list));
  const std::vector<Located> located = pointwise_operands(phase, operands);
  register_defined_.assign(plan_.register_count, false);
  for (long i = count("instruction_count", 5); i > 0; --i) instruction(phase, operands, located);
  for (std::size_t w = 0; w < operands.size(); ++w) {
    if (!phase.operands[w].written || phase.operands[w].mode != Mode::row) continue;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      const Mode mode = phase.operands[i].mode;
      if (mode != Mode::row && mode != Mode::scalar) continue;
      const Span &a = located[w].span, &b = located[i].span;
      if (a.overlaps(b) && (mode == Mode::scalar || !a.equals(b)))
        fail(text(operands[w]) + " is written and overlaps " + text(operands[i]) + " without being the same");
    }
  }
  plan_.row_cost += 8.0 * static_cast<double>(phase.width) * static_cast<double>(phase.instructions.size());
  push(PhaseType::pointwise, plan_.pointwise.size());
  plan_.pointwise.push_back(std::move(phase));
}

std::vector<Located> Decoder::pointwise_operands(PointwisePhase& phase, std::vector<Operand>& operands) {
  std::vector<Located> located(operands.size());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const Operand o = operands[i] = operand();
    PointwiseOperand decoded{Mode::row, o.index, {}, false};
    if (o.kind == Kind::register_ || o.kind == Kind::constant) {
      if (o.index >= items(o)) fail(text(o) + ": there are only " + std::to_string(items(o)));
      if (o.offset != 0) fail(text(o) + ": the offset has to be 0");
      decoded.mode = o.kind == Kind::register_ ? Mode::register_ : Mode::constant;
    } else {
      const bool scalar = o.kind == Kind::elapsed || o.kind >= Kind::scalar_temp;
      if (scalar) decoded.mode = Mode::scalar;
      located[i] = locate(o, scalar ? 1 : phase.width);
      decoded.reference = located[i].reference;
    }
    phase.operands.push_back(decoded);
  }
  return located;
}

void Decoder::instruction(PointwisePhase& phase, const std::vector<Operand>& operands,
             const std::vector<Located>& located) {
  const std::int64_t most = static_cast<std::int64_t>(operands.size()) - 1;
  Instruction decoded;
  decoded.opcode = static_cast<std::int16_t>(next("an opcode", 0, opcode_count - 1));
  const int arity = opcode_arity(decoded.opcode);
  const auto destination = next("an instruction's destination", 0, most);
  std::int16_t sources[3];
  for (int s = 0; s < 3; ++s) {
    const auto source = next("an instruction's operand", s < arity ? 0 : -1, s < arity ? most : -1);
    sources[s] = static_cast<std::int16_t>(source);
    if (source < 0) continue;
    const Operand& o = operands[source];
    if (o.kind == Kind::constant) continue;
    const bool has_value = o.kind == Kind::register_ ? register_defined_[o.index] : defined(located[source].span);
    if (o.kind != Kind::register_ && !readable(o.kind)) fail(text(o) + " can only be written here");
    if (!has_value) fail(text(o) + " is read before it is written");
  }
  const Operand& o = operands[destination];
  if (o.kind == Kind::register_) {
    register_defined_[o.index] = true;
  } else {
    if (o.kind == Kind::constant || !writable(o)) fail(text(o) + " cannot be written here");
    define(located[destination].span);
  }
  phase.operands[destination].written = true;
  decoded.destination = static_cast<std::int16_t>(destination);
  // An unused operand repeats the first one, so that the engine can take the address of each without a branch.
  decoded.a = sources[0];
  decoded.b = arity > 1 ? sources[1] : sources[0];
  decoded.c = arity > 2 ? sources[2] : sources[0];
  phase.instructions.push_back(decoded);
}

void Decoder::product() {
  ProductPhase phase;
  phase.parameter = static_cast<int>(
    next("parameter", 0, static_cast<std::int64_t>(plan_.parameters.size()) - 1));
  const Parameter& matrix = plan_.parameters[phase.parameter];
  if (matrix.columns == 0) fail("parameter " + std::to_string(phase.parameter) + " is a vector, expected a matrix");
  phase.transposed = next("transposed", 0, 1) != 0;
  phase.n = phase.transposed ? matrix.columns : matrix.rows;
  phase.k = phase.transposed ? matrix.rows : matrix.columns;
  std::vector<Span> spans;
  long length = 0;
  for (long i = count("segment_count", 4, most_list); i > 0; --i) {
    const Operand o = operand();
    Segment segment;
    segment.length = next("a segment's length", 1, phase.k - length);
    segment.begin = length;
    const Located located = read(o, segment.length);
    segment.reference = located.reference;
    spans.push_back(located.span);
    phase.segments.push_back(segment);
    length += segment.length;
    if (length == phase.k && i > 1) fail("more segments than the matrix has columns");
  }
  if (length != phase.k)
    fail("the segments have " + std::to_string(length) + " columns, the matrix takes " + std::to_string(phase.k));
  product_blocks(phase, spans);
  merge_blocks(phase);
  for (Block& block : phase.blocks) {
    block.pack = pack_index({phase.parameter, phase.transposed, block.begin, block.count, phase.k});
    plan_.row_cost += 2.0 * static_cast<double>(block.count) * static_cast<double>(phase.k);
  }
  push(PhaseType::product, plan_.products.size());
  plan_.products.push_back(std::move(phase));
}

void Decoder::product_blocks(ProductPhase& phase, const std::vector<Span>& segments) {
  std::vector<Span> destinations, inits;
  const long blocks = count("block_count", 9, most_list);
  if (blocks == 0) fail("a PRODUCT has at least one block");
  for (long i = 0; i < blocks; ++i) {
    Block block{};
    block.begin = next("a block's begin", 0, phase.n - 1);
    block.count = next("a block's count", 1, phase.n - block.begin);
    const Operand o = operand();
    const Located destination = write(o, block.count);
    block.destination = destination.reference;
    block.writes_grad_input = o.kind == Kind::grad_input;
    destinations.push_back(destination.span);
    inits.push_back({Kind::constant, 0, 0, 0});
    const bool has_init = next("has_init", 0, 1) != 0;
    const Operand init = operand();
    if (has_init) {
      const bool own = init.kind == o.kind && init.index == o.index && init.offset == o.offset;
      const Located located = own ? destination : read(init, block.count);
      if (!defined(located.span)) fail(text(init) + " is read before it is written");
      block.init = located.reference;
      inits.back() = located.span;
    }
    phase.blocks.push_back(block);
  }
  for (long i = 0; i < blocks; ++i) {
    const Span& to = destinations[i];
    for (const Span& segment : segments)
      if (to.overlaps(segment)) fail("a PRODUCT writes into one of its own segments");
    for (long j = 0; j < blocks; ++j) {
      if (j != i && to.overlaps(destinations[j])) fail("two blocks of a PRODUCT write the same columns");
      if (to.overlaps(inits[j]) && !(i == j && to.equals(inits[j])))
        fail("a block of a PRODUCT writes into an init other than its own");
    }
  }
  for (const Span& span : destinations) define(span);
}

// Neighbours that end up side by side become one block: fewer ragged panels.
void Decoder::merge_blocks(ProductPhase& phase) {
  std::vector<Block> merged;
  for (const Block& block : phase.blocks) {
    Block* last = merged.empty() ? nullptr : &merged.back();
    const bool joins =
      last && last->begin + last->count == block.begin && last->destination.source == block.destination.source &&
      last->destination.offset + last->count == block.destination.offset &&
      last->init.source == block.init.source &&
      (block.init.source < 0 || last->init.offset + last->count == block.init.offset);
    if (joins)
      last->count += block.count;
    else
      merged.push_back(block);
  }
  phase.blocks = std::move(merged);
}

int Decoder::pack_index(const Pack& pack) {
  const auto found = std::find(plan_.packs.begin(), plan_.packs.end(), pack);
  const auto index = static_cast<int>(found - plan_.packs.begin());
  if (found == plan_.packs.end()) plan_.packs.push_back(pack);
  return index;
}

void Decoder::reduce() {
  ReducePhase phase;
  phase.operation = static_cast<int>(next("operation", 0, 2));
  const Operand o = operand();
  phase.length = next("length", 1, most_columns);
  const Located source = read(o, phase.length);
  const Located destination = write(operand(), 1);
  if (source.span.overlaps(destination.span)) fail("a REDUCE writes into its own source");
  phase.source = source.reference;
  phase.destination = destination.reference;
  define(destination.span);
  plan_.row_cost += static_cast<double>(phase.length);
  push(PhaseType::reduce, plan_.reduces.size());
  plan_.reduces.push_back(phase);
}

void Decoder::outer() {
  OuterPhase phase;
  phase.parameter = static_cast<int>(
    next("parameter", 0, static_cast<std::int64_t>(plan_.parameters.size()) - 1));
  const Parameter& matrix = plan_.parameters[phase.parameter];
  if (matrix.columns == 0) fail("parameter " + std::to_string(phase.parameter) + " is a vector, expected a matrix");
  double sizes[2] = {0, 0};
  for (int side = 0; side < 2; ++side) {
    const long most = side == 0 ? matrix.rows : matrix.columns;
    auto& segments = side == 0 ? phase.a : phase.b;
    for (long i = count(side == 0 ? "a_count" : "b_count", 5, most_list); i > 0; --i) {
      const Operand o = operand();
      Segment segment;
      segment.length = next("an operand's length", 1, most);
      segment.begin = next("an operand's begin", 0, most - segment.length);
      segment.reference = read(o, segment.length).reference;
      segments.push_back(segment);
      sizes[side] += static_cast<double>(segment.length);
    }
  }
  plan_.row_cost += 2.0 * sizes[0] * sizes[1];
  push(PhaseType::outer, plan_.outers.size());
  plan_.outers.push_back(std::move(phase));
}

void Decoder::rowsum() {
  RowsumPhase phase;
  phase.parameter = static_cast<int>(
    next("parameter", 0, static_cast<std::int64_t>(plan_.parameters.size()) - 1));
  const Parameter& vector = plan_.parameters[phase.parameter];
  if (vector.columns != 0) fail("parameter " + std::to_string(phase.parameter) + " is a matrix, expected a vector");
  phase.segment.begin = next("begin", 0, vector.rows - 1);
  const Operand o = operand();
  phase.segment.length = next("length", 1, vector.rows - phase.segment.begin);
  phase.segment.reference = read(o, phase.segment.length).reference;
  plan_.row_cost += static_cast<double>(phase.segment.length);
  push(PhaseType::rowsum, plan_.rowsums.size());
  plan_.rowsums.push_back(phase);
}

// What the caller gets back has to be written in full: uninitialised memory must not leak into a result.
void Decoder::completeness() {
  const auto written = [&](Kind kind, int index, long begin, long end, bool or_not_at_all, const std::string& what) {
    const auto it = defined_.find({static_cast<int>(kind), index});
    const bool none = it == defined_.end() || it->second.empty();
    if (or_not_at_all && none) return false;
    if (end > begin && (none || !it->second.covers(begin, end))) fail(what + " is not written in full");
    return true;
  };
  for (std::size_t k = 0; k < plan_.states.size(); ++k) {
    State& s = plan_.states[k];
    const int index = static_cast<int>(k);
    if (backward())
      s.gradient_written = written(Kind::grad_previous, index, 0, s.columns, true, "GRAD_PREVIOUS " + std::to_string(k));
    else if (s.tape_offset < 0)
      written(Kind::state_next, index, 0, s.columns, false, "STATE_NEXT " + std::to_string(k));
  }
  if (backward()) {
    plan_.writes_grad_input = written(Kind::grad_input, 0, 0, plan_.input_columns, true, "GRAD_INPUT");
    plan_.writes_grad_elapsed = written(Kind::grad_elapsed, 0, 0, 1, true, "GRAD_ELAPSED");
    return;
  }
  written(Kind::output, 0, 0, plan_.output_columns, false, "OUTPUT");
  for (const auto& field : fields_)
    written(Kind::tape, 0, field.first, field.second, false, "the tape field at " + std::to_string(field.first));
}

}  // namespace

int opcode_arity(int opcode) {
  static const std::int8_t arity[opcode_count] = {
    1, 2, 2, 2, 2, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2,  // copy .. minimum
    2, 3, 1, 2, 3, 2, 2, 2, 2, 2, 2, 1, 2, 2, 1, 1, 1, 1, 1,  // maximum .. expm1
  };
  return arity[opcode];
}

Plan::Plan(const std::int64_t* code, std::size_t code_size, const double* constant_values, std::size_t constant_size)
  : direction(Direction::infer), input_columns(0), output_columns(0), tape_columns(0), register_count(0),
   uses_elapsed(false), writes_grad_input(false), writes_grad_elapsed(false), row_cost(0) {
  if (code_size > static_cast<std::size_t>(most_code))
    throw std::invalid_argument("plan: the code has " + std::to_string(code_size) + " integers, expected at most " +
                  std::to_string(most_code));
  if (constant_size > static_cast<std::size_t>(most_code))
    throw std::invalid_argument("plan: too many constants");
  constants.assign(constant_values, constant_values + constant_size);
  Decoder(*this, code, code_size).decode();
}

}  // namespace recurra
