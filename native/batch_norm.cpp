// Batch norm in training, the ReLU and the maximum pooling behind it: statistics, normalisation, scale, shift, adjoint.
//
// `rows` are the positions of all images, `channels` numbers each, one after the other. Where a vector is no whole
// number of channels, several rows together are a whole number of vectors: a *period*, after which the channels of the
// lanes repeat. Statistics are taken of blocks that stay in the nearest cache (the mean first, then the squares about
// it) and joined in double precision, so that the memory is read once and large means cost no precision
// (Chan, Golub & LeVeque, 1983).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "api.hpp"
#include "memory.hpp"
#include "norm_lines.hpp"
#include "norm_pool.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace STAN_FORM {
namespace {

// A block has about so many numbers, and at least so many rows: its share of the joining is then small.
constexpr int numbers_together = 4096, rows_together = 64;
constexpr int vectors_together = 4;  // summed side by side

struct Sizes {
    int64_t rows;
    int channels, vectors, period_rows, block_rows, period;  // vectors and period: of a period, and its numbers
    int64_t blocks;
    int parts;

    explicit Sizes(const StanBatchNorm& n)
        : rows(n.rows),
          channels(n.channels),
          vectors(n.channels / std::gcd(n.channels, lanes) * repeats(n.channels)),
          period_rows(lanes / std::gcd(n.channels, lanes) * repeats(n.channels)),
          block_rows(std::max(numbers_together / n.channels, rows_together) / period_rows * period_rows),
          period(vectors * lanes),
          blocks((n.rows + block_rows - 1) / block_rows),
          parts(static_cast<int>(std::clamp<int64_t>(blocks, 1, std::max(1, n.threads)))) {}

    // How often the channels are gone through in a period, for it to have enough vectors that no sum waits for itself.
    static int repeats(int channels) {
        const int vectors = channels / std::gcd(channels, lanes);
        return std::max(1, vectors_together / vectors);
    }
};

// Calls block(first row, rows) for the blocks of a part.
template <class Block>
void blocks_of(const Sizes& s, int part, const Block& block) {
    const int64_t last = s.blocks * (part + 1) / s.parts;
    for (int64_t i = s.blocks * part / s.parts; i < last; ++i) {
        const int64_t row = i * s.block_rows;
        block(row, static_cast<int>(std::min<int64_t>(s.block_rows, s.rows - row)));
    }
}

// Sums terms over the periods of a block and over the rows that are left, by channel.
//
// vector_term(i, j): the Vectors to be summed at numbers i to i + lanes - 1, whose pattern begins at j; number_term(i,
// j): the same for one number. `results` sums are taken at once; they are stored one after the other in `to`.
template <int results, class VectorTerm, class NumberTerm>
void sum_by_channel(const Sizes& s, int rows, const VectorTerm& vector_term, const NumberTerm& number_term, float* to) {
    const int periods = rows / s.period_rows;
    std::fill_n(to, results * s.channels, 0.0f);
    const auto columns = [&]<int width>(int first, std::integral_constant<int, width>) {
        Vector sums[results][width] = {};
        for (int p = 0; p < periods; ++p)
            for (int j = 0; j < width; ++j) {
                const int at = (first + j) * lanes;
                Vector terms[results];
                vector_term(p * s.period + at, at, terms);
                for (int r = 0; r < results; ++r) sums[r][j] += terms[r];
            }
        for (int r = 0; r < results; ++r)
            for (int j = 0; j < width; ++j) {
                float* own = to + r * s.channels;
                int c = (first + j) * lanes % s.channels;
                if (c + lanes <= s.channels) {
                    store(own + c, load(own + c) + sums[r][j]);
                    continue;
                }
                for (int lane = 0; lane < lanes; ++lane) {
                    own[c] += sums[r][j][lane];
                    if (++c == s.channels) c = 0;
                }
            }
    };
    int first = 0;
    for (; first + 4 <= s.vectors; first += 4) columns(first, std::integral_constant<int, 4>{});
    if (s.vectors - first == 3) columns(first, std::integral_constant<int, 3>{});
    if (s.vectors - first == 2) columns(first, std::integral_constant<int, 2>{});
    if (s.vectors - first == 1) columns(first, std::integral_constant<int, 1>{});
    for (int i = periods * s.period; i < rows * s.channels; ++i) {
        float terms[results];
        number_term(i, i % s.channels, terms);
        for (int r = 0; r < results; ++r) to[r * s.channels + i % s.channels] += terms[r];
    }
}

// Means and sums of squares about them, of the rows seen so far.
struct Moments {
    double rows, *means, *squares;

