// What the tests of the kernels share: checks that are counted, random numbers, and memory with guards.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

static long failures = 0, checks = 0;
#define CHECK(condition, ...)                                            \
  do {                                                                   \
    ++checks;                                                            \
    if (!(condition) && ++failures <= 20) {                              \
      std::printf("FAILED %s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                          \
      std::printf("\n");                                                 \
    }                                                                    \
  } while (0)

static std::mt19937_64 generator(1);
static double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

// Memory that ends at a page which may not be touched, behind a zone whose bytes must stay as they were.
template <class T> class Guarded {
 public:
  explicit Guarded(long capacity) {
    const long page = sysconf(_SC_PAGESIZE);
    bytes_ = (capacity * long(sizeof(T)) + zone + page - 1) / page * page;
    base_ = static_cast<unsigned char*>(
        mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + bytes_, page, PROT_NONE) != 0) std::abort();
  }
  ~Guarded() { munmap(base_, bytes_ + sysconf(_SC_PAGESIZE)); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* reset(long count) {
    data_ = base_ + bytes_ - count * long(sizeof(T));
    for (unsigned char* p = data_ - zone; p < data_; ++p) *p = 0xa5;
    for (long i = 0; i < count; ++i) data()[i] = T(uniform(-1, 1));
    return data();
  }
  T* data() { return reinterpret_cast<T*>(data_); }
  bool intact() const {
    for (const unsigned char* p = data_ - zone; p < data_; ++p)
      if (*p != 0xa5) return false;
    return true;
  }

 private:
  static constexpr long zone = 512;
  long bytes_;
  unsigned char *base_, *data_ = nullptr;
};

// Rows of the same length, each in its own guarded memory.
template <class T> class Rows {
 public:
  Rows(long rows, long columns) {
    for (long r = 0; r < rows; ++r) memory_.push_back(new Guarded<T>(columns));
  }
  ~Rows() {
    for (auto* memory : memory_) delete memory;
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  void reset(long rows, long columns) {
    pointers.clear(), constant.clear();
    for (long r = 0; r < rows; ++r) pointers.push_back(memory_[r]->reset(columns)), constant.push_back(pointers.back());
  }
  bool intact() const {
    for (size_t r = 0; r < pointers.size(); ++r)
      if (!memory_[r]->intact()) return false;
    return true;
  }
  std::vector<T*> pointers;
  std::vector<const T*> constant;

 private:
  std::vector<Guarded<T>*> memory_;
};

template <class T> static bool same(T a, T b) { return std::memcmp(&a, &b, sizeof a) == 0; }
