// Runs a plan. Compiled once for each instruction set.
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "gradients.hpp"
#include "packing.hpp"
#include "problem.hpp"
#include "profile.hpp"
#include "worker.hpp"

namespace recurra {
namespace RECURRA_ISA {
namespace {

// What one thread does of a call. Split by rows, each thread takes rows of the batch through all of time and meets the
// others only for the gradients of parameters. Split by columns, all threads take each step together.
template <class T> class Runner {
 public:
  Runner(Problem<T>& problem, int index, int threads)
      : p_(problem), worker_(problem, index), gradients_(problem, worker_, index, threads), index_(index),
        threads_(threads), rows_(p_.columns_split ? Range{0, p_.batch} : rows_of(index)), watch_(threads) {}

  void run() {
    if (p_.use_packs && !p_.ready_packs()) pack(p_, index_, threads_);
    watch_.lap(Part::packing);
    if (p_.backward() && !p_.call.accumulate) gradients_.clear();
    watch_.lap(Part::ends);
    meet();
    const long chunks = (p_.time + p_.chunk_steps - 1) / p_.chunk_steps;
    for (long i = 0; i < chunks; ++i) {
      const long begin = (p_.backward() ? chunks - 1 - i : i) * p_.chunk_steps;
      run_chunk({begin, smaller(p_.time, begin + p_.chunk_steps)});
    }
    finish();
    watch_.lap(Part::ends);
  }

  void meet() {
    p_.barrier.wait(threads_);
    watch_.lap(Part::waiting);
  }

  void woke_up(Stopwatch::Clock::time_point called) { watch_.lap_since(called, Part::waiting); }

 private:
  // Contiguous sorted rows with nearly equal sums of lengths.
  Range rows_of(int index) const {
    const double whole = static_cast<double>(p_.total_rows);
    Range range{p_.batch, p_.batch};
    double before = 0;
    for (long b = 0; b < p_.batch; ++b) {
      const double middle = before + 0.5 * static_cast<double>(p_.length[b]);
      const int owner = whole > 0 ? static_cast<int>(smaller(threads_ - 1, static_cast<long>(middle / whole * threads_))) : 0;
      if (owner == index && range.begin == p_.batch) range.begin = b;
      if (owner > index) {
        range.end = b;
        break;
      }
      before += static_cast<double>(p_.length[b]);
    }
    return {smaller(range.begin, range.end), range.end};
  }

  void run_chunk(const Range& steps) {
    worker_.chunk = steps;
    outside_loop(section_pre, steps, Part::before);
    if (p_.backward())
      for (long t = steps.end - 1; t >= steps.begin; --t) backward_step(t);
    else
      for (long t = steps.begin; t < steps.end; ++t) step(t);
    outside_loop(section_post, steps, Part::after);
    if (p_.plan.sections[section_gradients].empty()) return;
    meet();
    gradients_.add({steps, {0, p_.batch}});
    watch_.lap(Part::gradients);
  }

  // These sections never look at another row, so threads that take each step together share the steps out here, unless
  // there are too few of them.
  void outside_loop(Section section, const Range& steps, Part part) {
    const auto& phases = p_.plan.sections[section];
    if (phases.empty()) return;
    if (p_.columns_split && steps.end - steps.begin < 4 * threads_) return run_together(phases, steps);
    Extent extent{steps, rows_};
    if (p_.columns_split) {
      const Range share = share_of(steps.end - steps.begin, 1, index_, threads_);
      extent.steps = {steps.begin + share.begin, steps.begin + share.end};
    }
    for (const Phase& phase : phases) worker_.run(phase, extent);
    watch_.lap(part);
    if (p_.columns_split) meet();
  }

  void run_together(const std::vector<Phase>& phases, const Range& steps) {
    const Extent extent{steps, rows_, index_, threads_};
    for (const Phase& phase : phases) {
      worker_.run(phase, extent);
      watch_.lap(part_of(phase));
      meet();
    }
  }

  void step(long t) {
    if (worker_.rows_at(rows_, t).empty()) return;
    const auto& phases = p_.plan.sections[section_loop];
    if (p_.columns_split) return run_together(phases, {t, t + 1});
    for (const Phase& phase : phases) {
      worker_.run(phase, {{t, t + 1}, rows_});
      watch_.lap(part_of(phase));
    }
  }

  static Part part_of(const Phase& phase) {
    return phase.type == PhaseType::product ? Part::product : Part::pointwise;
  }

  void backward_step(long t) {
    const Range rows = worker_.rows_at(rows_, t);
    if (rows.empty()) return;
    if (!p_.columns_split) {
      receive_gradients(t, rows);
    } else if (receives_gradients(t)) {
      receive_gradients(t, share_of(rows.end, 1, index_, threads_));
      meet();
    }
    step(t);
  }

  bool receives_gradients(long t) const {
    if (p_.active[t] > p_.active[t + 1] || (p_.reset_at && t + 1 < p_.time && p_.reset_at[t + 1])) return true;
    for (const State& state : p_.plan.states)
      if (!state.gradient_written) return true;
    return false;
  }

  // GRAD_NEXT of step t: what step t + 1 left, nothing where the row was reset there, what the caller gave where the row
  // ends at t.
  void receive_gradients(long t, const Range& rows) {
    const long continued = p_.active[t + 1];
    for (std::size_t k = 0; k < p_.plan.states.size(); ++k) {
      const long columns = p_.plan.states[k].columns, stride = Problem<T>::padded(columns);
      T *next = p_.gradient[(t + 1) & 1][k], *previous = p_.gradient[t & 1][k];
      for (long b = larger(rows.begin, continued); b < rows.end; ++b) copy_final(static_cast<int>(k), b, next + b * stride);
      if (p_.reset_at && t + 1 < p_.time && p_.reset_at[t + 1] && !p_.plan.states[k].kept)
        for (long b = rows.begin; b < smaller(rows.end, continued); ++b)
          if (p_.is_reset(b, t + 1)) std::memset(next + b * stride, 0, sizeof(T) * columns);
      if (!p_.plan.states[k].gradient_written)
        for (long b = rows.begin; b < rows.end; ++b) std::memset(previous + b * stride, 0, sizeof(T) * columns);
    }
  }

  void copy_final(int k, long b, T* to) const {
    const long columns = p_.plan.states[k].columns;
    if (const void* given = p_.call.final[k])
      std::memcpy(to, static_cast<const T*>(given) + p_.original(b) * columns, sizeof(T) * columns);
    else
      std::memset(to, 0, sizeof(T) * columns);
  }

  void finish() {
    Range rows = rows_;
    if (p_.columns_split) rows = share_of(p_.batch, 1, index_, threads_);
    for (long b = rows.begin; b < rows.end; ++b) {
      for (std::size_t k = 0; k < p_.plan.states.size(); ++k) {
        if (p_.backward())
          finish_gradient(static_cast<int>(k), b);
        else
          finish_state(static_cast<int>(k), b);
      }
      if (p_.backward()) {
        clear_row(p_.call.grad_input, p_.plan.input_columns, b, p_.plan.writes_grad_input ? p_.length[b] : 0);
        clear_row(p_.call.grad_elapsed, 1, b, p_.plan.writes_grad_elapsed ? p_.length[b] : 0);
      } else {
        clear_row(p_.call.output, p_.plan.output_columns, b, p_.length[b]);
      }
    }
  }

  void finish_state(int k, long b) {
    const long columns = p_.plan.states[k].columns, length = p_.length[b];
    const View<T> last = length > 0 ? worker_.state_view(k, length - 1) : View<T>{p_.initial[k], columns};
    std::memcpy(static_cast<T*>(p_.call.final[k]) + p_.original(b) * columns, last.base + b * last.stride,
                sizeof(T) * columns);
  }

  void finish_gradient(int k, long b) {
    if (!p_.call.grad_initial[k]) return;
    const long columns = p_.plan.states[k].columns;
    T* to = static_cast<T*>(p_.call.grad_initial[k]) + p_.original(b) * columns;
    if (p_.length[b] == 0)
      copy_final(k, b, to);
    else if (p_.is_reset(b, 0) && !p_.plan.states[k].kept)
      std::memset(to, 0, sizeof(T) * columns);
    else
      std::memcpy(to, p_.gradient[0][k] + b * Problem<T>::padded(columns), sizeof(T) * columns);
  }

  void clear_row(const Strided& array, long columns, long b, long from) {
    if (!array.address) return;
    for (long t = from; t < p_.time; ++t) std::memset(p_.caller_row(array, b, t), 0, sizeof(T) * columns);
  }

  Problem<T>& p_;
  Worker<T> worker_;
  Gradients<T> gradients_;
  int index_, threads_;
  Range rows_;
  Stopwatch watch_;
};

constexpr double serial_operations = 4e6;  // below, other threads take longer to wake up than to help
constexpr long direct_rows = 16;           // up to here, packing a matrix costs more than it saves

// Nanoseconds that a thread takes for its part of a step of the loop: `rows` rows by `part` of the columns. The weights
// come from the second cache once for each tile of rows, from the third when they do not fit there.
template <class T> double step_time(const Problem<T>& p, double rows, double part) {
  const Plan& plan = p.plan;
  constexpr double operations = 400.0 / sizeof(T), second_cache = 768 << 10, near = 65, far = 30;
  double bytes = 0;
  for (const Phase& phase : plan.sections[section_loop])
    if (phase.type == PhaseType::product) {
      const ProductPhase& product = plan.products[phase.index];
      const double weight = part * static_cast<double>(p.element_size(product.parameter));
      for (const Block& block : product.blocks) bytes += weight * static_cast<double>(block.count * product.summands(block));
    }
  const double tiles = std::ceil(rows / tile_rows);
  return std::max(rows * part * plan.loop_cost / operations, tiles * bytes / (bytes < second_cache ? near : far));
}

template <class T> void choose_split(Problem<T>& p) {
  constexpr double meeting = 300;  // nanoseconds that threads lose at a barrier
  // Where other processes compete for the processors, threads that meet at every step lose far more: it has to be worth it.
  constexpr double advantage = 0.75;
  p.threads = static_cast<int>(smaller(p.threads, 256));
  const double rows = static_cast<double>(p.batch) * static_cast<double>(p.time);
  if (settings.split == Split::automatic && rows * p.plan.row_cost < serial_operations) p.threads = 1;
  if (p.batch == 0 || p.time == 0) p.threads = 1;
  if (p.threads == 1) return;
  const double share = std::ceil(static_cast<double>(p.batch) / p.threads);
  const double by_rows = step_time<T>(p, share, 1);
  const double meetings = meeting * static_cast<double>(p.plan.sections[section_loop].size());
  const double by_columns = step_time<T>(p, static_cast<double>(p.batch), 1.0 / p.threads) + meetings;
  p.columns_split = settings.split == Split::columns ||
      (settings.split == Split::automatic && by_columns < advantage * by_rows);
}

template <class T> void choose(Problem<T>& problem) {
  choose_split(problem);
  problem.use_packs = problem.call.packed != nullptr || problem.batch * problem.time > direct_rows;
  problem.choose_chunk();
  problem.choose_strip();
  problem.choose_sparse();
}

template <class T> void run_as(const Plan& plan, const Arguments& call) {
  Stopwatch watch(1);
  Problem<T> problem(plan, call);
  choose(problem);
  Carver measure(nullptr);
  problem.lay_out(measure);
  const Lease lease(measure.used());
  if (settings.poison) std::memset(lease.data(), 0xff, measure.used());
  Carver carver(lease.data());
  problem.lay_out(carver);
  problem.fill();
  watch.lap(Part::ends);
  if (problem.threads == 1) {
    Runner<T>(problem, 0, 1).run();
    return;
  }
  problem.barrier.expect(problem.threads, omp_get_num_procs());
  const auto called = Stopwatch::Clock::now();
#pragma omp parallel num_threads(problem.threads)
  {
    Runner<T> runner(problem, omp_get_thread_num(), omp_get_num_threads());
    if (watch.on()) runner.woke_up(called);  // by one watch: the profile may be switched while they run
    runner.run();
    if (watch.on()) runner.meet();
  }
}

std::unique_ptr<char, void (*)(void*)> reserve(long bytes) {
  std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::aligned_alloc(64, larger(64, bytes))), std::free);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

template <class T> class PreparedAs : public Prepared {
 public:
  PreparedAs(const Plan& plan, const Arguments& call) : call_(call), problem_(plan, call_) {
    choose(problem_);
    if (problem_.threads > 1) return;
    Carver measure(nullptr);
    problem_.lay_out(measure);
    memory_ = reserve(measure.used());
    bytes_ = measure.used();
    Carver carver(memory_.get());
    problem_.lay_out(carver);
    problem_.fill();
  }
  bool is_serial() const { return problem_.threads == 1; }

  void run(const Arguments& call) override {
    if (settings.poison) poison();
    call_ = call;
    for (std::size_t k = 0; k < problem_.plan.states.size(); ++k) problem_.initial[k] = static_cast<T*>(call.initial[k]);
    Runner<T>(problem_, 0, 1).run();
  }

 private:
  void poison() {
    std::memset(memory_.get(), 0xff, bytes_);
    Carver carver(memory_.get());
    problem_.lay_out(carver);
    problem_.fill();
  }

  Arguments call_;
  Problem<T> problem_;
  std::unique_ptr<char, void (*)(void*)> memory_{nullptr, std::free};
  long bytes_ = 0;
};

template <class T> std::unique_ptr<Prepared> prepare_as(const Plan& plan, const Arguments& call) {
  auto prepared = std::make_unique<PreparedAs<T>>(plan, call);
  if (!prepared->is_serial()) return nullptr;
  return prepared;
}

std::unique_ptr<Prepared> prepare(const Plan& plan, const Arguments& call) {
  if (call.item_size == 4) return prepare_as<float>(plan, call);
  return prepare_as<double>(plan, call);
}

template <class T> std::unique_ptr<PackedParameters> pack_as(const Plan& plan, const Arguments& call) {
  Problem<T> problem(plan, call);
  problem.use_packs = true;
  problem.choose_sparse();
  Carver measure(nullptr);
  problem.lay_out_packs(measure);
  auto packed = std::make_unique<Packed<T>>();
  packed->memory = reserve(measure.used());
  Carver carver(packed->memory.get());
  problem.lay_out_packs(carver);
  pack(problem, 0, 1);
  packed->packs.assign(problem.packs, problem.packs + plan.packs.size());
  packed->sparse.assign(problem.sparse_packs, problem.sparse_packs + plan.packs.size());
  packed->nonzero = problem.nonzero;
  return packed;
}

std::unique_ptr<PackedParameters> pack_parameters(const Plan& plan, const Arguments& call) {
  if (call.item_size == 4) return pack_as<float>(plan, call);
  return pack_as<double>(plan, call);
}

void run(const Plan& plan, const Arguments& call) {
  if (call.item_size == 4)
    run_as<float>(plan, call);
  else
    run_as<double>(plan, call);
}

double measure_peak(int item_size, double seconds) {
  return item_size == 4 ? peak<float>(seconds) : peak<double>(seconds);
}

}  // namespace

#define RECURRA_TEXT_OF(name) #name
#define RECURRA_TEXT(name) RECURRA_TEXT_OF(name)
extern const Engine engine;
const Engine engine = {RECURRA_TEXT(RECURRA_ISA), has_pairs, run, pack_parameters, prepare, measure_peak};

}  // namespace RECURRA_ISA
}  // namespace recurra
