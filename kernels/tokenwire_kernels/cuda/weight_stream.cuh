// The weights of all layers as one stream to each warp that computes, through a ring of shared memory.
//
// A matrix depends on nothing, so that what is multiplied next is on its way while blocks wait for each other: the
// memory rests only where a wait outlasts the rings. No more than ON_THEIR_WAY slots of a ring are, though: what the
// memory cannot deliver yet would only stand in the way of what blocks tell each other.
//
// A slot is a kilobyte of two rows of a matrix: two outputs beside each other, or a gate and what it gates. Such
// pairs are dealt out to all warps of all blocks in turn, on through all matrices, so that none has more than one more
// than another.
//
// Compiled with RING and ON_THEIR_WAY, in slots.

#pragma once

#include <layers_step.cuh>

namespace {

constexpr int SLOT = 64;      // vectors of each of two rows
constexpr int STREAMERS = 4;  // warps that send: registers are given and taken by four at a time

// Which pairs are a warp's, of one product after the other. Neighbours are of different blocks.
struct Deal {
    const int warps = gridDim.x * WARPS, self;
    int next = 0;  // the warp whose turn it is

    __device__ Deal(int warp) : self(warp * gridDim.x + blockIdx.x) {}

    // The warp's first pair of the next product; the others are `warps` apart.
    __device__ int first_of(int pairs) {
        const int first = self - next;
        next = (next + pairs) % warps;
        return first < 0 ? first + warps : first;
    }
};

// The ring between a thread that sends and a warp that computes: which slot is next, and in which round.
struct Ring {
    uint4* const slots;  // [RING, 2, SLOT]
    SharedBarrier* const filled;
    SharedBarrier* const emptied;
    int slot = 0;
    unsigned round = 0;

    __device__ Ring(uint4* rings, int warp)
        : slots(rings + warp * RING * 2 * SLOT),
          filled(reinterpret_cast<SharedBarrier*>(rings + WARPS * RING * 2 * SLOT) + 2 * RING * warp),
          emptied(filled + RING) {}

    __device__ void begin_barriers() {
        for (int at = 0; at < 2 * RING; ++at) begin(filled + at, 1);
    }

    __device__ uint4* here() const { return slots + 2 * SLOT * slot; }

    __device__ void move_on() {
        if (++slot == RING) {
            slot = 0;
            round ^= 1;
        }
    }
};

// What one warp is sent of all matrices, by one thread.
struct Stream {
    const Step& s;
    Ring ring, oldest;  // where the next slot is, and the oldest that may not have come
    Deal deal;
    const uint4* from = nullptr;
    long long second = 0, jump = 0;  // vectors from a pair's first row to its second; from one pair to the next
    int product = -1, left = 0, vectors = 0, at = 0;  // pairs that are left; vectors of a row, and those that were sent
    int on_their_way = 0;

    static_assert(ON_THEIR_WAY <= RING, "whether a slot has come is known until it is sent again");

    __device__ Stream(const Step& s, uint4* rings, int warp)
        : s(s), ring(rings, warp), oldest(rings, warp), deal(warp) {}

    __device__ void run() {
        for (begin_product(); left > 0;) {
            if (on_their_way == ON_THEIR_WAY) {
                if (!is_over(oldest.filled + oldest.slot, oldest.round)) continue;
                oldest.move_on();
                --on_their_way;
            }
            if (is_over(ring.emptied + ring.slot, ring.round ^ 1)) send();
        }
    }

   private:
    __device__ void send() {
        const int bytes = min(SLOT, vectors - at) * static_cast<int>(sizeof(uint4));
        SharedBarrier* filled = ring.filled + ring.slot;
        arrive_with(filled, 2 * bytes);
        copy_bulk(ring.here(), from + at, bytes, filled);
        copy_bulk(ring.here() + SLOT, from + second + at, bytes, filled);
        ring.move_on();
        ++on_their_way;
        at += SLOT;
        if (at < vectors) return;
        at = 0;
        from += jump;
        if (--left == 0) begin_product();
    }

    // The next of which the warp has a pair; none is `left` behind the last.
    __device__ void begin_product() {
        while (left == 0 && product + 1 < PRODUCTS * s.num_layers) {
            const Product p = product_of(s, ++product);
            const int first = deal.first_of(p.pairs);
            if (first >= p.pairs) continue;
            left = (p.pairs - first - 1) / deal.warps + 1;
            vectors = p.vectors;
            second = static_cast<long long>(p.is_gated ? p.pairs : 1) * p.vectors;
            jump = static_cast<long long>(p.is_gated ? 1 : 2) * deal.warps * p.vectors;
            from = p.weight + static_cast<long long>(p.is_gated ? first : 2 * first) * p.vectors;
        }
    }
};

// This warp's part of a product with rows in shared memory.
template <int ROWS, bool GATED>
__device__ void multiply_all(Ring& ring, Deal& deal, const Product& p, int num_rows, const uint4* x,
                             const Outputs<GATED>& outputs) {
    const int lane = threadIdx.x % 32;
    const bool finishes = lane < num_rows;
    for (int pair = deal.first_of(p.pairs); pair < p.pairs; pair += deal.warps) {
        const float2 before = finishes ? outputs.before(lane, pair) : float2{};
        float sums[2][ROWS] = {};
        for (int at = 0; at < p.vectors; at += SLOT) {
            wait_until_over(ring.filled + ring.slot, ring.round);
            const uint4* rows = ring.here() + lane;
            if (p.vectors - at >= SLOT) {
#pragma unroll
                for (int part = 0; part < SLOT; part += 32) {
                    multiply<ROWS>(sums, {rows[part], rows[SLOT + part]}, x + at + part + lane, p.vectors);
                }
            } else {
                for (int part = 0; part < p.vectors - at; part += 32) {
                    multiply<ROWS>(sums, {rows[part], rows[SLOT + part]}, x + at + part + lane, p.vectors);
                }
            }
            __syncwarp();
            if (lane == 0) arrive(ring.emptied + ring.slot);
            ring.move_on();
        }
        float first = 0.0f, second = 0.0f;
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float of_first = sum_of_warp(sums[0][row]), of_second = sum_of_warp(sums[1][row]);
            if (lane == row) {
                first = of_first;
                second = of_second;
            }
        }
        if (finishes) outputs.write(lane, pair, first, second, before);
    }
}

}  // namespace
