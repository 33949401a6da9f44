// The products of a block by Winograd's minimal filtering along the columns of an image: fewer multiplications, the
// same result but for rounding.
//
// Four outputs one below the other, under a kernel of r rows, are made of r + 3 products instead of 4 r (Winograd 1980;
// Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", equations 5 to 8):
//
//     y = A^T [(G g) . (B^T d)]      dL/dg = G^T [(A dL/dy) . (B^T d)]      dL/dd = B [(G g) . (A dL/dy)]
//
// with d the r + 3 rows of the input, g the kernel. Each of the r + 3 products ("points") is a convolution with a
// kernel of one row, so the tiles for lists do it, and columns that STAN leaves out are left out here too. Where every
// other row is left out, even and odd rows are filtered apart: 11 products instead of 20 under five rows.
#pragma once

#include "geometry.hpp"
#include "input_gather.hpp"

namespace STAN_FORM {

// Toom and Cook's construction at the points 0, 1, -1, 1/2, -2, 2, -1/2, as many as are needed, and infinity. One half and
// -2 come before 2: of five points 0, 1, -1, 2, -2 make a fifth more of rounding errors (Barabasz et al. 2020, "Error
// Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks").
template <int outputs, int taps>
struct Minimal {
    static constexpr int points = outputs + taps - 1;
    float input[points][points] = {}, output[outputs][points] = {}, kernel[points][taps] = {};  // B^T, A^T, G

    constexpr Minimal() {
        constexpr double where[] = {0, 1, -1, 0.5, -2, 2, -0.5};
        constexpr int finite = points - 1;
        static_assert(finite <= 7);
        for (int point = 0; point <= finite; ++point) {
            // The polynomial whose zeros are the other finite points, and its value at this one.
            double coefficients[points + 1] = {1}, value = 1;
            int degree = 0;
            for (int other = 0; other < finite; ++other) {
                if (other == point) continue;
                coefficients[++degree] = 0;
                for (int k = degree; k >= 0; --k)
                    coefficients[k] = (k ? coefficients[k - 1] : 0) - where[other] * coefficients[k];
                if (point < finite) value *= where[point] - where[other];
            }
            for (int k = 0; k <= degree; ++k) input[point][k] = static_cast<float>(coefficients[k]);
            double power = 1;
            for (int k = 0; k < points; ++k) {
                const bool last = point == finite;
                if (k < outputs) output[k][point] = static_cast<float>(last ? k == outputs - 1 : power);
                if (k < taps) kernel[point][k] = static_cast<float>(last ? k == taps - 1 : power / value);
                if (!last) power *= where[point];
            }
        }
    }
};

// The same for outputs that lie `period` rows apart: each residue of the rows modulo the period is a filtering of its
// own, and their products are added.
template <int outputs, int taps, int period>
struct Phases {
    static_assert(period == 1 || period == 2);
    static constexpr int first = (taps + period - 1) / period;  // taps of the first residue
    static constexpr int points = outputs + first - 1 + (period == 2 ? outputs + taps / 2 - 1 : 0);
    static constexpr int seen = period * (outputs - 1) + taps;  // rows of the input
    float input[points][seen] = {}, output[outputs][points] = {}, kernel[points][taps] = {};

    constexpr Phases() {
        add(Minimal<outputs, first>(), 0, 0);
        if constexpr (period == 2) add(Minimal<outputs, taps / 2>(), outputs + first - 1, 1);
    }

