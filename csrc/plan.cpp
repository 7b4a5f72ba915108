#include "plan.hpp"

#include "decoder.hpp"

namespace recurra {

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
  add_cost(8.0 * static_cast<double>(phase.width) * static_cast<double>(phase.instructions.size()));
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
      const bool scalar = o.kind == Kind::elapsed || is_scalar(o.kind);
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
  product_blocks(phase, product_segments(phase, matrix.sparse));
  merge_blocks(phase);
  for (Block& block : phase.blocks) {
    block.pack = pack_index({phase.parameter, phase.transposed, block.begin, block.count, phase.k});
    add_cost(2.0 * static_cast<double>(block.count) * static_cast<double>(phase.summands(block)));
  }
  push(PhaseType::product, plan_.products.size());
  plan_.products.push_back(std::move(phase));
}

std::vector<Span> Decoder::product_segments(ProductPhase& phase, bool sparse) {
  std::vector<Span> spans;
  for (long i = count("segment_count", 5, most_list); i > 0; --i) {
    const Operand o = operand();
    Segment segment;
    segment.length = next("a segment's length", 1, phase.k);
    segment.begin = next("a segment's begin", 0, phase.k - segment.length);
    const Located located = read(o, segment.length);
    segment.reference = located.reference;
    spans.push_back(located.span);
    phase.segments.push_back(segment);
  }
  if (sparse && (phase.segments.size() != 1 || phase.segments[0].length != phase.k))
    fail("a sparse matrix takes one segment of " + std::to_string(phase.k) + " columns");
  return spans;
}

void Decoder::product_blocks(ProductPhase& phase, const std::vector<Span>& segments) {
  std::vector<Span> destinations, inits;
  const long blocks = count("block_count", 11, most_list), most_segments = static_cast<long>(segments.size());
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
    block.first_segment = static_cast<int>(next("a block's first segment", 0, most_segments - 1));
    const long left = most_segments - block.first_segment;
    block.segment_count = static_cast<int>(next("a block's segment count", 1, left));
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
      last->first_segment == block.first_segment && last->segment_count == block.segment_count &&
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
  phase.operation = static_cast<int>(next("operation", 0, 5));
  const Operand o = operand();
  phase.length = next("length", 1, most_columns);
  const Located source = read(o, phase.length);
  const Located second = phase.operation == 3 ? read(operand(), phase.length) : source;
  phase.epsilon = 0;
  if (phase.operation > 3)
    phase.epsilon = static_cast<int>(next("epsilon", 0, static_cast<std::int64_t>(plan_.constants.size()) - 1));
  const Located destination = write(operand(), 1);
  if (source.span.overlaps(destination.span) || second.span.overlaps(destination.span))
    fail("a REDUCE writes into its own source");
  phase.source = source.reference;
  phase.second = second.reference;
  phase.destination = destination.reference;
  define(destination.span);
  add_cost(static_cast<double>(phase.length));
  push(PhaseType::reduce, plan_.reduces.size());
  plan_.reduces.push_back(phase);
}

void Decoder::normalise() {
  NormalisePhase phase;
  phase.centred = next("centred", 0, 1) != 0;
  phase.length = next("length", 1, most_columns);
  const Located source = read(operand(), phase.length), scale = read(operand(), 1);
  const Located destination = write(operand(), phase.length);
  const bool gradient = next("has_normal", 0, 1) != 0;
  const Operand o = operand();
  phase.normal = {};
  if (gradient) {
    const Located normal = read(o, phase.length);
    phase.normal = normal.reference;
    if (normal.span.overlaps(destination.span)) fail("a NORMALISE writes into what it reads");
  }
  if (source.span.overlaps(destination.span) || scale.span.overlaps(destination.span))
    fail("a NORMALISE writes into what it reads");
  phase.source = source.reference;
  phase.scale = scale.reference;
  phase.destination = destination.reference;
  define(destination.span);
  add_cost(4.0 * static_cast<double>(phase.length));
  push(PhaseType::normalise, plan_.normalises.size());
  plan_.normalises.push_back(phase);
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
  add_cost(2.0 * sizes[0] * sizes[1]);
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
  add_cost(static_cast<double>(phase.segment.length));
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

int opcode_arity(int opcode) {
  static const std::int8_t arity[opcode_count] = {
    1, 2, 2, 2, 2, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2,  // copy .. minimum
    2, 3, 1, 2, 3, 2, 2, 2, 2, 2, 2, 1, 2, 2, 1, 1, 1, 1, 1,  // maximum .. expm1
    2,                                                        // mix
  };
  return arity[opcode];
}

Plan::Plan(const std::int64_t* code, std::size_t code_size, const double* constant_values, std::size_t constant_size)
  : direction(Direction::infer), input_columns(0), output_columns(0), tape_columns(0), register_count(0), unit_columns(0),
   uses_elapsed(false), writes_grad_input(false), writes_grad_elapsed(false), row_cost(0), loop_cost(0) {
  if (code_size > static_cast<std::size_t>(most_code))
    throw std::invalid_argument("plan: the code has " + std::to_string(code_size) + " integers, expected at most " +
                  std::to_string(most_code));
  if (constant_size > static_cast<std::size_t>(most_code))
    throw std::invalid_argument("plan: too many constants");
  constants.assign(constant_values, constant_values + constant_size);
  Decoder(*this, code, code_size).decode();
}

}  // namespace recurra
