// Threads that compute one function together, and sleep in between.

#pragma once

#include <cstddef>
#include <cstdint>

namespace tokenwire {

class Pool;

// One thread's view of a run. All threads execute the same function, which is a sequence of phases: `claim` divides
// a phase's tasks, `sync` waits until all of them are done. It waits for tasks, never for threads: one that the
// system keeps from running is not missed, and walks through what was done without it when it comes back.
struct Worker {
    static constexpr int kPieces = 4;

    Pool *pool;
    int index;
    uint32_t phase;
    int64_t count;    // Of this phase's tasks,
    int64_t pending;  // and those of them that this thread has claimed last.

    Worker(Pool *owner, int number, uint32_t first_phase = 0)
        : pool(owner), index(number), phase(first_phase), count(0), pending(0) {}

    // The next piece of a phase's `count` tasks; false when none is left. Pieces get smaller towards the end, so
    // that a thread that was interrupted does not keep the others waiting; the first are a share of what each thread
    // would do. Phases that are short and even take their whole share at once: a claim costs the threads each
    // other's time, and neighbouring tasks read neighbouring memory.
    bool claim(int64_t count, int64_t &begin, int64_t &end, int pieces = kPieces);
    // Wait for the phase's tasks. Spins for some microseconds before it sleeps.
    void sync();
    int num_threads() const;
    // Memory of this thread alone, valid until its next call with the same slot.
    void *scratch(int slot, size_t num_bytes);
    // Memory that all threads share: sized by the caller of `Pool::run` before.
    void *shared(int slot) const;
};

constexpr int kScratchSlots = 8;

class Pool {
  public:
    // `cpus`: one for each thread, or null.
    Pool(int num_threads, const int32_t *cpus);
    ~Pool();
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int num_threads() const;
    // Execute `body` on the calling thread, and on those of the others that wake up in time. One run at a time:
    // under `lock`.
    void run(void (*body)(Worker &, const void *), const void *argument);
    // The same on the calling thread alone, for what takes less time than to wake another.
    void run_alone(void (*body)(Worker &, const void *), const void *argument);
    // Shared memory for the run to come. Under `lock`.
    void reserve(int slot, size_t num_bytes);
    void lock();
    void unlock();

  private:
    friend struct Worker;
    struct State;
    State *state_;
};

}  // namespace tokenwire