    void join(double more, const float* sums, const float* more_squares, int channels) {
        const double share = more / (rows + more), weight = rows * share;
        for (int c = 0; c < channels; ++c) {
            const double away = sums[c] / more - means[c];
            means[c] += away * share;
            squares[c] += more_squares[c] + away * away * weight;
        }
        rows += more;
    }
};

void moments_of_part(const StanBatchNorm& n, const Sizes& s, int part, Moments& moments) {
    thread_local Memory<float> memory;
    float* sums = memory.sized(3 * s.channels + s.period);
    float *squares = sums + s.channels, *means = squares + s.channels, *pattern = means + s.channels;
    blocks_of(s, part, [&](int64_t row, int rows) {
        const float* x = n.input + row * s.channels;
        sum_by_channel<1>(
            s, rows, [&](int i, int, Vector* to) { to[0] = load(x + i); },
            [&](int i, int, float* to) { to[0] = x[i]; }, sums);
        for (int c = 0; c < s.channels; ++c) means[c] = sums[c] / static_cast<float>(rows);
        repeat(means, s.channels, s.period, pattern);
        sum_by_channel<1>(
            s, rows,
            [&](int i, int at, Vector* to) {
                const Vector away = load(x + i) - load(pattern + at);
                to[0] = away * away;
            },
            [&](int i, int c, float* to) { to[0] = (x[i] - means[c]) * (x[i] - means[c]); }, squares);
        moments.join(rows, sums, squares, s.channels);
    });
}

// Calls vector(i, j) for the numbers i to i + lanes - 1 of a block's periods, whose pattern begins at j, and number(i,
// c) for those of the rows that are left.
template <class OfVector, class OfNumber>
void over_block(const Sizes& s, int rows, const OfVector& vector, const OfNumber& number) {
    const int periods = rows / s.period_rows;
    for (int p = 0; p < periods; ++p)
        for (int j = 0; j < s.period; j += lanes) vector(p * s.period + j, j);
    for (int i = periods * s.period; i < rows * s.channels; ++i) number(i, i % s.channels);
}

template <bool with_relu>
void outputs_of_block(const Sizes& s, const Lines& lines, int rows, const float* x, float* y) {
    over_block(
        s, rows,
        [&](int i, int j) {
            const Vector value = lines.at(lines.away(load(x + i), j), j);
            store(y + i, with_relu ? relu(value) : value);
        },
        [&](int i, int c) {
            const float value = lines.at(lines.away(x[i], c), c);
            y[i] = with_relu ? relu(value) : value;
        });
}

// The gradient that reaches the normalisation, where the output was not cut off.
template <bool with_relu>
STAN_INLINE inline Vector passed(const Lines& lines, Vector g, Vector away, int j) {
    if constexpr (with_relu) return lines.at(away, j) <= all(0.0f) ? all(0.0f) : g;
    return g;
}

template <bool with_relu>
STAN_INLINE inline float passed(const Lines& lines, float g, float away, int c) {
    if constexpr (with_relu) return lines.at(away, c) <= 0.0f ? 0.0f : g;
    return g;
}

// Sums of the gradients, and of their products with x - mean, by channel.
template <bool with_relu>
void products_of_block(const Sizes& s, const Lines& lines, int rows, const float* x, const float* g, float* sums) {
    sum_by_channel<2>(
        s, rows,
        [&](int i, int j, Vector* to) {
            const Vector away = lines.away(load(x + i), j);
            to[0] = passed<with_relu>(lines, load(g + i), away, j);
            to[1] = to[0] * away;
        },
        [&](int i, int c, float* to) {
            const float away = lines.away(x[i], c);
            to[0] = passed<with_relu>(lines, g[i], away, c);
            to[1] = to[0] * away;
        },
        sums);
}

// Adds the sums of a part's blocks to `to`.
void products_of_part(const StanBatchNorm& n, const Sizes& s, const Lines& lines, int part, double* to) {
    thread_local Memory<float> memory;
    float* sums = memory.sized(2 * s.channels);
    blocks_of(s, part, [&](int64_t row, int number) {
        const float* x = n.input + row * s.channels;
        const float* g = n.output_gradient + row * s.channels;
        n.relu ? products_of_block<true>(s, lines, number, x, g, sums)
               : products_of_block<false>(s, lines, number, x, g, sums);
        for (int c = 0; c < 2 * s.channels; ++c) to[c] += sums[c];
    });
}

// dL/dx = (g - mean(g) - (x - mean) · slope) · scale, slope = inverse² · mean(g · (x - mean))
template <bool with_relu>
void gradients_of_block(const Sizes& s, const Lines& lines, const float* gradients, const float* slopes, int rows,
                        const float* x, const float* g, float* to) {
    over_block(
        s, rows,
        [&](int i, int j) {
            const Vector away = lines.away(load(x + i), j);
            const Vector direct = passed<with_relu>(lines, load(g + i), away, j) - load(gradients + j);
            store(to + i, (direct - away * load(slopes + j)) * load(lines.scales + j));
        },
        [&](int i, int c) {
            const float away = lines.away(x[i], c);
            const float direct = passed<with_relu>(lines, g[i], away, c) - gradients[c];
            to[i] = (direct - away * slopes[c]) * lines.scales[c];
        });
}

// Calls row(i) for the rows of windows that are a part's.
template <class Row>
void window_rows_of(const NormPool& pool, const Sizes& s, int part, const Row& row) {
    const int64_t last = pool.window_rows() * (part + 1) / s.parts;
    for (int64_t i = pool.window_rows() * part / s.parts; i < last; ++i) row(i);
}

void pooled_outputs(const StanBatchNorm& n, const Sizes& s, const Lines& lines) {
    const NormPool pool(n);
    const auto row = s.channels % lanes ? (n.relu ? pooled_row<false, true> : pooled_row<false, false>)
                                        : (n.relu ? pooled_row<true, true> : pooled_row<true, false>);
    stan::in_parallel(s.parts, [&](int part) {
        window_rows_of(pool, s, part, [&](int64_t i) { row(n, pool, lines, i); });
    });
}

void pooled_products_of_part(const StanBatchNorm& n, const Sizes& s, const Lines& lines, int part, double* to) {
    const NormPool pool(n);
    thread_local Memory<float> memory;
    const int padded = vectors_of(s.channels) * lanes;
    float *sums = memory.sized(2 * padded), *products = sums + padded;
    const auto row = s.channels % lanes ? pooled_products<false> : pooled_products<true>;
    window_rows_of(pool, s, part, [&](int64_t i) {
        std::fill_n(sums, 2 * padded, 0.0f);
        row(n, pool, lines, i, sums, products);
        for (int c = 0; c < s.channels; ++c) {
            to[c] += sums[c];
            to[s.channels + c] += products[c];
        }
    });
}

void pooled_input_gradients(const StanBatchNorm& n, const Sizes& s, const Lines& lines, const float* gradients,
                            const float* slopes) {
    const NormPool pool(n);
    const auto row = s.channels % lanes ? pooled_gradients<false> : pooled_gradients<true>;
    stan::in_parallel(s.parts, [&](int part) {
        window_rows_of(pool, s, part, [&](int64_t i) { row(n, pool, lines, gradients, slopes, i); });
    });
}

}  // namespace