  private:
    template <int some>
    constexpr void add(const Minimal<outputs, some>& of, int from, int residue) {
        for (int point = 0; point < of.points; ++point) {
            for (int k = 0; k < of.points; ++k) input[from + point][residue + period * k] = of.input[point][k];
            for (int k = 0; k < outputs; ++k) output[k][from + point] = of.output[k][point];
            for (int k = 0; k < some; ++k) kernel[from + point][residue + period * k] = of.kernel[point][k];
        }
    }
};

// result[i] = sum of coefficient(i, j) value[j]; the coefficients are known to the compiler.
template <class Coefficient, int results, int values>
inline void mix(const Vector (&value)[values], Vector (&result)[results]) {
    unrolled<results>([&](auto i) STAN_INLINE {
        Vector sum = {};
        unrolled<values>([&](auto j) STAN_INLINE {
            constexpr float factor = Coefficient::of(i, j);
            if constexpr (factor == 1.0f)
                sum += value[j];
            else if constexpr (factor == -1.0f)
                sum -= value[j];
            else if constexpr (factor != 0.0f)
                sum += value[j] * all(factor);
        });
        result[i] = sum;
    });
}

// period: rows of the input from one computed row of the output to the next.
template <int taps, int period>
class Winograd {
    static constexpr int high = 4;             // outputs of a tile
    static constexpr int step = high * period;  // rows of the input from a tile to the next
    static constexpr Phases<high, taps, period> matrices{};
    static constexpr int points = matrices.points, seen = matrices.seen;
    struct Input {
        static constexpr float of(int i, int j) { return matrices.input[i][j]; }
    };
    struct InputAdjoint {
        static constexpr float of(int i, int j) { return matrices.input[j][i]; }
    };
    struct Output {
        static constexpr float of(int i, int j) { return matrices.output[i][j]; }
    };
    struct OutputAdjoint {
        static constexpr float of(int i, int j) { return matrices.output[j][i]; }
    };
    struct Kernel {
        static constexpr float of(int i, int j) { return matrices.kernel[i][j]; }
    };
    struct KernelAdjoint {
        static constexpr float of(int i, int j) { return matrices.kernel[j][i]; }
    };

  public:
    // Whether the block is of a form that this does: rows of the output at one distance, columns of any grid.
    static bool fits(const StanBlock& b) {
        return b.kernel_h == taps && b.shared && b.grid_h > 0 && b.stride_h * b.grid_h == period && rows_of(b) > 0;
    }

    // Counted in multiply-adds of a vector: what a tile of four entries costs, either way.
    static bool pays(const StanBlock& b) {
        if (!fits(b)) return false;
        constexpr double entry = 3;  // loads, stores, loops of an entry
        constexpr double mixing = points * high;
        const double length = static_cast<double>(b.kernel_w) * b.channels;
        const int rows = rows_of(b), tiles = (rows + high - 1) / high;
        const double inputs =
            2.0 * points * seen * b.width * b.channels / (static_cast<double>(b.entries / rows) * pitch_of(b));
        return tiles * (points * (length + entry) + mixing + inputs) < rows * (taps * length + entry);
    }

    explicit Winograd(const StanBlock& b)
        : b_(b),
          pitch_(pitch_of(b)),
          rows_(rows_of(b)),
          columns_(b.entries / rows_),
          tiles_((rows_ + high - 1) / high),
          top_(b.pad_top - b.grid_top * b.stride_h),
          padded_(b, tiles_ * step + seen - step, top_),
          run_{1, b.kernel_w * b.channels, 0},
          gather_(b, GatherSide(1, 1, 1, 0, 1, 0, 1), InputGather::columns_of(b)),
          gathers_(gather_.pays()),
          chunk_(std::max(1, entries_together / std::max(columns_, 1))) {}

    // At least a chunk of tiles.
    int together() const { return std::clamp(chunk_ / tiles_, 1, std::max(b_.batch, 1)); }

    int64_t output_weights() const { return points * point_weights(); }
    void pack_outputs(float* to) const {
        const float* weight = transformed();
        for (int point = 0; point < points; ++point)
            pack_for_outputs(weight + point * per_point(), b_.filters, run_.length, to + point * point_weights());
    }

