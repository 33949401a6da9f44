// Maximum and average pooling by themselves, in channels-last memory, and their adjoints.
//
// Every result is PyTorch's to the last bit: windows are read row by row, the last NaN wins a maximum and the first of
// equals, sums begin at zero, and averages are divisions. In the backward pass each number is written once: where
// windows meet, the input's positions gather from the windows that they belong to, in their order.
#include <algorithm>
#include <vector>

#include "api.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "windows.hpp"

namespace STAN_FORM {
namespace {

constexpr int numbers_of_a_part = 8192;  // for fewer, another thread does not pay

struct Sizes {
    Side y, x;
    int channels;
    int64_t line, numbers, pooled_line, pooled_numbers;  // floats of a row and of all rows, of the images and the output

    explicit Sizes(const StanPool& p)
        : y{p.height, p.size_h, p.stride_h, p.pad_h, p.pooled_h},
          x{p.width, p.size_w, p.stride_w, p.pad_w, p.pooled_w},
          channels(p.channels),
          line(static_cast<int64_t>(p.width) * p.channels),
          numbers(p.batch * p.height * line),
          pooled_line(static_cast<int64_t>(p.pooled_w) * p.channels),
          pooled_numbers(p.batch * p.pooled_h * pooled_line) {}

    // What the sum of a window is divided by.
    int divisor(const StanPool& p, int row, int column) const {
        if (p.divisor) return p.divisor;
        if (p.count_pads) return y.padded(row) * x.padded(column);
        return y.seen(row).size() * x.seen(column).size();
    }
};

// Divides by a whole number; where that is a power of two, by a product, which is as exact and takes less.
struct Division {
    float by;
    bool product;

    explicit Division(int number) : by(static_cast<float>(number)), product(!(number & (number - 1))) {
        if (product) by = 1.0f / by;
    }
    STAN_INLINE Vector operator()(Vector value) const { return product ? value * all(by) : value / all(by); }
};

// Calls of_row(image, row) for the rows of all images, on several threads.
template <class OfRow>
void over_rows(const StanPool& p, int height, int64_t all_numbers, const OfRow& of_row) {
    const int64_t rows = p.batch * height;
    const int64_t most = std::min(rows, all_numbers / numbers_of_a_part);
    const int parts = static_cast<int>(std::clamp<int64_t>(most, 1, std::max(1, p.threads)));
    stan::in_parallel(parts, [&](int part) {
        for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; ++i)
            of_row(i / height, static_cast<int>(i % height));
    });
}

// Calls of_window(column, its first seen number in the input, its seen rows and columns, the place of that number in
// it) for the windows of a row of the output; rows and columns are constants where a window of a common size is seen
// whole.
template <class OfWindow>
STAN_INLINE inline void over_windows(const Sizes& s, int64_t image, int row, const OfWindow& of_window) {
    const Range y = s.y.seen(row);
    const bool square = y.size() == s.y.size && s.y.size == s.x.size;
    const int64_t line = (image * s.y.length + y.begin) * s.line;
    for (int column = 0; column < s.x.windows; ++column) {
        const Range x = s.x.seen(column);
        const int64_t first = line + static_cast<int64_t>(x.begin) * s.channels;
        if (square && s.x.size == 2 && x.size() == 2)
            of_window(column, first, Constant<2>(), Constant<2>(), 0);
        else if (square && s.x.size == 3 && x.size() == 3)
            of_window(column, first, Constant<3>(), Constant<3>(), 0);
        else
            of_window(column, first, y.size(), x.size(),
                      (y.begin - s.y.begin(row)) * s.x.size + x.begin - s.x.begin(column));
    }
}

template <bool whole, bool winners>
void maxima_of_row(const StanPool& p, const Sizes& s, int64_t image, int row) {
    const Reader<whole, float> input{p.input, p.input + s.numbers};
    int64_t to = (image * s.y.windows + row) * s.pooled_line;
    over_windows(s, image, row, [&](int, int64_t first, auto rows, auto columns, int place) STAN_INLINE {
        for (int c = 0; c < s.channels; c += lanes) {
            const int count = s.channels - c;
            Vector most = input(first + c, count);
            Whole winner = all(place);
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < columns; ++j) {
                    const Vector value = input(first + c + i * s.line + j * s.channels, count);
                    const Whole larger = (value > most) | (value != value);
                    most = larger ? value : most;
                    if (winners) winner = larger ? all(place + i * s.x.size + j) : winner;
                }
            write<whole>(p.output + to + c, most, count);
            if (winners) write<whole>(p.winners + to + c, bytes(winner), count);
        }
        to += s.channels;
    });
}

