// Batch norm in training without learned scale and shift: statistics and normalisation, and their adjoint.
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

// One number for each channel, repeated over a period.
void repeat(const Sizes& s, const float* values, float* pattern) {
    for (int i = 0; i < s.period; i += s.channels) std::copy_n(values, s.channels, pattern + i);
}

// Sums `term(vector or number's index)` over the periods of a block and over the rows that are left, by channel.
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
    for (; first < s.vectors; ++first) columns(first, std::integral_constant<int, 1>{});
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
        repeat(s, means, pattern);
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
        n.running_mean[c] = static_cast<float>((1.0 - momentum) * n.running_mean[c] + momentum * mean);
        n.running_var[c] = static_cast<float>((1.0 - momentum) * n.running_var[c] + momentum * squares / (rows - 1.0));
    }

    float* means = pattern_memory.sized(2 * s.period);
    float* inverses = means + s.period;
    repeat(s, n.mean, means);
    repeat(s, n.inverse, inverses);
    stan::in_parallel(s.parts, [&](int part) {
        blocks_of(s, part, [&](int64_t row, int number) {
            const float* x = n.input + row * s.channels;
            float* y = n.output + row * s.channels;
            over_block(
                s, number,
                [&](int i, int j) { store(y + i, (load(x + i) - load(means + j)) * load(inverses + j)); },
                [&](int i, int c) { y[i] = (x[i] - means[c]) * inverses[c]; });
        });
    });
}

// dL/dx = (g - mean(g) - (x - mean) · inverse² · mean(g · (x - mean))) · inverse
void batch_norm_backward(const StanBatchNorm& n) {
    const Sizes s(n);
    thread_local Memory<double> sums_memory;
    thread_local Memory<float> pattern_memory;
    double* of_parts = sums_memory.sized(static_cast<size_t>(s.parts) * 2 * s.channels);
    std::fill_n(of_parts, static_cast<size_t>(s.parts) * 2 * s.channels, 0.0);
    float* means = pattern_memory.sized(4 * s.period);
    float *inverses = means + s.period, *gradients = inverses + s.period, *slopes = gradients + s.period;
    repeat(s, n.mean, means);
    repeat(s, n.inverse, inverses);
    stan::in_parallel(s.parts, [&](int part) {
        thread_local Memory<float> memory;
        float* sums = memory.sized(2 * s.channels);
        double* own = of_parts + static_cast<size_t>(part) * 2 * s.channels;
        blocks_of(s, part, [&](int64_t row, int number) {
            const float* x = n.input + row * s.channels;
            const float* g = n.output_gradient + row * s.channels;
            sum_by_channel<2>(
                s, number,
                [&](int i, int at, Vector* to) {
                    to[0] = load(g + i);
                    to[1] = to[0] * (load(x + i) - load(means + at));
                },
                [&](int i, int c, float* to) {
                    to[0] = g[i];
                    to[1] = g[i] * (x[i] - means[c]);
                },
                sums);
            for (int c = 0; c < 2 * s.channels; ++c) own[c] += sums[c];
        });
    });
    for (int c = 0; c < s.period; ++c) {
        double gradient = 0.0, product = 0.0;
        for (int part = 0; part < s.parts; ++part) {
            const double* own = of_parts + static_cast<size_t>(part) * 2 * s.channels + c % s.channels;
            gradient += own[0];
            product += own[s.channels];
        }
        const double inverse = inverses[c];
        gradients[c] = static_cast<float>(gradient / static_cast<double>(s.rows));
        slopes[c] = static_cast<float>(product / static_cast<double>(s.rows) * inverse * inverse);
    }
    stan::in_parallel(s.parts, [&](int part) {
        blocks_of(s, part, [&](int64_t row, int number) {
            const float* x = n.input + row * s.channels;
            const float* g = n.output_gradient + row * s.channels;
            float* to = n.input_gradient + row * s.channels;
            over_block(
                s, number,
                [&](int i, int j) {
                    const Vector away = load(x + i) - load(means + j);
                    const Vector direct = load(g + i) - load(gradients + j);
                    store(to + i, (direct - away * load(slopes + j)) * load(inverses + j));
                },
                [&](int i, int c) { to[i] = (g[i] - gradients[c] - (x[i] - means[c]) * slopes[c]) * inverses[c]; });
        });
    });
}

}  // namespace STAN_FORM
