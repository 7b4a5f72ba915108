#include "arena.hpp"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace recurra {

struct MemoryBlock {
  char* data;
  std::size_t size;
  void* mapping;  // null: from aligned_alloc
  std::size_t mapping_size;
};

namespace {

constexpr std::size_t huge_page = std::size_t(1) << 21, most_kept = std::size_t(1) << 30;
constexpr int slot_count = 16;

// A block that nobody uses lies in a slot. Taking one is an exchange, so there is no lock that a fork could leave held.
std::atomic<MemoryBlock*> slots[slot_count];
std::atomic<std::size_t> kept{0};

MemoryBlock* create(std::size_t size) {
  auto* block = new MemoryBlock{nullptr, 0, nullptr, 0};
  if (size < huge_page) {
    block->size = (size + 4095) / 4096 * 4096;
    block->data = static_cast<char*>(std::aligned_alloc(64, block->size));
    if (block->data == nullptr) {
      delete block;
      throw std::bad_alloc();
    }
    return block;
  }
  block->size = (size + size / 8 + huge_page - 1) / huge_page * huge_page;
  block->mapping_size = block->size + huge_page;
  void* mapping = mmap(nullptr, block->mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    delete block;
    throw std::bad_alloc();
  }
  block->mapping = mapping;
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  block->data = reinterpret_cast<char*>((address + huge_page - 1) / huge_page * huge_page);
#ifdef MADV_HUGEPAGE
  madvise(block->data, block->size, MADV_HUGEPAGE);  // advice: without it the pages are only smaller
#endif
  return block;
}

void destroy(MemoryBlock* block) {
  if (block->mapping != nullptr)
    munmap(block->mapping, block->mapping_size);
  else
    std::free(block->data);
  delete block;
}

void keep(MemoryBlock* block) {
  if (kept.fetch_add(block->size) + block->size <= most_kept) {
    for (auto& slot : slots) {
      MemoryBlock* empty = nullptr;
      if (slot.load(std::memory_order_relaxed) == nullptr && slot.compare_exchange_strong(empty, block)) return;
    }
  }
  kept.fetch_sub(block->size);
  destroy(block);
}

// Of the blocks with room for `least` and at most `most` bytes the smallest, or null: a small lease that took the block of
// a large one would leave that to fresh pages.
MemoryBlock* take(std::size_t least, std::size_t most) {
  MemoryBlock* best = nullptr;
  for (auto& slot : slots) {
    if (slot.load(std::memory_order_relaxed) == nullptr) continue;
    MemoryBlock* block = slot.exchange(nullptr);
    if (block == nullptr) continue;
    kept.fetch_sub(block->size);
    const bool better = block->size >= least && block->size <= most && (best == nullptr || block->size < best->size);
    if (better) std::swap(best, block);
    if (block != nullptr) keep(block);
  }
  return best;
}

}  // namespace

Lease::Lease(std::size_t size) : block_(take(size, 2 * size + huge_page)) {
  if (block_ != nullptr) return;
  // The new block takes the place of one that was too small.
  if (MemoryBlock* small = take(0, size)) destroy(small);
  block_ = create(size);
}
Lease::~Lease() { keep(block_); }
char* Lease::data() const { return block_->data; }

}  // namespace recurra
