// Work memory that is kept between calls: fresh pages cost more than many a computation.
#pragma once

#include <cstddef>

namespace recurra {

struct MemoryBlock;

// At least `size` bytes aligned to 64 (to huge pages when large), until the lease ends. Any thread may hold leases.
class Lease {
 public:
  explicit Lease(std::size_t size);  // throws std::bad_alloc
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  char* data() const;

 private:
  MemoryBlock* block_;
};

}  // namespace recurra
