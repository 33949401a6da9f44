// Batch norm with a maximum pooling behind it, whose windows are parts of the image: what is normalised is never
// written out, and of the output's gradient a position has that of its window where it is the winner, or nothing.
#pragma once

#include <algorithm>

#include "api.hpp"
#include "norm_lines.hpp"
#include "windows.hpp"

namespace STAN_FORM {

constexpr int32_t no_place = 0xFF;  // no place receives the gradient: ReLU gave zero

struct NormPool {
    int height, width, channels, rows, columns, pooled_h, pooled_w;  // rows and columns: of a window
    int64_t line, images, input_numbers, output_numbers;

    explicit NormPool(const StanBatchNorm& n)
        : height(n.height),
          width(n.width),
          channels(n.channels),
          rows(n.pool_h),
          columns(n.pool_w),
          pooled_h(n.height / n.pool_h),
          pooled_w(n.width / n.pool_w),
          line(static_cast<int64_t>(n.width) * n.channels),
          images(n.rows / (static_cast<int64_t>(n.height) * n.width)),
          input_numbers(n.rows * n.channels),
          output_numbers(images * pooled_h * pooled_w * n.channels) {}

    int64_t window_rows() const { return images * pooled_h; }

    // Where the windows of a row begin in the input, and in the output.
    int64_t input_of(int64_t window_row) const {
        return (window_row / pooled_h * height + window_row % pooled_h * rows) * line;
    }
    int64_t output_of(int64_t window_row) const { return window_row * pooled_w * channels; }
};

// Calls of_vector(input, output, first channel, how many channels, rows, columns) for each window of a row and each
// vector of channels: the place of the vector's first number at the window's corner in the input, and in the output.
template <class OfVector>
STAN_INLINE inline void over_vectors(const NormPool& s, int64_t window_row, const OfVector& of_vector) {
    const auto windows = [&](auto rows, auto columns) STAN_INLINE {
        int64_t from = s.input_of(window_row), to = s.output_of(window_row);
        for (int column = 0; column < s.pooled_w; ++column, from += columns * s.channels, to += s.channels)
            for (int c = 0; c < s.channels; c += lanes) of_vector(from + c, to + c, c, s.channels - c, rows, columns);
    };
    if (s.rows == 2 && s.columns == 2)
        windows(Constant<2>(), Constant<2>());
    else
        windows(s.rows, s.columns);
}

template <bool whole, bool with_relu>
void pooled_row(const StanBatchNorm& n, const NormPool& s, const Lines& lines, int64_t window_row) {
    const Reader<whole, float> input{n.input, n.input + s.input_numbers};
    over_vectors(s, window_row, [&](int64_t from, int64_t to, int c, int count, auto rows, auto columns) STAN_INLINE {
        Vector most = {};
        Whole winner = {};
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j) {
                const Vector value = lines.at(lines.away(input(from + i * s.line + j * s.channels, count), c), c);
                if (i || j) {
                    const Whole larger = (value > most) | (value != value);
                    most = larger ? value : most;
                    winner = larger ? all(i * s.columns + j) : winner;
                } else
                    most = value;
            }
        if (with_relu) {
            winner = most <= all(0.0f) ? all(no_place) : winner;
            most = relu(most);
        }
        write<whole>(n.output + to, most, count);
        if (n.winners) write<whole>(n.winners + to, bytes(winner), count);
    });
}

// Adds the gradients that pass to `sums`, and their products with x - mean to `products`: (channels,) each, with room for
// a whole number of vectors.
template <bool whole>
void pooled_products(const StanBatchNorm& n, const NormPool& s, const Lines& lines, int64_t window_row, float* sums,
                     float* products) {
    const Reader<whole, float> input{n.input, n.input + s.input_numbers};
    const Reader<whole, float> gradients{n.output_gradient, n.output_gradient + s.output_numbers};
    const Reader<whole, uint8_t> winners{n.winners, n.winners + s.output_numbers};
    over_vectors(s, window_row, [&](int64_t from, int64_t to, int c, int count, auto rows, auto columns) STAN_INLINE {
        const Vector g = gradients(to, count);
        const Whole winner = widened(winners(to, count));
        // Of the winner alone: where there is none, its number does not matter.
        Vector x = input(from, count);
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j)
                if (i || j)
                    x = winner == all(i * s.columns + j) ? input(from + i * s.line + j * s.channels, count) : x;
        const Whole cut_off = winner == all(no_place);
        store(sums + c, load(sums + c) + (cut_off ? Vector{} : g));
        store(products + c, load(products + c) + (cut_off ? Vector{} : g * lines.away(x, c)));
    });
}

// dL/dx as in batch_norm.cpp, of a row of windows, and of what no window sees right of it and below the last one.
template <bool whole>
void pooled_gradients(const StanBatchNorm& n, const NormPool& s, const Lines& lines, const float* gradients,
                      const float* slopes, int64_t window_row) {
    const Reader<whole, float> input{n.input, n.input + s.input_numbers};
    const Reader<whole, float> of_output{n.output_gradient, n.output_gradient + s.output_numbers};
    const Reader<whole, uint8_t> winners{n.winners, n.winners + s.output_numbers};
    const auto of_input = [&](int64_t at, int c, int count, Vector passed) STAN_INLINE {
        const Vector away = lines.away(input(at, count), c);
        const Vector direct = passed - load(gradients + c);
        write<whole>(n.input_gradient + at, (direct - away * load(slopes + c)) * load(lines.scales + c), count);
    };
    over_vectors(s, window_row, [&](int64_t from, int64_t to, int c, int count, auto rows, auto columns) STAN_INLINE {
        const Vector g = of_output(to, count);
        const Whole winner = widened(winners(to, count));
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j)
                of_input(from + i * s.line + j * s.channels, c, count,
                         winner == all(i * s.columns + j) ? g : Vector{});
    });
    const auto unseen = [&](int row, int column) {
        const int64_t from = (window_row / s.pooled_h * s.height + row) * s.line;
        for (; column < s.width; ++column)
            for (int c = 0; c < s.channels; c += lanes)
                of_input(from + static_cast<int64_t>(column) * s.channels + c, c, s.channels - c, Vector{});
    };
    const int first = static_cast<int>(window_row % s.pooled_h) * s.rows;
    for (int row = first; row < first + s.rows; ++row) unseen(row, s.pooled_w * s.columns);
    if (first + s.rows == s.pooled_h * s.rows)
        for (int row = first + s.rows; row < s.height; ++row) unseen(row, 0);
}

}  // namespace STAN_FORM
