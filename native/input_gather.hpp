// The input gradient where the computed entries form a grid: every place of the input gathers what it has given.
//
// A place gave its value to the computed entries that lie a kernel's offset apart from it, and with a grid of period P
// those offsets are one in P: which ones depends on the place's residue modulo P alone. So each residue class is a
// convolution of the padded grid of output gradients with every P-th of the weights, reversed; its sums stay in
// registers for longer than those of `input_gradients`, which fits any list of entries.
#pragma once

#include <algorithm>

#include "api.hpp"
#include "conv_tiles.hpp"
#include "memory.hpp"

namespace STAN_FORM {

inline int floor_of(int number, int by) { return number >= 0 ? number / by : -((-number + by - 1) / by); }

// One side of the input: rows or columns.
struct GatherSide {
    int length, kept;     // places of the input, computed entries along the side
    int kernel, period;   // period: between computed entries, in places of the input
    int first;            // the input place under the first computed entry's first weight; may be negative
    int before, padded;   // zeros in front of the gradients, and their number with all zeros

    GatherSide(int length, int kernel, int stride, int pad, int grid_period, int grid_first, int outputs)
        : length(length),
          kept((outputs - grid_first + grid_period - 1) / grid_period),
          kernel(kernel),
          period(stride * grid_period),
          first(grid_first * stride - pad),
          before(std::max(0, taps(0) - 1 - floor_of(-first, period))),
          padded(before + std::max(kept, floor_of(length - 1 - first, period) + 1)) {}

    // How many of the kernel's weights the places of a class meet.
    int taps(int residue) const { return residue < kernel ? (kernel - residue + period - 1) / period : 0; }
    // The first place of a class, and how many places it has.
    int begin(int residue) const { return ((residue + first) % period + period) % period; }
    int places(int residue) const { return begin(residue) < length ? (length - begin(residue) - 1) / period + 1 : 0; }
    // Where a place's first gradient is among the padded ones.
    int at(int place, int residue) const { return floor_of(place - first, period) - taps(residue) + 1 + before; }
};

struct InputGather {
    GatherSide rows, columns;
    int filters, channels, pitch;

    InputGather(const StanBlock& b, GatherSide rows, GatherSide columns)
        : rows(rows), columns(columns), filters(b.filters), channels(b.channels), pitch(vectors_of(b.channels) * lanes) {}

    static GatherSide rows_of(const StanBlock& b) {
        return GatherSide(b.height, b.kernel_h, b.stride_h, b.pad_top, std::max(b.grid_h, 1), b.grid_top, b.out_h);
    }
    static GatherSide columns_of(const StanBlock& b) {
        return GatherSide(b.width, b.kernel_w, b.stride_w, b.pad_left, std::max(b.grid_w, 1), b.grid_left, b.out_w);
    }

    // It does more than its share where the input is larger than the output or its channels do not fill the vectors;
    // then the lists are faster. (1.3: how much faster the sums are that stay in registers.)
    bool pays() const {
        const double places = static_cast<double>(rows.length) * columns.length / (rows.period * columns.period);
        return places * pitch <= 1.3 * rows.kept * columns.kept * channels;
    }

    int image() const { return rows.padded * columns.padded * filters; }
    int64_t weights() const { return static_cast<int64_t>(rows.kernel) * columns.kernel * filters * pitch; }

    // All classes' weights, one class after the other, as `outputs` wants them.
    void pack(const float* weight, float* to) const {
        for (int y = 0; y < rows.period; ++y)
            for (int x = 0; x < columns.period; ++x)
                for_panels(pitch / lanes, [&]<int vectors>(int vector, Width<vectors>) {
                    for (int row = y + (rows.taps(y) - 1) * rows.period; row >= y; row -= rows.period)
                        for (int column = x + (columns.taps(x) - 1) * columns.period; column >= x; column -= columns.period)
                            for (int filter = 0; filter < filters; ++filter) {
                                const float* from =
                                    weight + ((static_cast<int64_t>(filter) * rows.kernel + row) * columns.kernel + column) * channels;
                                for (int c = vector * lanes; c < (vector + vectors) * lanes; c += lanes, to += lanes)
                                    store(to, load(from + c, channels - c));
                            }
                });
    }

    // Copies an image's gradients, (entries, gradient_pitch), between the zeros of `to`.
    void place(const float* gradients, int gradient_pitch, float* to) const {
        for (int row = 0; row < rows.kept; ++row)
            for (int column = 0; column < columns.kept; ++column, gradients += gradient_pitch)
                copy(
                    gradients, filters, to + ((rows.before + row) * columns.padded + columns.before + column) * filters
                );
    }

    // Notes, for up to so many images, where the places of each class find their gradients and where they are
    // themselves: it takes divisions, and `run` is called often.
    void locate(int images, Memory<int32_t>& memory) const {
        const int number = images * rows.length * columns.length;
        int32_t *at = memory.sized(2 * static_cast<size_t>(number)), *to = at + number;
        for (int y = 0; y < rows.period; ++y)
            for (int x = 0; x < columns.period; ++x)
                for (int i = 0; i < images; ++i)
                    for (int row = rows.begin(y); row < rows.length; row += rows.period)
                        for (int column = columns.begin(x); column < columns.length; column += columns.period) {
                            *at++ = i * image() + (rows.at(row, y) * columns.padded + columns.at(column, x)) * filters;
                            *to++ = (i * rows.length + row) * columns.length + column;
                        }
    }

    // The input's gradients of some images, from their padded gradients one after the other; `places` is of `locate`.
    void run(
        const float* gradients, int images, int located, const float* packed, const float* zeros, const int32_t* places,
        Memory<float>& sums_memory, float* input
    ) const {
        const int32_t *at = places, *to = at + located * rows.length * columns.length;
        const bool whole = pitch == channels;  // vectors of sums end where a place's channels end
        for (int y = 0; y < rows.period; ++y)
            for (int x = 0; x < columns.period; ++x) {
                const int of_image = rows.places(y) * columns.places(x), number = of_image * images;
                const Runs runs{rows.taps(y), columns.taps(x) * filters, columns.padded * filters};
                if (runs.number == 0 || runs.length == 0) {
                    for (int i = 0; i < number; ++i)
                        std::fill_n(input + static_cast<int64_t>(to[i]) * channels, channels, 0.0f);
                } else if (whole) {
                    outputs(gradients, at, number, runs, packed, zeros, input, pitch, to);
                } else {
                    float* sums = sums_memory.sized(static_cast<size_t>(number) * pitch);
                    outputs(gradients, at, number, runs, packed, zeros, sums, pitch);
                    for (int i = 0; i < number; ++i)
                        copy(sums + static_cast<int64_t>(i) * pitch, channels, input + static_cast<int64_t>(to[i]) * channels);
                }
                packed += static_cast<int64_t>(runs.number) * runs.length * pitch;
                at += of_image * located;
                to += of_image * located;
            }
    }
};

}  // namespace STAN_FORM
