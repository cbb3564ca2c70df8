// What kernels ask of the GPU beyond C++: conversions, copies, and the order of launches. The tests have another
// header of this name, which gives the same on a CPU.
//
// Numbers of 16 bits are bfloat16 with BFLOAT16=1, float16 with 0.

#pragma once

using Number = unsigned short;

__device__ inline float widen(Number number) {
#if BFLOAT16
    return __uint_as_float(static_cast<unsigned>(number) << 16);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(number));
    return wide;
#endif
}

__device__ inline Number narrow(float wide) {
    Number number;
#if BFLOAT16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(number) : "f"(wide));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(number) : "f"(wide));
#endif
    return number;
}

__device__ inline float first_of(unsigned pair) { return widen(static_cast<Number>(pair)); }

__device__ inline float second_of(unsigned pair) {
#if BFLOAT16
    return __uint_as_float(pair & 0xffff0000u);
#else
    return widen(static_cast<Number>(pair >> 16));
#endif
}

// Copies of 16 bytes into shared memory, in groups. A thread sees its own copies once it has waited for all but
// the latest so many groups. Nothing of it is a register: of loads into registers, no more are on their way
// than there are scoreboards. (With the hint to fetch 256 bytes at a time into the L2 cache, which is asked for them
// anyway, all layers of an 8B model took 4.18 ms instead of 3.93.)
__device__ inline void copy(uint4* to, const uint4* from) {
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
__device__ inline void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS>
__device__ inline void wait_for_all_groups_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// A barrier in shared memory that threads arrive at, and bytes of copies. Its rounds are told apart by their parity;
// the one before the first counts as over.
using SharedBarrier = unsigned long long;

__device__ inline unsigned shared_address(const void* at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
__device__ inline void begin(SharedBarrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Behind `begin`, before a barrier of the whole block.
__device__ inline void show_barriers_to_copies() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(SharedBarrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrive, and let the round wait for so many bytes.
__device__ inline void arrive_with(SharedBarrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
__device__ inline bool is_over(const SharedBarrier* barrier, unsigned parity) {
    unsigned over;
    asm volatile(
        "{\n.reg .pred over;\nmbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\nselp.u32 %0, 1, 0, over;\n}"
        : "=r"(over)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
    return over != 0;
}
__device__ inline void wait_until_over(const SharedBarrier* barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred over;\n"
        "again%=: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@!over bra again%=;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}
// Copies by the tensor memory accelerator: no thread waits until such a copy is accepted, and none of the paths of
// loads is taken. Addresses and bytes are multiples of 16.
__device__ inline void copy_bulk(void* to, const void* from, int bytes, SharedBarrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// Registers of each thread from now on, for four warps beside each other, of which all come here: as many as a few
// can do with, and as many as those have left for others.
template <int COUNT>
__device__ inline void give_registers_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// What a kernel ahead or another block wrote: from the L2 cache, which all multiprocessors see alike.
__device__ inline uint4 written(const uint4* at) { return __ldcg(at); }
__device__ inline float written(const float* at) { return __ldcg(at); }
__device__ inline float written(const Number* at) { return widen(__ldcg(at)); }

// Ask for a line of memory that will be read soon.
__device__ inline void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// A counter that blocks have in common, raised by one. Who then finds it so high sees all that was written before by
// whoever raised it, and by the threads that had met it at a barrier.
__device__ inline unsigned raise(unsigned* counter) {
    unsigned before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}
__device__ inline void raise_only(unsigned* counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ inline unsigned height(const unsigned* counter) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}

// A number that another block may be waiting for: it says itself by its tag whether it is the awaited one, so that
// nothing else has to be waited for. Both are written, and read, at once.
struct Tagged {
    float number;
    unsigned tag;
};
__device__ inline void post(Tagged* to, float number, unsigned tag) {
    const unsigned long long both = static_cast<unsigned long long>(tag) << 32 | __float_as_uint(number);
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(both) : "memory");
}
__device__ inline Tagged posted(const Tagged* at) {
    unsigned long long both;
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(both) : "l"(at) : "memory");
    return {__uint_as_float(static_cast<unsigned>(both)), static_cast<unsigned>(both >> 32)};
}

// The kernel behind may begin from now on: it waits in turn (programmatic dependent launch).
__device__ inline void let_the_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Before anything that another kernel writes, or reads before it is written here.
__device__ inline void wait_for_kernels_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A barrier of some of the block's warps, which have a number from 1 to 15 in common.
__device__ inline void wait_for_warps(int number, int warps) {
    if (warps == 1) return __syncwarp();
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(32 * warps) : "memory");
}

__device__ inline uint4* dynamic_shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}
