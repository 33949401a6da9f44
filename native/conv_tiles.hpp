// The three products of a convolution over a list of entries, by tiles that stay in registers.
//
// An image is padded with zeros beforehand, so that the input of an entry is, for each row of the kernel, one run of
// kernel_w * channels floats. `at` has where an entry's first run begins. Columns (of filters, or of a run) are cut
// into panels of two vectors, the last of three or one where their number is odd.
#pragma once

#include "simd.hpp"

namespace STAN_FORM {

// Not inlined: among the variables of their callers, the tiles' pointers would not stay in registers.
#define STAN_OWN_REGISTERS __attribute__((noinline))

// Terms that are added up one after the other; longer sums are sums of such ones. A chain's rounding error grows with its
// length, that of sums of chains hardly, and PyTorch's does not.
constexpr int chain = 128;

struct Runs {
    int number;  // kernel_h
    int length;  // kernel_w * channels
    int apart;   // floats from one to the next in the padded image
};

// A tile of one vector alone has fewer sums than would keep the multipliers busy, but its pointers fit into registers.
constexpr int most_rows(int vectors) { return vectors == 3 ? sums / 3 : sums / 2; }

// Calls tile.run<rows>(): rows is 1 to `most`.
template <int most, class Tile>
inline void of_rows(int rows, const Tile& tile) {
    if (rows >= most)
        tile.template run<most>();
    else if constexpr (most > 1)
        of_rows<most - 1>(rows, tile);
}

template <int vectors>
struct Width {};

// Calls panel(first vector, Width<vectors>) for each panel of so many vectors.
template <class Panel>
inline void for_panels(int vectors, const Panel& panel) {
    for (int first = 0; first < vectors;) {
        const int left = vectors - first;
        if (left == 3) {
            panel(first, Width<3>());
            return;
        }
        if (left == 1) {
            panel(first, Width<1>());
            return;
        }
        panel(first, Width<2>());
        first += 2;
    }
}

// Calls body(row, vector) for all of a tile, with constants: its sums are registers from the first to the last.
template <int rows, int vectors, class Body>
STAN_INLINE inline void over(const Body& body) {
    unrolled<rows>([&](auto r) STAN_INLINE { unrolled<vectors>([&](auto v) STAN_INLINE { body(r, v); }); });
}

// rows entries x a panel of outputs, of one chain: y = bias + x w for the first one, y += x w for those after.
template <int vectors>
struct OutputTile {
    const float* x;
    const int32_t* at;
    Runs runs;
    const float *w, *bias;  // bias: null where y is added to
    float* y;
    const int32_t* to;  // which row of y is each entry's; null: one after the other
    int pitch;

    template <int rows>
    STAN_OWN_REGISTERS void run() const {
        const auto row = [this](int r) { return y + static_cast<int64_t>(to ? to[r] : r) * pitch; };
        Vector sum[rows][vectors];
        over<rows, vectors>([&](auto r, auto v) STAN_INLINE { sum[r][v] = Vector{}; });
        const float* from[rows];
        unrolled<rows>([&](auto r) STAN_INLINE { from[r] = x + at[r]; });
        const float* weight = w;
        for (int run = 0; run < runs.number; ++run) {
            for (int k = 0; k < runs.length; ++k, weight += vectors * lanes) {
                Vector column[vectors];
                unrolled<vectors>([&](auto v) STAN_INLINE { column[v] = load(weight + v * lanes); });
                unrolled<rows>([&](auto r) STAN_INLINE {
                    const Vector value = all(from[r][k]);
                    unrolled<vectors>([&](auto v) STAN_INLINE { sum[r][v] += value * column[v]; });
                });
            }
            unrolled<rows>([&](auto r) STAN_INLINE { from[r] += runs.apart; });
        }
        unrolled<rows>([&](auto r) STAN_INLINE {
            float* const end = row(r);
            const float* const before = bias ? bias : end;
            unrolled<vectors>([&](auto v) STAN_INLINE { store(end + v * lanes, load(before + v * lanes) + sum[r][v]); });
        });
    }
};

// rows places of a run x a panel of filters, added: dw[k] += x[k] dy over all entries.
template <int vectors>
struct WeightTile {
    const float* x;
    const int32_t* at;
    int entries;
    const float* dy;  // (entries, vectors * lanes)
    int pitch;        // of dw
    float* dw;

    template <int rows>
    STAN_OWN_REGISTERS void run() const {
        Vector sum[rows][vectors];
        over<rows, vectors>([&](auto r, auto v) STAN_INLINE { sum[r][v] = load(dw + r * pitch + v * lanes); });
        const float* gradient = dy;
        for (int entry = 0; entry < entries; ++entry, gradient += vectors * lanes) {
            const float* from = x + at[entry];
            Vector column[vectors];
            unrolled<vectors>([&](auto v) STAN_INLINE { column[v] = load(gradient + v * lanes); });
            unrolled<rows>([&](auto r) STAN_INLINE {
                const Vector value = all(from[r]);
                unrolled<vectors>([&](auto v) STAN_INLINE { sum[r][v] += value * column[v]; });
            });
        }
        over<rows, vectors>([&](auto r, auto v) STAN_INLINE { store(dw + r * pitch + v * lanes, sum[r][v]); });
    }
};

// rows entries x a panel of a run: dx[at] += dy w, the weights transposed. Entries may overlap: they are added in turn.
template <int vectors>
struct InputTile {
    const float* dy;
    int pitch, filters;
    const float* w;
    float* dx;
    const int32_t* at;