    int64_t input_weights() const { return points * (gathers_ ? gather_.weights() : packed_for_inputs(b_.filters, run_)); }
    void pack_inputs(float* to) const {
        const float* weight = transformed();
        for (int point = 0; point < points; ++point, weight += per_point(), to += input_weights() / points)
            if (gathers_)
                gather_.pack(weight, to);
            else
                pack_for_inputs(weight, b_.filters, run_, to);
    }

    void outputs(Scratch& own, int first, int images, const float* weights, const float* bias, float* rows) const {
        float* padded = pad(own, first, images);
        float* found = own.points.sized(points * seen_apart());
        float* products = own.products.sized(points * products_apart());
        const int32_t* at = own.at.start();
        std::fill_n(own.sums.sized(pitch_), pitch_, 0.0f);
        for (int unit = 0; unit < images * tiles_; unit += chunk_) {
            const int some = std::min(chunk_, images * tiles_ - unit);
            for (int i = 0; i < some; ++i) see(padded, unit + i, found + static_cast<int64_t>(i) * padded_.row);
            for (int point = 0; point < points; ++point)
                STAN_FORM::outputs(
                    found + point * seen_apart(), at, some * columns_, run_, weights + point * point_weights(),
                    own.sums.start(), products + point * products_apart(), pitch_
                );
            for (int i = 0; i < some; ++i) make(unit + i, products + static_cast<int64_t>(i) * columns_ * pitch_, bias, rows);
        }
    }

    int64_t weight_sums() const { return points * static_cast<int64_t>(run_.length) * pitch_; }

    void begin(Scratch& own) const { locate(own); }

    void begin_gradients(Scratch& own) const {
        begin(own);
        if (!b_.input_gradient || !gathers_) return;
        const int64_t floats = static_cast<int64_t>(chunk_) * gather_.image();
        std::fill_n(own.image_gradients.sized(floats), floats, 0.0f);
        gather_.locate(chunk_, own.gather_at);
    }

    void gradients(
        Scratch& own, int first, int images, const float* rows, const float* weights, const float* zeros, float* sums
    ) const {
        const float* padded = b_.weight_gradient ? pad(own, first, images) : nullptr;
        // The input's points, then in the same place their gradients.
        float* found = own.points.sized(points * seen_apart());
        float* products = own.products.sized(points * products_apart());
        const int32_t* at = own.at.start();
        for (int unit = 0; unit < images * tiles_; unit += chunk_) {
            const int some = std::min(chunk_, images * tiles_ - unit), entries = some * columns_;
            for (int i = 0; i < some; ++i) make_adjoint(unit + i, rows, products + static_cast<int64_t>(i) * columns_ * pitch_);
            if (b_.weight_gradient) {
                for (int i = 0; i < some; ++i) see(padded, unit + i, found + static_cast<int64_t>(i) * padded_.row);
                for (int point = 0; point < points; ++point)
                    weight_gradients(
                        found + point * seen_apart(), at, entries, run_, products + point * products_apart(),
                        sums + point * point_weights(), pitch_
                    );
            }
            if (!b_.input_gradient) continue;
            for (int point = 0; point < points; ++point) {
                const float* gradient = products + point * products_apart();
                const float* weight = weights + point * (input_weights() / points);
                float* to = found + point * seen_apart();
                if (gathers_) {
                    float* placed = own.image_gradients.start();
                    for (int i = 0; i < some; ++i)
                        gather_.place(gradient + static_cast<int64_t>(i) * columns_ * pitch_, pitch_, placed + static_cast<int64_t>(i) * gather_.image());
                    gather_.run(placed, some, chunk_, weight, zeros, own.gather_at.start(), own.sums, to);
                } else {
                    std::fill_n(to, static_cast<int64_t>(some) * padded_.row, 0.0f);
                    input_gradients(gradient, pitch_, b_.filters, at, entries, run_, weight, to);
                }
            }
            for (int i = 0; i < some; ++i) see_adjoint(found, first, unit + i, i);
        }
    }

