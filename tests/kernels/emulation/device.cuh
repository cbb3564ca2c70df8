// CUDA threads on a CPU, as fibers of one thread: each runs to the next barrier, and then it is another's turn. What
// the kernels' own device.cuh has, and what CUDA C++ has beyond C++.

#pragma once

#include <csetjmp>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index {
    int x = 0;
};

inline Index threadIdx, blockIdx, blockDim, gridDim;

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}

namespace emulation {

struct Fiber {
    ucontext_t context;  // it begins with
    jmp_buf place;       // where it goes on
    int block, thread;
    bool has_begun = false, is_done = false;
};

struct Barrier {
    int waiting = 0, times = 0;
};

// What the threads of one block have in common.
struct Block {
    std::vector<uint4> dynamic_shared;
    std::map<int, Barrier> barriers;
    std::vector<float> exchanged;
};

constexpr int STACK_BYTES = 64 << 10;
inline jmp_buf scheduler;
inline std::vector<Fiber> fibers;
inline std::vector<std::unique_ptr<char[]>> stacks;  // one for each fiber, kept for the next launch
inline std::vector<Block> blocks;
inline Fiber* current = nullptr;
inline Block* block = nullptr;
inline std::function<void()> kernel;

// Jumps instead of changes of context, which would ask the system for its signals every time.
inline void yield() {
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.has_begun) _longjmp(fiber.place, 1);
    fiber.has_begun = true;
    setcontext(&fiber.context);
}

inline void wait(int number, int threads) {
    Barrier& barrier = block->barriers[number];
    if (++barrier.waiting == threads) {
        barrier.waiting = 0;
        ++barrier.times;
        return;
    }
    for (const int times = barrier.times; barrier.times == times;) yield();
}

inline void enter() {
    kernel();
    current->is_done = true;
    _longjmp(scheduler, 1);
}

inline void run(int first_block, int count, int shared_bytes) {
    const int threads = blockDim.x;
    blocks = std::vector<Block>(count);
    for (Block& each : blocks) {
        each.dynamic_shared.assign(shared_bytes / sizeof(uint4), make_uint4(~0u, ~0u, ~0u, ~0u));
        each.exchanged.resize(threads);
    }
    fibers = std::vector<Fiber>(count * threads);
    while (stacks.size() < fibers.size()) stacks.emplace_back(new char[STACK_BYTES]);
    for (int at = 0; at < count * threads; ++at) {
        Fiber& fiber = fibers[at];
        fiber.block = at / threads;
        fiber.thread = at % threads;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[at].get();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    for (size_t left = fibers.size(); left > 0;) {
        for (Fiber& fiber : fibers) {
            if (fiber.is_done) continue;
            current = &fiber;
            block = &blocks[fiber.block];
            blockIdx.x = first_block + fiber.block;
            threadIdx.x = fiber.thread;
            resume(fiber);
            left -= fiber.is_done;
        }
    }
}

// All blocks: one after the other, or, if they wait for each other, together; those have no static shared memory.
inline void launch(int num_blocks, int threads, int shared_bytes, bool together, std::function<void()> work) {
    kernel = std::move(work);
    gridDim.x = num_blocks;
    blockDim.x = threads;
    const int at_once = together ? num_blocks : 1;
    for (int first = 0; first < num_blocks; first += at_once) run(first, at_once, shared_bytes);
}

}  // namespace emulation

inline void __syncwarp() { emulation::wait(400 + threadIdx.x / 32, 32); }
inline void __syncthreads() { emulation::wait(0, blockDim.x); }
inline void wait_for_warps(int number, int warps) {
    if (warps > 1) emulation::wait(number, 32 * warps);
    else emulation::wait(100 + threadIdx.x / 32, 32);
}
inline float __shfl_xor_sync(unsigned, float value, int distance) {
    const int warp = threadIdx.x / 32;
    emulation::block->exchanged[threadIdx.x] = value;
    emulation::wait(200 + warp, 32);
    const float other = emulation::block->exchanged[threadIdx.x ^ distance];
    emulation::wait(300 + warp, 32);
    return other;
}

using Number = unsigned short;

inline float widen(Number number) {
#if BFLOAT16
    const uint32_t bits = static_cast<uint32_t>(number) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
#else
    _Float16 half;
    std::memcpy(&half, &number, 2);
    return static_cast<float>(half);
#endif
}

inline Number narrow(float wide) {
#if BFLOAT16
    uint32_t bits;
    std::memcpy(&bits, &wide, 4);
    return static_cast<Number>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
    const _Float16 half = static_cast<_Float16>(wide);
    Number number;
    std::memcpy(&number, &half, 2);
    return number;
#endif
}

inline float first_of(unsigned pair) { return widen(static_cast<Number>(pair)); }
inline float second_of(unsigned pair) { return widen(static_cast<Number>(pair >> 16)); }
inline void copy(uint4* to, const uint4* from) { *to = *from; }
inline void close_group() {}
template <int>
void wait_for_all_groups_but() {}

struct SharedBarrier {
    uint8_t arrivals, missing;
    uint16_t rounds;
    int32_t bytes;

    void settle() {
        if (missing > 0 || bytes != 0) return;
        missing = arrivals;
        ++rounds;
    }
};
static_assert(sizeof(SharedBarrier) == 8);
inline void begin(SharedBarrier* barrier, int arrivals) {
    *barrier = {static_cast<uint8_t>(arrivals), static_cast<uint8_t>(arrivals), 0, 0};
}
inline void show_barriers_to_copies() {}
template <int>
void give_registers_back() {}
template <int>
void take_registers() {}
inline void arrive(SharedBarrier* barrier) {
    --barrier->missing;
    barrier->settle();
}
inline void arrive_with(SharedBarrier* barrier, int bytes) {
    barrier->bytes += bytes;
    arrive(barrier);
}
inline bool is_over(const SharedBarrier* barrier, unsigned parity) {
    emulation::yield();
    return (barrier->rounds & 1u) != parity;
}
inline void wait_until_over(const SharedBarrier* barrier, unsigned parity) {
    while (!is_over(barrier, parity)) {
    }
}
inline void copy_bulk(void* to, const void* from, int bytes, SharedBarrier* barrier) {
    std::memcpy(to, from, bytes);
    barrier->bytes -= bytes;
    barrier->settle();
}
inline uint4 written(const uint4* at) { return *at; }
inline float written(const float* at) { return *at; }
inline float written(const Number* at) { return widen(*at); }
inline void prefetch(const void*) {}
inline unsigned raise(unsigned* counter) { return (*counter)++; }
inline void raise_only(unsigned* counter) { ++*counter; }
inline unsigned height(const unsigned* counter) {
    emulation::yield();
    return *counter;
}
struct Tagged {
    float number;
    unsigned tag;
};
inline void post(Tagged* to, float number, unsigned tag) { *to = {number, tag}; }
inline Tagged posted(const Tagged* at) {
    emulation::yield();
    return *at;
}
inline uint4 __ldg(const uint4* at) { return *at; }
inline void let_the_next_begin() {}
inline void wait_for_kernels_before() {}
inline uint4* dynamic_shared_memory() { return emulation::block->dynamic_shared.data(); }