template <bool whole>
void averages_of_row(const StanPool& p, const Sizes& s, int64_t image, int row) {
    const Reader<whole, float> input{p.input, p.input + s.numbers};
    int64_t to = (image * s.y.windows + row) * s.pooled_line;
    over_windows(s, image, row, [&](int column, int64_t first, auto rows, auto columns, int) STAN_INLINE {
        const Division divided(s.divisor(p, row, column));
        for (int c = 0; c < s.channels; c += lanes) {
            const int count = s.channels - c;
            Vector sum = {};
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < columns; ++j) sum += input(first + c + i * s.line + j * s.channels, count);
            write<whole>(p.output + to + c, divided(sum), count);
        }
        to += s.channels;
    });
}

// Where windows are parts of the image: the gradients of the positions that a row of windows sees, and of those right
// of and below the last ones.
template <bool whole, bool average>
void parted_row(const StanPool& p, const Sizes& s, int64_t image, int row) {
    const Reader<whole, float> gradients{p.output_gradient, p.output_gradient + s.pooled_numbers};
    const Reader<whole, uint8_t> winners{p.winners, p.winners + s.pooled_numbers};
    int64_t from = (image * s.y.windows + row) * s.pooled_line;
    over_windows(s, image, row, [&](int column, int64_t first, auto rows, auto columns, int) STAN_INLINE {
        const Division divided(average ? s.divisor(p, row, column) : 1);
        for (int c = 0; c < s.channels; c += lanes) {
            const int count = s.channels - c;
            // A sum of one number that begins at zero is no minus zero.
            const Vector g = gradients(from + c, count);
            const Vector share = (average ? divided(g) : g) + all(0.0f);
            Whole winner = {};
            if (!average) winner = widened(winners(from + c, count));
            float* to = p.input_gradient + first + c;
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < columns; ++j)
                    write<whole>(
                        to + i * s.line + j * s.channels,
                        average ? share : (winner == all(i * s.x.size + j) ? share : Vector{}), count);
        }
        from += s.channels;
    });
    const int below = s.y.seen(row).end, right = s.x.seen(s.x.windows - 1).end;
    float* image_to = p.input_gradient + image * s.y.length * s.line;
    for (int i = s.y.seen(row).begin; i < below; ++i)
        std::fill(image_to + i * s.line + static_cast<int64_t>(right) * s.channels, image_to + (i + 1) * s.line, 0.0f);
    if (row == s.y.windows - 1) std::fill(image_to + below * s.line, image_to + s.y.length * s.line, 0.0f);
}

// For each column of the images, the windows' columns that it belongs to, and its place in them.
struct Columns {
    std::vector<int32_t> begins, windows, places;

    explicit Columns(const Side& x) {
        for (int column = 0; column < x.length; ++column) {
            begins.push_back(static_cast<int32_t>(windows.size()));
            const Range own = x.of(column);
            for (int window = own.begin; window < own.end; ++window) {
                windows.push_back(window);
                places.push_back(column - x.begin(window));
            }
        }
        begins.push_back(static_cast<int32_t>(windows.size()));
    }
};