    void finish(const float* sums) const {
        const int64_t terms = static_cast<int64_t>(taps) * run_.length;
        alignas(64) float squares[taps][lanes * lanes];
        for (int k = 0; k < run_.length; k += lanes) {
            const int some = std::min(lanes, run_.length - k);
            for (int c = 0; c < b_.filters; c += lanes) {
                for (int i = 0; i < some; ++i) {
                    Vector value[points], result[taps];
                    const float* from = sums + static_cast<int64_t>(k + i) * pitch_ + c;
                    unrolled<points>([&](auto point) STAN_INLINE { value[point] = load(from + point * point_weights()); });
                    mix<KernelAdjoint>(value, result);
                    unrolled<taps>([&](auto row) STAN_INLINE { store(squares[row] + i * lanes, result[row]); });
                }
                float* to = b_.weight_gradient + c * terms + k;
                for (int row = 0; row < taps; ++row, to += run_.length)
                    transpose(squares[row], lanes, some, std::min(lanes, b_.filters - c), to, terms);
            }
        }
    }

  private:
    static constexpr int entries_together = 128;

    // Computed rows of the output.
    static int rows_of(const StanBlock& b) { return (b.out_h - b.grid_top + b.grid_h - 1) / b.grid_h; }

    int64_t per_point() const { return static_cast<int64_t>(b_.filters) * run_.length; }
    int64_t point_weights() const { return static_cast<int64_t>(run_.length) * pitch_; }
    // Floats from a point's to the next one's, of a chunk: not a power of two, which would crowd the cache. Gathered
    // gradients are as wide as the input, which has columns that no entry sees where the stride leaves some over.
    int64_t seen_apart() const {
        const int row = std::max(padded_.row, b_.width * b_.channels);
        return (static_cast<int64_t>(chunk_) * row + 3 * lanes) / 16 * 16 + 48;
    }
    int64_t products_apart() const { return static_cast<int64_t>(chunk_) * columns_ * pitch_ + 16; }

    // The points of the weights: (points, filters, a run's length).
    const float* transformed() const {
        thread_local Memory<float> memory;
        float* to = memory.sized(points * per_point() + lanes);
        for (int filter = 0; filter < b_.filters; ++filter) {
            const float* from = b_.weight + static_cast<int64_t>(filter) * taps * run_.length;
            for (int k = 0; k < run_.length; k += lanes) {
                const int count = run_.length - k;
                Vector value[taps], result[points];
                unrolled<taps>([&](auto row) STAN_INLINE { value[row] = load(from + row * run_.length + k, count); });
                mix<Kernel>(value, result);
                float* const own = to + static_cast<int64_t>(filter) * run_.length + k;
                unrolled<points>([&](auto i) STAN_INLINE { store(own + i * per_point(), result[i], count); });
            }
        }
        return to;
    }

    float* pad(Scratch& own, int first, int images) const {
        float* padded = own.images.sized(static_cast<size_t>(together()) * padded_.floats + lanes);
        for (int i = 0; i < images; ++i) padded_.pad(b_, first + i, padded + static_cast<int64_t>(i) * padded_.floats);
        return padded;
    }

    // Notes where the entries of a chunk of tiles begin, one tile's row after the other's.
    void locate(Scratch& own) const {
        int32_t* at = own.at.sized(static_cast<size_t>(chunk_) * columns_);
        for (int unit = 0; unit < chunk_; ++unit)
            for (int i = 0; i < columns_; ++i)
                at[unit * columns_ + i] =
                    unit * padded_.row + (b_.grid_left + i * std::max(b_.grid_w, 1)) * b_.stride_w * b_.channels;
    }

    // B^T d of a tile: a row for each point. What it writes beyond a row's end, the next tile writes again.
    void see(const float* padded, int unit, float* to) const {
        const float* from =
            padded + static_cast<int64_t>(unit / tiles_) * padded_.floats + unit % tiles_ * step * padded_.row;
        const int64_t apart = seen_apart();
        for (int x = 0; x < padded_.row; x += lanes) {
            Vector value[seen], result[points];
            unrolled<seen>([&](auto i) STAN_INLINE { value[i] = load(from + i * padded_.row + x); });
            mix<Input>(value, result);
            unrolled<points>([&](auto i) STAN_INLINE { store(to + i * apart + x, result[i]); });
        }
    }

