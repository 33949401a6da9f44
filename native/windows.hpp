// The windows of a pooling along one side, and reading vectors of channels from a tensor.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.hpp"

namespace STAN_FORM {

template <int number>
using Constant = std::integral_constant<int, number>;

// From `begin` to `end`, the latter not among them.
struct Range {
    int begin, end;
    int size() const { return end - begin; }
};

// One side of a pooling.
struct Side {
    int length, size, stride, pad, windows;

    int begin(int window) const { return window * stride - pad; }
    // What a window sees of the image.
    Range seen(int window) const { return {std::max(begin(window), 0), std::min(begin(window) + size, length)}; }
    // Which windows a place belongs to.
    Range of(int place) const {
        const int first = place + pad - size + 1;
        return {first <= 0 ? 0 : (first + stride - 1) / stride, std::min((place + pad) / stride + 1, windows)};
    }
    // How much of a window is within the padded image.
    int padded(int window) const { return std::min(begin(window) + size, length + pad) - begin(window); }
    // Whether no two windows meet, and together they have no gaps.
    bool parts() const { return stride == size && !pad; }
};

// Reads numbers of a tensor that ends at `end`. Where the channels are no whole number of vectors, lanes that do not
// matter are read, too, if that is within the tensor.
template <bool whole, class Number>
struct Reader {
    const Number *start, *end;

    STAN_INLINE auto operator()(int64_t at, int count) const {
        return load(start + at, whole || start + at + lanes <= end ? lanes : count);
    }
};

template <bool whole, class Number, class Value>
STAN_INLINE inline void write(Number* to, Value value, int count) {
    store(to, value, whole ? lanes : count);
}

}  // namespace STAN_FORM