// The gradient of one row of an image, whichever windows its positions belong to; `gradients` are the output's or, of
// averages, what each position of a window has of them.
template <bool whole, bool average>
void gathered_row(const StanPool& p, const Sizes& s, const Columns& columns, const float* of_output, int64_t image,
                  int row) {
    const Reader<whole, float> gradients{of_output, of_output + s.pooled_numbers};
    const Reader<whole, uint8_t> winners{p.winners, p.winners + s.pooled_numbers};
    const Range rows = s.y.of(row);
    const int64_t first = (image * s.y.windows + rows.begin) * s.pooled_line;
    const int first_place = (row - s.y.begin(rows.begin)) * s.x.size, next = s.y.stride * s.x.size;
    float* to = p.input_gradient + (image * s.y.length + row) * s.line;
    for (int column = 0; column < s.x.length; ++column, to += s.channels) {
        const int32_t *windows = columns.windows.data() + columns.begins[column],
                      *places = columns.places.data() + columns.begins[column];
        const int number = columns.begins[column + 1] - columns.begins[column];
        const auto gather = [&](auto of_rows, auto of_columns) STAN_INLINE {
            for (int c = 0; c < s.channels; c += lanes) {
                const int count = s.channels - c;
                Vector sum = {};
                for (int i = 0; i < of_rows; ++i)
                    for (int j = 0; j < of_columns; ++j) {
                        const int64_t at = first + i * s.pooled_line + static_cast<int64_t>(windows[j]) * s.channels + c;
                        const Vector g = gradients(at, count);
                        if constexpr (average)
                            sum += g;
                        else {
                            const Whole winner = widened(winners(at, count));
                            sum += winner == all(first_place - i * next + places[j]) ? g : Vector{};
                        }
                    }
                write<whole>(to + c, sum, count);
            }
        };
        // Constants for what is common: a loop takes longer than what is done in it.
        const int shape = rows.size() <= 3 && number <= 3 ? rows.size() * 4 + number : 0;
        if (shape == 1 * 4 + 1)
            gather(Constant<1>(), Constant<1>());
        else if (shape == 1 * 4 + 2)
            gather(Constant<1>(), Constant<2>());
        else if (shape == 2 * 4 + 1)
            gather(Constant<2>(), Constant<1>());
        else if (shape == 2 * 4 + 2)
            gather(Constant<2>(), Constant<2>());
        else if (shape == 3 * 4 + 3)
            gather(Constant<3>(), Constant<3>());
        else
            gather(rows.size(), number);
    }
}

// What each position of a window has of an average's gradient, for one row of windows.
void shares_of_row(const StanPool& p, const Sizes& s, float* shares, int64_t image, int row) {
    int64_t at = (image * s.y.windows + row) * s.pooled_line;
    for (int column = 0; column < s.x.windows; ++column, at += s.channels) {
        const Division divided(s.divisor(p, row, column));
        for (int c = 0; c < s.channels; c += lanes) {
            const int count = s.channels - c;
            store(shares + at + c, divided(load(p.output_gradient + at + c, count)), count);
        }
    }
}

template <bool whole>
void forward(const StanPool& p, const Sizes& s) {
    over_rows(p, p.pooled_h, s.numbers, [&](int64_t image, int row) {
        if (p.average)
            averages_of_row<whole>(p, s, image, row);
        else
            p.winners ? maxima_of_row<whole, true>(p, s, image, row) : maxima_of_row<whole, false>(p, s, image, row);
    });
}

template <bool whole, bool average>
void backward(const StanPool& p, const Sizes& s) {
    if (s.y.parts() && s.x.parts()) {
        over_rows(p, p.pooled_h, s.numbers, [&](int64_t image, int row) {
            parted_row<whole, average>(p, s, image, row);
        });
        return;
    }
    const float* gradients = p.output_gradient;
    if (average) {
        thread_local Memory<float> memory;
        float* shares = memory.sized(s.pooled_numbers);
        over_rows(p, p.pooled_h, s.pooled_numbers, [&](int64_t image, int row) {
            shares_of_row(p, s, shares, image, row);
        });
        gradients = shares;
    }
    const Columns columns(s.x);
    over_rows(p, p.height, s.numbers, [&](int64_t image, int row) {
        gathered_row<whole, average>(p, s, columns, gradients, image, row);
    });
}

}  // namespace

void pool_forward(const StanPool& p) {
    const Sizes s(p);
    s.channels % lanes ? forward<false>(p, s) : forward<true>(p, s);
}

void pool_backward(const StanPool& p) {
    const Sizes s(p);
    if (s.channels % lanes)
        p.average ? backward<false, true>(p, s) : backward<false, false>(p, s);
    else
        p.average ? backward<true, true>(p, s) : backward<true, false>(p, s);
}

}  // namespace STAN_FORM
