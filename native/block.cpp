// Forward and backward pass of a StanBlock, image by image, so that what is between the layers stays in the caches.
#include <algorithm>
#include <vector>

#include "api.hpp"
#include "conv_tiles.hpp"
#include "input_gather.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "pooling.hpp"

namespace STAN_FORM {
namespace {

// Images are taken together until they have so many entries: the weight gradients' sums are then loaded less often.
constexpr int entries_together = 128;

// What follows from a block's sizes.
struct Shape {
    int entries, pitch, padded_h, padded_w, padded, together;
    Runs runs;
    int64_t terms;  // multiply-adds of one entry and filter

    explicit Shape(const StanBlock& b)
        : entries(b.entries),
          pitch(vectors_of(b.filters) * lanes),
          padded_h((b.out_h - 1) * b.stride_h + b.kernel_h),
          padded_w((b.out_w - 1) * b.stride_w + b.kernel_w),
          padded(padded_h * padded_w * b.channels),
          together(std::clamp(entries_together / std::max(b.entries, 1), 1, std::max(b.batch, 1))),
          runs{b.kernel_h, b.kernel_w * b.channels, padded_w * b.channels},
          terms(static_cast<int64_t>(b.kernel_h) * b.kernel_w * b.channels) {}

    // Columns of the input that any entry sees: with a large stride there may be less than all, or none.
    int seen(const StanBlock& b) const { return std::clamp(padded_w - b.pad_left, 0, b.width); }
};

// A thread's own memory, kept from call to call.
struct Scratch {
    Memory<float> images, image_gradients, rows, sums;
    Memory<int32_t> at, gather_at;
    Windows windows;
};

Scratch& scratch() {
    thread_local Scratch own;
    return own;
}

const int32_t* sources_of(const StanBlock& b, int image) {
    if (b.sources == nullptr || b.shared) return b.sources;
    return b.sources + static_cast<int64_t>(image) * b.out_h * b.out_w;
}

// Entries of all images before this one.
int64_t before(const StanBlock& b, int image) {
    return b.begins ? b.begins[image] : static_cast<int64_t>(image) * b.entries;
}

int entries_of(const StanBlock& b, int first, int images) {
    return static_cast<int>(before(b, first + images) - before(b, first));
}

void pad(const StanBlock& b, const Shape& s, int image, float* to) {
    const int before = std::min(b.pad_left, s.padded_w) * b.channels;
    const int copied = s.seen(b) * b.channels;
    const int after = s.padded_w * b.channels - before - copied;
    for (int y = 0; y < s.padded_h; ++y, to += s.padded_w * b.channels) {
        const int row = y - b.pad_top;
        if (row < 0 || row >= b.height) {
            std::fill_n(to, s.padded_w * b.channels, 0.0f);
            continue;
        }
        const float* from = b.input + (static_cast<int64_t>(image) * b.height + row) * b.width * b.channels;
        std::fill_n(to, before, 0.0f);
        std::copy_n(from, copied, to + before);
        std::fill_n(to + before + copied, after, 0.0f);
    }
}

void unpad(const StanBlock& b, const Shape& s, int image, const float* from) {
    const int copied = s.seen(b) * b.channels;
    for (int row = 0; row < b.height; ++row) {
        const int y = row + b.pad_top;
        float* to = b.input_gradient + (static_cast<int64_t>(image) * b.height + row) * b.width * b.channels;
        const int there = y < s.padded_h ? copied : 0;
        std::copy_n(from + (static_cast<int64_t>(y) * s.padded_w + b.pad_left) * b.channels, there, to);
        std::fill_n(to + there, b.width * b.channels - there, 0.0f);
    }
}

// Where the entries of an image begin in a padded image that itself begins at `base`.
void locate(const StanBlock& b, const Shape& s, int image, int base, int32_t* at) {
    const int32_t* positions = b.positions == nullptr || b.shared ? b.positions : b.positions + before(b, image);
    const int entries = entries_of(b, image, 1);
    for (int i = 0; i < entries; ++i) {
        const int place = positions ? positions[i] : i;
        at[i] = base + (place / b.out_w * b.stride_h * s.padded_w + place % b.out_w * b.stride_w) * b.channels;
    }
}

// The weights as `outputs` wants them; the panels' last columns are zero where there are no more filters.
void pack_forward(const StanBlock& b, const Shape& s, float* to) {
    for_panels(s.pitch / lanes, [&]<int vectors>(int first, Width<vectors>) {
        for (int64_t k = 0; k < s.terms; ++k)
            for (int c = first * lanes; c < (first + vectors) * lanes; ++c)
                *to++ = c < b.filters ? b.weight[c * s.terms + k] : 0.0f;
    });
}

// The weights as `input_gradients` wants them.
void pack_backward(const StanBlock& b, const Shape& s, float* to) {
    for (int run = 0; run < s.runs.number; ++run)
        for_panels(vectors_of(s.runs.length), [&]<int vectors>(int first, Width<vectors>) {
            for (int c = 0; c < b.filters; ++c)
                for (int k = first * lanes; k < (first + vectors) * lanes; ++k)
                    *to++ = k < s.runs.length ? b.weight[c * s.terms + static_cast<int64_t>(run) * s.runs.length + k] : 0.0f;
        });
}

// Calls group(first image, number) for the images of one of `parts` parts, a few at a time.
template <class Group>
void groups_of(const StanBlock& b, const Shape& s, int part, int parts, const Group& group) {
    const int begin = static_cast<int>(static_cast<int64_t>(b.batch) * part / parts);
    const int end = static_cast<int>(static_cast<int64_t>(b.batch) * (part + 1) / parts);
    for (int first = begin; first < end; first += s.together) group(first, std::min(s.together, end - first));
}

void relu_rows(const StanBlock& b, const Shape& s, int images, int first, float* rows) {
    const int number = entries_of(b, first, images);
    float* kept = b.kept ? b.kept + before(b, first) * b.filters : nullptr;
    for (int i = 0; i < number; ++i, rows += s.pitch)
        for (int c = 0; c < b.filters; c += lanes) {
            const Vector value = relu(load(rows + c));
            store(rows + c, value);
            if (kept) store(kept + static_cast<int64_t>(i) * b.filters + c, value, b.filters - c);
        }
}

void relu_adjoint(const StanBlock& b, const Shape& s, int images, int first, float* rows) {
    const int number = entries_of(b, first, images);
    const float* kept = b.kept + before(b, first) * b.filters;
    for (int i = 0; i < number; ++i, rows += s.pitch)
        for (int c = 0; c < b.filters; c += lanes) {
            const Vector value = load(kept + static_cast<int64_t>(i) * b.filters + c, b.filters - c);
            store(rows + c, value <= all(0.0f) ? all(0.0f) : load(rows + c));
        }
}

void follow(const StanBlock& b, const Shape& s, const Windows& shared, int image, const float* rows) {
    const int32_t* sources = sources_of(b, image);
    const int64_t places = b.pool ? b.pooled_h * b.pooled_w : b.out_h * b.out_w;
    float* to = b.output + image * places * b.filters;
    if (b.pool == 0) {
        spread(b, sources, rows, s.pitch, to);
        return;
    }
    Windows& own = scratch().windows;
    if (!b.shared) own.make(b, sources);
    const Windows& windows = b.shared ? shared : own;
    if (b.pool == 1)
        pool_maximum(b, windows, rows, s.pitch, to, b.winners ? b.winners + image * places * b.filters : nullptr);
    else
        pool_average(b, windows, rows, s.pitch, to);
}

void follow_adjoint(const StanBlock& b, const Shape& s, const Windows& shared, int image, float* rows) {
    const int32_t* sources = sources_of(b, image);
    const int64_t places = b.pool ? b.pooled_h * b.pooled_w : b.out_h * b.out_w;
    const float* from = b.output_gradient + image * places * b.filters;
    std::fill_n(rows, static_cast<int64_t>(entries_of(b, image, 1)) * s.pitch, 0.0f);
    if (b.pool == 0) {
        spread_adjoint(b, sources, from, rows, s.pitch);
    } else if (b.pool == 1) {
        pool_maximum_adjoint(b, b.winners + image * places * b.filters, from, rows, s.pitch);
    } else {
        Windows& own = scratch().windows;
        if (!b.shared) own.make(b, sources);
        pool_average_adjoint(b, b.shared ? shared : own, from, rows, s.pitch);
    }
}

}  // namespace

void forward(const StanBlock& b) {
    const Shape s(b);
    // The caller's memory, used by all threads: the other scratch memory is each thread's own.
    thread_local Memory<float> packed_memory, bias_memory;
    thread_local Windows windows;
    float* packed = packed_memory.sized(s.terms * s.pitch);
    float* bias = bias_memory.sized(s.pitch);
    pack_forward(b, s, packed);
    std::fill_n(bias, s.pitch, 0.0f);
    if (b.bias) std::copy_n(b.bias, b.filters, bias);
    if (b.pool && b.shared) windows.make(b, b.sources);
    const Windows& shared = windows;
    const int parts = std::max(1, std::min(b.threads, b.batch));
    stan::in_parallel(parts, [&](int part) {
        Scratch& own = scratch();
        float* images = own.images.sized(static_cast<size_t>(s.together) * s.padded);
        float* rows = own.rows.sized(static_cast<size_t>(s.together) * s.entries * s.pitch);
        int32_t* at = own.at.sized(static_cast<size_t>(s.together) * s.entries);
        groups_of(b, s, part, parts, [&](int first, int number) {
            const int64_t begin = before(b, first);
            for (int i = 0; i < number; ++i) {
                pad(b, s, first + i, images + static_cast<int64_t>(i) * s.padded);
                locate(b, s, first + i, i * s.padded, at + before(b, first + i) - begin);
            }
            outputs(images, at, entries_of(b, first, number), s.runs, packed, bias, rows, s.pitch);
            if (b.relu_before) relu_rows(b, s, number, first, rows);
            for (int i = 0; i < number; ++i)
                follow(b, s, shared, first + i, rows + (before(b, first + i) - begin) * s.pitch);
        });
    });
}

void backward(const StanBlock& b) {
    const Shape s(b);
    const int parts = std::max(1, std::min(b.threads, b.batch));
    const int64_t size = (s.terms + 1) * s.pitch;  // weight gradients, then those of the bias
    thread_local Memory<float> packed_memory, sums_memory, zeros_memory;
    thread_local Windows windows;
    const InputGather gather(b);
    const bool gathers = b.input_gradient && gather.pays(b);
    float* packed = nullptr;
    float* zeros = zeros_memory.sized(gather.pitch);
    std::fill_n(zeros, gather.pitch, 0.0f);
    if (gathers) {
        packed = packed_memory.sized(gather.weights());
        gather.pack(b, packed);
    } else if (b.input_gradient) {
        packed = packed_memory.sized(static_cast<size_t>(s.runs.number) * vectors_of(s.runs.length) * lanes * b.filters);
        pack_backward(b, s, packed);
    }
    float* sums = sums_memory.sized(parts * size);
    if (b.pool == 2 && b.shared) windows.make(b, b.sources);
    const Windows& shared = windows;
    stan::in_parallel(parts, [&](int part) {
        Scratch& own = scratch();
        float* images = own.images.sized(static_cast<size_t>(s.together) * s.padded);
        float* rows = own.rows.sized(static_cast<size_t>(s.together) * s.entries * s.pitch);
        int32_t* at = own.at.sized(static_cast<size_t>(s.together) * s.entries);
        float* gradients = nullptr;
        if (gathers) {
            gradients = own.image_gradients.sized(static_cast<size_t>(s.together) * gather.image());
            std::fill_n(gradients, static_cast<size_t>(s.together) * gather.image(), 0.0f);
        } else if (b.input_gradient) {
            gradients = own.image_gradients.sized(static_cast<size_t>(s.together) * s.padded + 3 * lanes);
        }
        float* weights = sums + part * size;
        float* bias = weights + s.terms * s.pitch;
        std::fill_n(weights, size, 0.0f);
        groups_of(b, s, part, parts, [&](int first, int number) {
            const int64_t begin = before(b, first);
            for (int i = 0; i < number; ++i) {
                const int64_t there = before(b, first + i) - begin;
                follow_adjoint(b, s, shared, first + i, rows + there * s.pitch);
                if (b.weight_gradient) pad(b, s, first + i, images + static_cast<int64_t>(i) * s.padded);
                locate(b, s, first + i, i * s.padded, at + there);
            }
            if (b.relu_before) relu_adjoint(b, s, number, first, rows);
            const int entries = entries_of(b, first, number);
            if (b.bias_gradient)
                for (int i = 0; i < entries; ++i)
                    for (int c = 0; c < s.pitch; c += lanes)
                        store(bias + c, load(bias + c) + load(rows + static_cast<int64_t>(i) * s.pitch + c));
            if (b.weight_gradient) weight_gradients(images, at, entries, s.runs, rows, weights, s.pitch);
            if (gathers) {
                for (int i = 0; i < number; ++i)
                    gather.place(
                        rows + static_cast<int64_t>(i) * s.entries * s.pitch, s.pitch,
                        gradients + static_cast<int64_t>(i) * gather.image()
                    );
                gather.run(
                    gradients, number, packed, zeros, own.gather_at, own.sums,
                    b.input_gradient + static_cast<int64_t>(first) * b.height * b.width * b.channels
                );
            } else if (b.input_gradient) {
                std::fill_n(gradients, static_cast<int64_t>(number) * s.padded, 0.0f);
                input_gradients(rows, s.pitch, b.filters, at, entries, s.runs, packed, gradients);
                for (int i = 0; i < number; ++i) unpad(b, s, first + i, gradients + static_cast<int64_t>(i) * s.padded);
            }
        });
    });
    // The sums of the parts, always in the same order.
    for (int part = 1; part < parts; ++part)
        for (int64_t i = 0; i < size; i += lanes) store(sums + i, load(sums + i) + load(sums + part * size + i));
    if (b.weight_gradient)
        for (int c = 0; c < b.filters; ++c)
            for (int64_t k = 0; k < s.terms; ++k) b.weight_gradient[c * s.terms + k] = sums[k * s.pitch + c];
    if (b.bias_gradient) std::copy_n(sums + s.terms * s.pitch, b.filters, b.bias_gradient);
}

}  // namespace STAN_FORM
