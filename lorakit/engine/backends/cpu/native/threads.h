// Work shared out among the threads that PyTorch computes with.
//
// They are called by the interface of GNU's OpenMP, which LLVM's and Intel's have too, through pointers that are given
// when the library is loaded: nothing is linked, so that one library serves with any of them, there are never two
// runtimes that wait for each other's cores, and compilers without OpenMP do. Without pointers one thread computes.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace {

struct Threads {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
    void (*barrier)();                                             // GOMP_barrier
    int (*number)();                                               // omp_get_thread_num
    int (*count)();                                                // omp_get_num_threads
    int (*most)();                                                 // omp_get_max_threads
};

Threads threads{};

// How many threads the next work is shared among.
inline std::int64_t most_threads() {
    return threads.parallel ? threads.most() : 1;
}

// Calls work(me, of) in each of so many threads. Nothing that it throws may leave it.
template <class Work>
void in_parallel(const Work& work) {
    if (threads.parallel == nullptr) {
        work(std::int64_t{0}, std::int64_t{1});
        return;
    }
    const auto call = [](void* of_caller) {
        const Work& its = *static_cast<const Work*>(of_caller);
        its(std::int64_t{threads.number()}, std::int64_t{threads.count()});
    };
    threads.parallel(call, const_cast<Work*>(&work), 0, 0);
}

// Within a work: goes on when all threads have come here.
inline void wait_for_all() {
    if (threads.parallel) threads.barrier();
}

// Calls body(i) for 0 to count - 1: an equal part of them, which lie together, in each thread.
template <class Body>
void for_each(std::int64_t count, const Body& body) {
    in_parallel([count, &body](std::int64_t me, std::int64_t of) {
        const Body its = body;  // of this thread alone, so that its pointers stay in registers
        for (std::int64_t i = count * me / of; i < count * (me + 1) / of; ++i) its(i);
    });
}

// The same in pieces of a size, so that body(first, after) is a loop of its own: as cut, whatever the threads.
template <class Body>
void for_pieces(std::int64_t count, std::int64_t size, const Body& body) {
    for_each((count + size - 1) / size,
             [count, size, body](std::int64_t piece) { body(piece * size, std::min(count, (piece + 1) * size)); });
}

// Within a work: the next of what threads take one by one as they become free.
class Queue {
    std::atomic<std::int64_t> taken{0};

public:
    std::int64_t next() {
        return taken.fetch_add(1, std::memory_order_relaxed);
    }
};

}  // namespace

extern "C" void use_threads(const Threads* those) {
    threads = *those;
}
