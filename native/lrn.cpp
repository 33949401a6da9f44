// Within-channel local response normalisation, forward and backward in one pass over each image.
//
// y = x · d^-power with d = 1 + scale · (mean of x² over the window), zeros beyond the border counted in the mean.
// A row of an image is one run of width · channels numbers: its neighbours to the left and right lie `channels` away,
// so that no vector has to know of channels. For the backward pass d^-power is kept where the power takes longer than
// to write it and read it back; d itself is summed again.
#include <algorithm>
#include <vector>

#include "api.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "power.hpp"
#include "simd.hpp"

namespace STAN_FORM {
namespace {

// A window that is larger than the image is cut to what it sees of it: what lies beyond is zeros.
struct Sizes {
    int height, run, channels, columns, half, kept, border, pitch;

    explicit Sizes(const StanLrn& l)
        : height(l.height),
          run(l.width * l.channels),
          channels(l.channels),
          columns(2 * std::min(l.size / 2, l.width) + 1),
          half(std::min(l.size / 2, l.height)),
          kept(std::min(l.size, l.height)),
          border(columns / 2 * l.channels),
          pitch(vectors_of(run + 2 * border) * lanes + lanes) {}
};

// A thread's own rows, kept from call to call.
float* rows_of(size_t numbers) {
    thread_local Memory<float> memory;
    return memory.sized(numbers);
}

// The share of each number of a window, whether or not that is larger than the image. Its square may pass 32 bits.
double share_of(const StanLrn& l) { return l.scale / (static_cast<double>(l.size) * l.size); }

// Sums over the window's columns around each, of a row with a border on both sides; `fixed` is how many, where known.
template <int fixed>
Vector across(const float* bordered, const Sizes& s) {
    const int columns = fixed ? fixed : s.columns;
    Vector sum = load(bordered);
    for (int k = 1; k < columns; ++k) sum += load(bordered + static_cast<int64_t>(k) * s.channels);
    return sum;
}

// Sums of squares over the rows of `x` around row `y`, into a bordered row.
template <int fixed>
void squares_down(const float* x, int y, const Sizes& s, float* bordered) {
    const int top = std::max(0, y - s.half), bottom = std::min(s.height - 1, y + s.half);
    const float* from = x + static_cast<int64_t>(top) * s.run;
    float* to = bordered + s.border;
    const bool whole = fixed && bottom - top + 1 == fixed;
    for (int i = 0; i < s.run; i += lanes) {
        Vector sum = {};
        const auto add = [&](int row) {
            const Vector value = load(from + static_cast<int64_t>(row) * s.run + i, s.run - i);
            sum += value * value;
        };
        if (whole)
            for (int row = 0; row < fixed; ++row) add(row);
        else
            for (int row = 0; row <= bottom - top; ++row) add(row);
        store(to + i, sum, s.run - i);
    }
}

template <int fixed, class Power>
void forward_images(const StanLrn& l, const Sizes& s, const Power& power, int64_t first, int64_t last) {
    const Vector weight = all(static_cast<float>(share_of(l))), one = all(1.0f);
    float* sums = rows_of(s.pitch);
    std::fill_n(sums, s.pitch, 0.0f);
    for (int64_t image = first; image < last; ++image) {
        const int64_t begin = image * s.height * s.run;
        for (int y = 0; y < s.height; ++y) {
            squares_down<fixed>(l.input + begin, y, s, sums);
            const int64_t row = begin + static_cast<int64_t>(y) * s.run;
            for (int i = 0; i < s.run; i += lanes) {
                const int count = s.run - i;
                const Vector factor = power(one + weight * across<fixed>(sums + i, s));
                store(l.output + row + i, load(l.input + row + i, count) * factor, count);
                if (l.factor) store(l.factor + row + i, factor, count);
            }
        }
    }
}

// d^-power in the backward pass: what the forward pass has kept, or the power again.
struct Kept {
    Vector operator()(Vector, const float* kept, int count) const { return load(kept, count); }
};

template <class Power>
struct Again {
    Power power;
    Vector operator()(Vector d, const float*, int) const { return power(d); }
};

// dL/dx = g · d^-power - 2 · scale · power · x · mean(g · x · d^(-power - 1)), row by row: the products under the mean
// are made `half` rows ahead of the gradient, and those of `kept` rows are in memory at once.
template <int fixed, class Factor>
void backward_images(const StanLrn& l, const Sizes& s, const Factor& factor_of, int64_t first, int64_t last) {
    const double share = share_of(l);
    const Vector weight = all(static_cast<float>(share)), one = all(1.0f);
    const Vector through = all(static_cast<float>(-2.0 * share * l.power));
    float* sums = rows_of(static_cast<size_t>(s.pitch) * (1 + 2 * s.kept));
    float* products = sums + s.pitch;
    float* direct = products + static_cast<int64_t>(s.kept) * s.pitch;
    std::fill_n(sums, static_cast<size_t>(s.pitch) * (1 + 2 * s.kept), 0.0f);
    std::vector<const float*> around(s.kept);  // the rows of products that are summed: a slot costs a division
    const auto slot = [&](float* rows, int row) { return rows + static_cast<int64_t>(row % s.kept) * s.pitch; };
    for (int64_t image = first; image < last; ++image) {
        const float* x = l.input + image * s.height * s.run;
        const float* factors = l.factor ? l.factor + image * s.height * s.run : nullptr;
        const float* gradient = l.output_gradient + image * s.height * s.run;
        float* to = l.input_gradient + image * s.height * s.run;
        for (int ahead = 0; ahead < s.height + s.half; ++ahead) {
            if (ahead < s.height) {
                squares_down<fixed>(x, ahead, s, sums);
                const float* row = x + static_cast<int64_t>(ahead) * s.run;
                const float* factor = factors ? factors + static_cast<int64_t>(ahead) * s.run : nullptr;
                const float* from = gradient + static_cast<int64_t>(ahead) * s.run;
                float* straight = slot(direct, ahead);
                float* product = slot(products, ahead) + s.border;
                for (int i = 0; i < s.run; i += lanes) {
                    const int count = s.run - i;
                    const Vector d = one + weight * across<fixed>(sums + i, s);
                    const Vector value = load(from + i, count) * factor_of(d, factor + i, count);
                    store(straight + i, value);
                    store(product + i, value * load(row + i, count) * inverse(d), count);
                }
            }
            const int y = ahead - s.half;
            if (y < 0) continue;
            const int top = std::max(0, y - s.half), bottom = std::min(s.height - 1, y + s.half);
            for (int row = top; row <= bottom; ++row) around[row - top] = slot(products, row);
            for (int i = 0; i < s.run + 2 * s.border; i += lanes) {
                Vector sum = load(around[0] + i);
                for (int row = 1; row <= bottom - top; ++row) sum += load(around[row] + i);
                store(sums + i, sum);
            }
            const float* row = x + static_cast<int64_t>(y) * s.run;
            const float* straight = slot(direct, y);
            float* out = to + static_cast<int64_t>(y) * s.run;
            for (int i = 0; i < s.run; i += lanes) {
                const int count = s.run - i;
                const Vector mean = across<fixed>(sums + i, s);
                store(out + i, load(straight + i) + through * load(row + i, count) * mean, count);
            }
        }
    }
}

template <class Images>
void over_images(const StanLrn& l, const Images& images) {
    const int parts = static_cast<int>(std::clamp<int64_t>(l.images, 1, std::max(1, l.threads)));
    stan::in_parallel(parts, [&](int part) { images(l.images * part / parts, l.images * (part + 1) / parts); });
}

// Calls with(power) where roots give the power; returns whether they do.
template <class With>
bool by_roots(double power, const With& with) {
    if (power == 0.75)
        with(NegativeThreeQuarters{});
    else if (power == 0.5)
        with(NegativeHalf{});
    else if (power == 1.0)
        with(NegativeOne{});
    else
        return false;
    return true;
}

}  // namespace

void lrn_forward(const StanLrn& l) {
    const Sizes s(l);
    const auto with = [&](const auto& power) {
        over_images(l, [&](int64_t first, int64_t last) {
            if (l.size == 3)
                forward_images<3>(l, s, power, first, last);
            else
                forward_images<0>(l, s, power, first, last);
        });
    };
    if (!by_roots(l.power, with)) with(NegativePower(l.power));
}

bool lrn_keeps_factor(double power) {
    return !roots_are_cheap || !by_roots(power, [](const auto&) {});
}

void lrn_backward(const StanLrn& l) {
    const Sizes s(l);
    const auto with = [&](const auto& factor_of) {
        over_images(l, [&](int64_t first, int64_t last) {
            if (l.size == 3)
                backward_images<3>(l, s, factor_of, first, last);
            else
                backward_images<0>(l, s, factor_of, first, last);
        });
    };
    if constexpr (roots_are_cheap)
        if (!l.factor) {
            by_roots(l.power, [&]<class Power>(const Power& power) { with(Again<Power>{power}); });
            return;
        }
    with(Kept{});
}

}  // namespace STAN_FORM