void batch_norm_forward(const StanBatchNorm& n) {
    const Sizes s(n);
    thread_local Memory<double> moments_memory;
    thread_local Memory<float> pattern_memory;
    double* of_parts = moments_memory.sized(static_cast<size_t>(s.parts) * 2 * s.channels);
    std::fill_n(of_parts, static_cast<size_t>(s.parts) * 2 * s.channels, 0.0);
    std::vector<Moments> moments;
    for (int part = 0; part < s.parts; ++part) {
        double* own = of_parts + static_cast<size_t>(part) * 2 * s.channels;
        moments.push_back({0.0, own, own + s.channels});
    }
    stan::in_parallel(s.parts, [&](int part) { moments_of_part(n, s, part, moments[part]); });

    const double rows = static_cast<double>(s.rows), momentum = n.momentum;
    for (int c = 0; c < s.channels; ++c) {
        // The parts, always in the same order.
        double seen = 0.0, mean = 0.0, squares = 0.0;
        for (const Moments& part : moments) {
            const double away = part.means[c] - mean, share = part.rows / (seen + part.rows);
            mean += away * share;
            squares += part.squares[c] + away * away * seen * share;
            seen += part.rows;
        }
        n.mean[c] = static_cast<float>(mean);
        n.inverse[c] = static_cast<float>(1.0 / std::sqrt(squares / rows + n.eps));
        if (!n.running_mean) continue;
        n.running_mean[c] = static_cast<float>((1.0 - momentum) * n.running_mean[c] + momentum * mean);
        n.running_var[c] = static_cast<float>((1.0 - momentum) * n.running_var[c] + momentum * squares / (rows - 1.0));
    }

    const Lines lines = lines_of(n, s.period, pattern_memory.sized(3 * s.period));
    if (n.pool_h) {
        pooled_outputs(n, s, lines);
        return;
    }
    stan::in_parallel(s.parts, [&](int part) {
        blocks_of(s, part, [&](int64_t row, int number) {
            const float* x = n.input + row * s.channels;
            float* y = n.output + row * s.channels;
            n.relu ? outputs_of_block<true>(s, lines, number, x, y) : outputs_of_block<false>(s, lines, number, x, y);
        });
    });
}

