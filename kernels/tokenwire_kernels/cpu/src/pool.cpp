#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define TW_PAUSE() _mm_pause()
#else
#define TW_PAUSE() std::this_thread::yield()
#endif

namespace tokenwire {

namespace {

// Some 50 µs on a current CPU: longer than a thread is ever behind the others unless it was interrupted.
constexpr int kSpins = 2000;
constexpr size_t kAlignment = 64;

struct Buffer {
    void *memory = nullptr;
    size_t size = 0;

    void *at_least(size_t num_bytes) {
        if (num_bytes > size) {
            std::free(memory);
            size = (num_bytes + num_bytes / 4 + kAlignment - 1) / kAlignment * kAlignment;
            memory = std::aligned_alloc(kAlignment, size);
            if (memory == nullptr) std::abort();
        }
        return memory;
    }
    ~Buffer() { std::free(memory); }
};

void wait_for_change(std::atomic<uint32_t> &value, uint32_t old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        TW_PAUSE();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

struct Pool::State {
    int num_threads;
    std::vector<std::thread> threads;
    std::mutex mutex;

    // Counts runs, for those who sleep between them.
    alignas(64) std::atomic<uint32_t> runs{0};
    // 1 while a run may be entered, plus 2 for each thread that is in it.
    alignas(64) std::atomic<uint32_t> gate{0};
    // The phase in the upper half, the next task of it in the lower one.
    alignas(64) std::atomic<uint64_t> ticket{0};
    alignas(64) std::atomic<int64_t> completed{0};
    // The phase once more, to sleep on.
    alignas(64) std::atomic<uint32_t> phase{0};
    std::atomic<bool> stopping{false};
    void (*body)(Worker &, const void *) = nullptr;
    const void *argument = nullptr;
    uint32_t first_phase = 0;

    std::vector<Buffer> scratch;
    Buffer shared[kScratchSlots];

    explicit State(int count) : num_threads(count), scratch(static_cast<size_t>(count) * kScratchSlots) {}

    void advance(uint32_t from) {
        completed.store(0, std::memory_order_relaxed);
        ticket.store(static_cast<uint64_t>(from + 1) << 32, std::memory_order_release);
        phase.store(from + 1, std::memory_order_release);
        phase.notify_all();
    }

    // Take part in the current run, if there still is one.
    void join(Pool *pool, int index) {
        uint32_t seen = gate.load(std::memory_order_acquire);
        do {
            if ((seen & 1) == 0) return;
        } while (!gate.compare_exchange_weak(seen, seen + 2, std::memory_order_acq_rel));
        Worker worker(pool, index, first_phase);
        body(worker, argument);
        if (gate.fetch_sub(2, std::memory_order_acq_rel) == 2) gate.notify_all();
    }
};

int Worker::num_threads() const { return pool->state_->num_threads; }

bool Worker::claim(int64_t tasks, int64_t &begin, int64_t &end, int pieces) {
    Pool::State &state = *pool->state_;
    if (pending > 0) {
        const int64_t done = state.completed.fetch_add(pending, std::memory_order_acq_rel) + pending;
        pending = 0;
        if (done == count) {
            state.advance(phase);
            return false;
        }
    }
    uint64_t ticket = state.ticket.load(std::memory_order_acquire);
    for (;;) {
        if (static_cast<uint32_t>(ticket >> 32) != phase) return false;
        const int64_t first = static_cast<int64_t>(ticket & 0xffffffffu);
        if (tasks == 0) {  // Nobody will complete it: whoever comes first passes on.
            if (state.ticket.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel) && first == 0)
                state.advance(phase);
            return false;
        }
        if (first >= tasks) return false;
        int64_t size = (tasks - first) / (pieces * state.num_threads);
        if (state.num_threads == 1) size = tasks;
        if (size < 1) size = 1;
        if (state.ticket.compare_exchange_weak(ticket, ticket + static_cast<uint64_t>(size),
                                               std::memory_order_acq_rel)) {
            begin = first;
            end = first + size;
            count = tasks;
            pending = size;
            return true;
        }
    }
}

void Worker::sync() {
    wait_for_change(pool->state_->phase, phase);
    ++phase;
}

void *Worker::scratch(int slot, size_t num_bytes) {
    return pool->state_->scratch[static_cast<size_t>(index) * kScratchSlots + slot].at_least(num_bytes);
}

void *Worker::shared(int slot) const { return pool->state_->shared[slot].memory; }

Pool::Pool(int num_threads, const int32_t *cpus) : state_(new State(num_threads)) {
    for (int index = 1; index < num_threads; ++index) {
        state_->threads.emplace_back([this, index] {
            for (uint32_t seen = 0;;) {
                // Between runs nobody spins.
                state_->runs.wait(seen, std::memory_order_acquire);
                seen = state_->runs.load(std::memory_order_acquire);
                if (state_->stopping.load(std::memory_order_relaxed)) return;
                state_->join(this, index);
            }
        });
        pthread_setname_np(state_->threads.back().native_handle(), "tokenwire-cpu");
        if (cpus != nullptr) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpus[index], &set);
            pthread_setaffinity_np(state_->threads.back().native_handle(), sizeof set, &set);
        }
    }
}

Pool::~Pool() {
    state_->stopping.store(true);
    state_->runs.fetch_add(1, std::memory_order_release);
    state_->runs.notify_all();
    for (auto &thread : state_->threads) thread.join();
    delete state_;
}

int Pool::num_threads() const { return state_->num_threads; }

void Pool::run(void (*body)(Worker &, const void *), const void *argument) {
    State &state = *state_;
    state.body = body;
    state.argument = argument;
    state.first_phase = state.phase.load(std::memory_order_relaxed);
    if (state.num_threads > 1) {
        state.gate.store(1, std::memory_order_release);
        state.runs.fetch_add(1, std::memory_order_release);
        state.runs.notify_all();
    }
    Worker worker(this, 0, state.first_phase);
    body(worker, argument);
    if (state.num_threads > 1) {
        // Nobody enters any more; wait for those who are still on their way through.
        uint32_t inside = state.gate.fetch_and(~1u, std::memory_order_acq_rel) & ~1u;
        for (; inside != 0; inside = state.gate.load(std::memory_order_acquire)) wait_for_change(state.gate, inside);
    }
}

void Pool::run_alone(void (*body)(Worker &, const void *), const void *argument) {
    Worker worker(this, 0, state_->phase.load(std::memory_order_relaxed));
    body(worker, argument);
}

void Pool::reserve(int slot, size_t num_bytes) { state_->shared[slot].at_least(num_bytes); }

void Pool::lock() { state_->mutex.lock(); }

void Pool::unlock() { state_->mutex.unlock(); }

}  // namespace tokenwire
