// A decoded and verified plan (docs/plan-format.md). Whatever stands in a Plan is safe to run: every operand lies inside
// its buffer, nothing is read before it is written, and no phase overlaps what it reads with what it writes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace recurra {

enum class Direction { infer, train, backward };

enum class Kind : int {
  register_, constant, vector, input, elapsed, output, chunk, tape, temp, state_previous, state_next, grad_output,
  grad_next, grad_previous, grad_input, grad_elapsed, scalar_temp, scalar_chunk, scalar_tape, unit,
};
constexpr int kind_count = 20;
constexpr bool is_scalar(Kind kind) { return kind >= Kind::scalar_temp && kind <= Kind::scalar_tape; }

enum class Opcode : int {
  copy, add, sub, mul, div, neg, fma, fnma, one_minus, sigmoid, tanh, relu, exp, log, sqrt, rsqrt, softplus, abs,
  minimum, maximum, clip, floor, mod, where, lt, le, gt, ge, eq, ne, sign, sigmoid_gradient, tanh_gradient, step, sin,
  cos, log1p, expm1, mix,
};
constexpr int opcode_count = 39;
int opcode_arity(int opcode);

enum Section { section_pre, section_loop, section_post, section_gradients, section_count };

// A buffer with rows. TAPE has one source a field, the scalar kinds share the source of the buffer that they read.
struct Source {
  Kind kind;
  int index;
  long columns;
  long field;  // TAPE: the field's first column on the tape, else 0
};

// Columns of a row of a source, from `offset`.
struct Reference {
  int source = -1;
  long offset = 0;
};

enum class Mode : int { register_, constant, row, scalar };

struct PointwiseOperand {
  Mode mode;
  int index;  // register or constant
  Reference reference;
  bool written;
};

struct Instruction {
  std::int16_t opcode, destination, a, b, c;
};

struct PointwisePhase {
  long width;
  std::vector<PointwiseOperand> operands;
  std::vector<Instruction> instructions;
};

struct Segment {
  Reference reference;
  long length, begin;  // begin: its place in the matrix
};

struct Block {
  long begin, count;
  Reference destination, init;  // init.source -1: none
  int first_segment, segment_count;  // the segments that it is a product of
  bool writes_grad_input;
  int pack;  // index into Plan::packs
};

struct ProductPhase {
  int parameter;
  bool transposed;
  long n, k;  // of the matrix as it is used: n results from k values
  std::vector<Segment> segments;
  std::vector<Block> blocks;
  long summands(const Block& block) const {
    long count = 0;
    for (int s = 0; s < block.segment_count; ++s) count += segments[block.first_segment + s].length;
    return count;
  }
};

struct ReducePhase {
  int operation;
  Reference source, second, destination;  // second: of a sum of products only
  int epsilon;                            // of the inverse deviations only: index of a constant
  long length;
};

struct NormalisePhase {
  bool centred;
  long length;
  Reference source, scale, normal, destination;  // normal.source -1: forward; else source is the cotangent of normal
};

struct OuterPhase {
  int parameter;
  std::vector<Segment> a, b;
};

struct RowsumPhase {
  int parameter;
  Segment segment;
};

enum class PhaseType : int { pointwise, product, reduce, outer, rowsum, normalise };

struct Phase {
  PhaseType type;
  int index;  // into the plan's list of that type
};

// Rows [begin, begin + count) of a matrix, packed for products once a call whichever phases use it.
struct Pack {
  int parameter;
  bool transposed;
  long begin, count, k;
  bool operator==(const Pack& other) const {
    return parameter == other.parameter && transposed == other.transposed && begin == other.begin &&
       count == other.count;
  }
};

struct Parameter {
  long rows, columns;  // columns 0: a vector
  bool sparse;         // a matrix of which most elements are zero
};

struct State {
  long columns, tape_offset;
  int initial;
  bool kept;              // a reset leaves it alone
  bool gradient_written;  // GRAD_PREVIOUS is computed; else it is zero
};

struct Plan {
  Direction direction;
  long input_columns, output_columns, tape_columns;
  int register_count;
  long unit_columns;  // the largest column number that UNIT is read for, and one
  std::vector<double> constants;
  std::vector<Parameter> parameters;
  std::vector<State> states;
  std::vector<long> chunks, temps;
  std::vector<Source> sources;
  std::array<std::vector<int>, section_count> section_sources;
  std::array<std::vector<Phase>, section_count> sections;
  std::vector<PointwisePhase> pointwise;
  std::vector<ProductPhase> products;
  std::vector<ReducePhase> reduces;
  std::vector<OuterPhase> outers;
  std::vector<RowsumPhase> rowsums;
  std::vector<NormalisePhase> normalises;
  std::vector<Pack> packs;
  bool uses_elapsed, writes_grad_input, writes_grad_elapsed;
  double row_cost, loop_cost;  // floating point operations a row, roughly: of all sections, of the loop

  // Throws std::invalid_argument when the plan breaks a rule.
  Plan(const std::int64_t* code, std::size_t code_size, const double* constants, std::size_t constant_size);
};

}  // namespace recurra