void batch_norm_backward(const StanBatchNorm& n) {
    const Sizes s(n);
    thread_local Memory<double> sums_memory;
    thread_local Memory<float> pattern_memory;
    double* of_parts = sums_memory.sized(static_cast<size_t>(s.parts) * 2 * s.channels);
    std::fill_n(of_parts, static_cast<size_t>(s.parts) * 2 * s.channels, 0.0);
    float* patterns = pattern_memory.sized(5 * s.period);
    float *gradients = patterns + 3 * s.period, *slopes = gradients + s.period;
    const Lines lines = lines_of(n, s.period, patterns);
    stan::in_parallel(s.parts, [&](int part) {
        double* own = of_parts + static_cast<size_t>(part) * 2 * s.channels;
        n.pool_h ? pooled_products_of_part(n, s, lines, part, own) : products_of_part(n, s, lines, part, own);
    });
    for (int c = 0; c < s.channels; ++c) {
        double gradient = 0.0, product = 0.0;
        for (int part = 0; part < s.parts; ++part) {
            const double* own = of_parts + static_cast<size_t>(part) * 2 * s.channels + c;
            gradient += own[0];
            product += own[s.channels];
        }
        const double inverse = n.inverse[c], rows = static_cast<double>(s.rows);
        if (n.weight_gradient) n.weight_gradient[c] = static_cast<float>(product * inverse);
        if (n.bias_gradient) n.bias_gradient[c] = static_cast<float>(gradient);
        for (int i = c; i < s.period; i += s.channels) {
            gradients[i] = static_cast<float>(gradient / rows);
            slopes[i] = static_cast<float>(product / rows * inverse * inverse);
        }
    }
    if (!n.input_gradient) return;
    if (n.pool_h) {
        pooled_input_gradients(n, s, lines, gradients, slopes);
        return;
    }
    stan::in_parallel(s.parts, [&](int part) {
        blocks_of(s, part, [&](int64_t row, int number) {
            const float* x = n.input + row * s.channels;
            const float* g = n.output_gradient + row * s.channels;
            float* to = n.input_gradient + row * s.channels;
            n.relu ? gradients_of_block<true>(s, lines, gradients, slopes, number, x, g, to)
                   : gradients_of_block<false>(s, lines, gradients, slopes, number, x, g, to);
        });
    });
}

}  // namespace STAN_FORM
