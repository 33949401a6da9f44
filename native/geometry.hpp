// Where a block's entries lie: padded images, the numbers of entries, and a thread's own memory.
#pragma once

#include <algorithm>

#include "api.hpp"
#include "conv_tiles.hpp"
#include "memory.hpp"
#include "pooling.hpp"

namespace STAN_FORM {

// An image with zeros around it, as far as any entry sees.
struct Padded {
    int height, width, row, floats;  // row: floats of a row
    int top;                         // rows of zeros above; negative where the first rows are left out

    Padded(const StanBlock& b, int height, int top)
        : height(height),
          width((b.out_w - 1) * b.stride_w + b.kernel_w),
          row(width * b.channels),
          floats(height * row),
          top(top) {}

    // Columns of the input that any entry sees: with a large stride there may be less than all, or none.
    int seen(const StanBlock& b) const { return std::clamp(width - b.pad_left, 0, b.width); }

    void pad(const StanBlock& b, int image, float* to) const {
        const int before = std::min(b.pad_left, width) * b.channels;
        const int copied = seen(b) * b.channels;
        const int after = row - before - copied;
        for (int y = 0; y < height; ++y, to += row) {
            const int place = y - top;
            if (place < 0 || place >= b.height) {
                std::fill_n(to, row, 0.0f);
                continue;
            }
            const float* from = b.input + (static_cast<int64_t>(image) * b.height + place) * b.width * b.channels;
            std::fill_n(to, before, 0.0f);
            std::copy_n(from, copied, to + before);
            std::fill_n(to + before + copied, after, 0.0f);
        }
    }

    // Copies a padded image's gradients to the input's.
    void unpad(const StanBlock& b, int image, const float* from) const {
        const int copied = seen(b) * b.channels;
        for (int place = 0; place < b.height; ++place) {
            const int y = place + top;
            float* to = b.input_gradient + (static_cast<int64_t>(image) * b.height + place) * b.width * b.channels;
            const int there = y < height ? copied : 0;
            std::copy_n(from + static_cast<int64_t>(y) * row + b.pad_left * b.channels, there, to);
            std::fill_n(to + there, b.width * b.channels - there, 0.0f);
        }
    }
};

// A thread's own memory, kept from call to call.
struct Scratch {
    Memory<float> images, image_gradients, rows, sums, points, products;
    Memory<float> of_input, of_output, of_input_gradient;  // images of tensors in planes, channels last
    Memory<int32_t> at, gather_at;
    Windows windows;
};

inline Scratch& scratch() {
    thread_local Scratch own;
    return own;
}

// One of the stages of a square's transposition: a and b, `step` rows apart, exchange blocks of `step` lanes.
template <int step, int... lane>
STAN_INLINE inline void exchange(Vector& a, Vector& b, std::integer_sequence<int, lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    const Vector upper = __builtin_shufflevector(a, b, (lane & step ? lanes + lane - step : lane)...);
    b = __builtin_shufflevector(a, b, (lane & step ? lanes + lane : lane + step)...);
#else
    const Vector upper = __builtin_shuffle(a, b, Whole{(lane & step ? lanes + lane - step : lane)...});
    b = __builtin_shuffle(a, b, Whole{(lane & step ? lanes + lane : lane + step)...});
#endif
    a = upper;
}

template <int step>
STAN_INLINE inline void exchange_all(Vector (&rows)[lanes]) {
    if constexpr (step < lanes) {
        unrolled<lanes>([&](auto i) STAN_INLINE {
            if constexpr ((decltype(i)::value & step) == 0)
                exchange<step>(rows[i], rows[i + step], std::make_integer_sequence<int, lanes>());
        });
        exchange_all<2 * step>(rows);
    }
}

// (rows, columns) to (columns, rows), the rows of either so many floats apart. By squares that are turned in registers, so
// that whole vectors are read and written: one number of each of many rows at a time, these would evict each other.
inline void transpose(const float* from, int64_t from_apart, int rows, int64_t columns, float* to, int64_t to_apart) {
    for (int64_t column = 0; column < columns; column += lanes)
        for (int row = 0; row < rows; row += lanes) {
            const int width = static_cast<int>(std::min<int64_t>(columns - column, lanes)), height = rows - row;
            const float* read = from + row * from_apart + column;
            float* write = to + column * to_apart + row;
            Vector square[lanes];
            if (width >= lanes && height >= lanes) {
                unrolled<lanes>([&](auto i) STAN_INLINE { square[i] = load(read + i * from_apart); });
                exchange_all<1>(square);
                unrolled<lanes>([&](auto i) STAN_INLINE { store(write + i * to_apart, square[i]); });
                continue;
            }
            unrolled<lanes>([&](auto i) STAN_INLINE {
                square[i] = i < height ? load(read + i * from_apart, width) : Vector{};
            });
            exchange_all<1>(square);
            unrolled<lanes>([&](auto i) STAN_INLINE {
                if (i < width) store(write + i * to_apart, square[i], height);
            });
        }
}

// Planes to channels last, and back.
inline void transpose(const float* from, int rows, int columns, float* to) {
    transpose(from, columns, rows, columns, to, rows);
}

// Entries of all images before this one.
inline int64_t before(const StanBlock& b, int image) {
    return b.begins ? b.begins[image] : static_cast<int64_t>(image) * b.entries;
}

inline int entries_of(const StanBlock& b, int first, int images) {
    return static_cast<int>(before(b, first + images) - before(b, first));
}

inline int pitch_of(const StanBlock& b) { return vectors_of(b.filters) * lanes; }

// The weights as `outputs` wants them, from (filters, terms); the panels' last columns are zero where there are no more
// filters.
inline void pack_for_outputs(const float* weight, int filters, int64_t terms, float* to) {
    for_panels(vectors_of(filters), [&]<int vectors>(int first, Width<vectors>) {
        constexpr int wide = vectors * lanes;
        const int some = std::min(wide, filters - first * lanes);
        if (some < wide) std::fill_n(to, terms * wide, 0.0f);
        transpose(weight + first * lanes * terms, terms, some, terms, to, wide);
        to += terms * wide;
    });
}

// The weights as `input_gradients` wants them, from (filters, runs, a run's length).
inline void pack_for_inputs(const float* weight, int filters, Runs runs, float* to) {
    const int64_t terms = static_cast<int64_t>(runs.number) * runs.length;
    for (int run = 0; run < runs.number; ++run)
        for_panels(vectors_of(runs.length), [&]<int vectors>(int first, Width<vectors>) {
            const float* from = weight + static_cast<int64_t>(run) * runs.length + first * lanes;
            for (int c = 0; c < filters; ++c, from += terms)
                for (int v = 0; v < vectors; ++v, to += lanes)
                    store(to, load(from + v * lanes, runs.length - (first + v) * lanes));
        });
}

inline int64_t packed_for_inputs(int filters, Runs runs) {
    return static_cast<int64_t>(runs.number) * vectors_of(runs.length) * lanes * filters;
}

}  // namespace STAN_FORM
