// What batch norm does to each channel once the statistics are known: a line.
#pragma once

#include <algorithm>

#include "api.hpp"
#include "simd.hpp"

namespace STAN_FORM {

// One number for each channel, repeated over a period.
inline void repeat(const float* values, int channels, int period, float* pattern) {
    for (int i = 0; i < period; i += channels) std::copy_n(values, channels, pattern + i);
}

// Of a channel each, repeated over a period: y = (x - mean) · scale + shift.
struct Lines {
    const float *means, *scales, *shifts;

    STAN_INLINE Vector away(Vector x, int j) const { return x - load(means + j); }
    STAN_INLINE float away(float x, int c) const { return x - means[c]; }
    STAN_INLINE Vector at(Vector away, int j) const { return away * load(scales + j) + load(shifts + j); }
    STAN_INLINE float at(float away, int c) const { return away * scales[c] + shifts[c]; }
};

// Three periods of floats at `to`.
inline Lines lines_of(const StanBatchNorm& n, int period, float* to) {
    float *means = to, *scales = means + period, *shifts = scales + period;
    repeat(n.mean, n.channels, period, means);
    for (int i = 0; i < period; ++i) {
        const int c = i % n.channels;
        scales[i] = n.weight ? n.inverse[c] * n.weight[c] : n.inverse[c];
        shifts[i] = n.bias ? n.bias[c] : 0.0f;
    }
    return {means, scales, shifts};
}

}  // namespace STAN_FORM
