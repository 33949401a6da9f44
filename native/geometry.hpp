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

// (rows, columns) to (columns, rows): planes to channels last, and back. Some columns at a time, each of which is written
// from its first row to its last: all of it happens in the nearest caches.
inline void transpose(const float* from, int rows, int columns, float* to) {
    constexpr int together = 16;
    int first = 0;
    for (; first + together <= columns; first += together)
        for (int row = 0; row < rows; ++row)
            for (int i = 0; i < together; ++i)
                to[static_cast<int64_t>(first + i) * rows + row] = from[static_cast<int64_t>(row) * columns + first + i];
    for (; first < columns; ++first)
        for (int row = 0; row < rows; ++row)
            to[static_cast<int64_t>(first) * rows + row] = from[static_cast<int64_t>(row) * columns + first];
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
        for (int64_t k = 0; k < terms; ++k)
            for (int c = first * lanes; c < (first + vectors) * lanes; ++c)
                *to++ = c < filters ? weight[c * terms + k] : 0.0f;
    });
}

// The weights as `input_gradients` wants them, from (filters, runs, a run's length).
inline void pack_for_inputs(const float* weight, int filters, Runs runs, float* to) {
    const int64_t terms = static_cast<int64_t>(runs.number) * runs.length;
    for (int run = 0; run < runs.number; ++run)
        for_panels(vectors_of(runs.length), [&]<int vectors>(int first, Width<vectors>) {
            for (int c = 0; c < filters; ++c)
                for (int k = first * lanes; k < (first + vectors) * lanes; ++k)
                    *to++ = k < runs.length ? weight[c * terms + static_cast<int64_t>(run) * runs.length + k] : 0.0f;
        });
}

inline int64_t packed_for_inputs(int filters, Runs runs) {
    return static_cast<int64_t>(runs.number) * vectors_of(runs.length) * lanes * filters;
}

}  // namespace STAN_FORM