    // Adds B of a tile's points to the input's gradient; the tile above came before.
    void see_adjoint(const float* found, int first, int unit, int place) const {
        const int row = b_.width * b_.channels, tile = unit % tiles_, top = tile * step - top_;
        const float* from = found + static_cast<int64_t>(place) * (gathers_ ? row : padded_.row) +
                            (gathers_ ? 0 : b_.pad_left * b_.channels);
        float* to = b_.input_gradient + static_cast<int64_t>(first + unit / tiles_) * b_.height * row;
        const auto zero = [&](int begin, int end, int column) {
            for (int y = std::max(begin, 0); y < std::min(end, b_.height); ++y)
                std::fill_n(to + static_cast<int64_t>(y) * row + column, row - column, 0.0f);
        };
        const int there = gathers_ ? row : padded_.seen(b_) * b_.channels;
        if (tile == 0) zero(0, top, 0);
        zero(top, top + seen, there);
        if (tile == tiles_ - 1) zero(top + seen, b_.height, 0);
        const int64_t apart = seen_apart();
        for (int x = 0; x < there; x += lanes) {
            const int count = there - x;
            Vector value[points], result[seen];
            unrolled<points>([&](auto i) STAN_INLINE { value[i] = load(from + i * apart + x, count); });
            mix<InputAdjoint>(value, result);
            unrolled<seen>([&](auto i) STAN_INLINE {
                const int y = top + i;
                if (y < 0 || y >= b_.height) return;
                float* sum = to + static_cast<int64_t>(y) * row + x;
                store(sum, tile && i < seen - step ? load(sum, count) + result[i] : result[i], count);
            });
        }
    }

    // A^T of a tile's products, to the rows of its entries.
    void make(int unit, const float* products, const float* bias, float* rows) const {
        const int top = unit % tiles_ * high, number = std::min(high, rows_ - top);
        float* to = rows + (static_cast<int64_t>(unit / tiles_) * rows_ + top) * columns_ * pitch_;
        const int64_t apart = products_apart(), row = static_cast<int64_t>(columns_) * pitch_;
        for (int x = 0; x < row; x += pitch_)
            for (int c = 0; c < pitch_; c += lanes) {
                Vector value[points], result[high];
                unrolled<points>([&](auto i) STAN_INLINE { value[i] = load(products + i * apart + x + c); });
                mix<Output>(value, result);
                const Vector more = load(bias + c);
                unrolled<high>([&](auto i) STAN_INLINE {
                    if (i < number) store(to + i * row + x + c, result[i] + more);
                });
            }
    }

    // A of a tile's rows.
    void make_adjoint(int unit, const float* rows, float* products) const {
        const int top = unit % tiles_ * high, number = std::min(high, rows_ - top);
        const float* from = rows + (static_cast<int64_t>(unit / tiles_) * rows_ + top) * columns_ * pitch_;
        const int64_t apart = products_apart(), row = static_cast<int64_t>(columns_) * pitch_;
        for (int x = 0; x < row; x += lanes) {
            Vector value[high], result[points];
            unrolled<high>([&](auto i) STAN_INLINE { value[i] = i < number ? load(from + i * row + x) : Vector{}; });
            mix<OutputAdjoint>(value, result);
            unrolled<points>([&](auto i) STAN_INLINE { store(products + i * apart + x, result[i]); });
        }
    }

    const StanBlock& b_;
    int pitch_, rows_, columns_, tiles_;
    int top_;  // zeros above the first computed row's input; may be negative
    Padded padded_;
    Runs run_;
    InputGather gather_;
    bool gathers_;
    int chunk_;
};

}  // namespace STAN_FORM