    template <int rows>
    STAN_OWN_REGISTERS void run() const {
        Vector sum[rows][vectors];
        over<rows, vectors>([&](auto r, auto v) STAN_INLINE { sum[r][v] = Vector{}; });
        const float* weight = w;
        for (int filter = 0; filter < filters; ++filter, weight += vectors * lanes) {
            Vector column[vectors];
            unrolled<vectors>([&](auto v) STAN_INLINE { column[v] = load(weight + v * lanes); });
            unrolled<rows>([&](auto r) STAN_INLINE {
                const Vector value = all(dy[r * pitch + filter]);
                unrolled<vectors>([&](auto v) STAN_INLINE { sum[r][v] += value * column[v]; });
            });
        }
        over<rows, vectors>([&](auto r, auto v) STAN_INLINE {
            float* const to = dx + at[r] + v * lanes;
            store(to, load(to) + sum[r][v]);
        });
    }
};

// y (entries, pitch), in the order of `to` where there is one, = bias + x w; w is the panels of (runs.number *
// runs.length, panel) one after the other.
inline void outputs(
    const float* x, const int32_t* at, int entries, Runs runs, const float* w, const float* bias, float* y, int pitch,
    const int32_t* to = nullptr
) {
    for_panels(pitch / lanes, [&]<int vectors>(int first, Width<vectors>) {
        constexpr int most = most_rows(vectors);
        const float* panel = w + static_cast<int64_t>(first) * lanes * runs.number * runs.length;
        const int together = runs.length < chain ? chain / runs.length : 1;
        for (int run = 0; run < runs.number; run += together)
            for (int k = 0; k < runs.length; k += chain) {
                const int some = runs.number - run < together ? runs.number - run : together;
                const int length = runs.length - k < chain ? runs.length - k : chain;
                for (int entry = 0; entry < entries; entry += most)
                    of_rows<most>(
                        entries - entry,
                        OutputTile<vectors>{
                            x + static_cast<int64_t>(run) * runs.apart + k, at + entry, Runs{some, length, runs.apart},
                            panel + (static_cast<int64_t>(run) * runs.length + k) * vectors * lanes,
                            run || k ? nullptr : bias + first * lanes,
                            y + (to ? 0 : static_cast<int64_t>(entry) * pitch) + first * lanes,
                            to ? to + entry : nullptr, pitch}
                    );
            }
    });
}

// dw (runs.number * runs.length, pitch) += over all entries.
inline void weight_gradients(
    const float* x, const int32_t* at, int entries, Runs runs, const float* dy, float* dw, int pitch
) {
    constexpr int block = 96;  // entries whose gradients and inputs stay in the first-level cache
    alignas(64) float panel[block * 3 * lanes];  // one after the other: strides of a power of two crowd the cache
    for (int entry = 0; entry < entries; entry += block) {
        const int some = entries - entry < block ? entries - entry : block;
        for_panels(pitch / lanes, [&]<int vectors>(int first, Width<vectors>) {
            constexpr int most = most_rows(vectors);
            const float* gradient = dy + static_cast<int64_t>(entry) * pitch + first * lanes;
            if (pitch > vectors * lanes) {
                for (int i = 0; i < some; ++i)
                    for (int v = 0; v < vectors; ++v)
                        store(panel + (i * vectors + v) * lanes, load(gradient + static_cast<int64_t>(i) * pitch + v * lanes));
                gradient = panel;
            }
            float* to = dw + first * lanes;
            // As few tiles as there can be, of one size: a small one at the end would wait for its own sums.
            const int tiles = (runs.length + most - 1) / most, high = (runs.length + tiles - 1) / tiles;
            for (int run = 0; run < runs.number; ++run)
                for (int k = 0; k < runs.length; k += high)
                    of_rows<most>(
                        runs.length - k < high ? runs.length - k : high, WeightTile<vectors>{
                                             x + static_cast<int64_t>(run) * runs.apart + k, at + entry, some, gradient,
                                             pitch, to + (static_cast<int64_t>(run) * runs.length + k) * pitch}
                    );
        });
    }
}

// dx += over all entries; w has, for each run, the panels of (filters, panel) one after the other. Zeros are added
// beyond a run's end, so dx needs a vector more than the image.
inline void input_gradients(
    const float* dy, int pitch, int filters, const int32_t* at, int entries, Runs runs, const float* w, float* dx
) {
    constexpr int block = 48;  // entries for which the weights are gone through once
    const int vectors_of_run = vectors_of(runs.length);
    for (int entry = 0; entry < entries; entry += block) {
        const int end = entries - entry < block ? entries : entry + block;
        for (int run = 0; run < runs.number; ++run)
            for_panels(vectors_of_run, [&]<int vectors>(int first, Width<vectors>) {
                constexpr int most = most_rows(vectors);
                const float* panel = w + (static_cast<int64_t>(run) * vectors_of_run + first) * lanes * filters;
                for (int filter = 0; filter < filters; filter += chain)
                    for (int some = entry; some < end; some += most)
                        of_rows<most>(
                            end - some,
                            InputTile<vectors>{
                                dy + static_cast<int64_t>(some) * pitch + filter, pitch,
                                filters - filter < chain ? filters - filter : chain,
                                panel + static_cast<int64_t>(filter) * vectors * lanes,
                                dx + static_cast<int64_t>(run) * runs.apart + first * lanes, at + some}
                        );
            });
    }
}

}  // namespace STAN_FORM
