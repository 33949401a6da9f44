// Forward and backward pass of a StanBlock, image by image, so that what is between the layers stays in the caches.
#include <algorithm>
#include <vector>

#include "api.hpp"
#include "direct.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "pooling.hpp"
#include "winograd.hpp"

namespace STAN_FORM {
namespace {

const int32_t* sources_of(const StanBlock& b, int image) {
    if (b.sources == nullptr || b.shared) return b.sources;
    return b.sources + static_cast<int64_t>(image) * b.out_h * b.out_w;
}

// Calls group(first image, number) for the images of one of `parts` parts, a few at a time.
template <class Group>
void groups_of(const StanBlock& b, int together, int part, int parts, const Group& group) {
    const int begin = static_cast<int>(static_cast<int64_t>(b.batch) * part / parts);
    const int end = static_cast<int>(static_cast<int64_t>(b.batch) * (part + 1) / parts);
    for (int first = begin; first < end; first += together) group(first, std::min(together, end - first));
}

void relu_rows(const StanBlock& b, int pitch, int images, int first, float* rows) {
    const int number = entries_of(b, first, images);
    float* kept = b.kept ? b.kept + before(b, first) * b.filters : nullptr;
    for (int i = 0; i < number; ++i, rows += pitch)
        for (int c = 0; c < b.filters; c += lanes) {
            const Vector value = relu(load(rows + c));
            store(rows + c, value);
            if (kept) store(kept + static_cast<int64_t>(i) * b.filters + c, value, b.filters - c);
        }
}

void relu_adjoint(const StanBlock& b, int pitch, int images, int first, float* rows) {
    const int number = entries_of(b, first, images);
    const float* kept = b.kept + before(b, first) * b.filters;
    for (int i = 0; i < number; ++i, rows += pitch)
        for (int c = 0; c < b.filters; c += lanes) {
            const Vector value = load(kept + static_cast<int64_t>(i) * b.filters + c, b.filters - c);
            store(rows + c, value <= all(0.0f) ? all(0.0f) : load(rows + c));
        }
}

void follow(const StanBlock& b, int pitch, const Windows& shared, int image, const float* rows) {
    const int32_t* sources = sources_of(b, image);
    const int64_t places = b.pool ? b.pooled_h * b.pooled_w : b.out_h * b.out_w;
    float* const output = b.output + image * places * b.filters;
    float* const to = b.output_planes ? scratch().of_output.sized(places * b.filters) : output;
    const auto done = [&] {
        if (b.output_planes) transpose(to, static_cast<int>(places), b.filters, output);
    };
    if (b.pool == 0) {
        spread(b, sources, rows, pitch, to);
        done();
        return;
    }
    Windows& own = scratch().windows;
    if (!b.shared) own.make(b, sources);
    const Windows& windows = b.shared ? shared : own;
    if (b.pool == 1)
        pool_maximum(b, windows, rows, pitch, to, b.winners ? b.winners + image * places * b.filters : nullptr);
    else
        pool_average(b, windows, rows, pitch, to);
    done();
}

void follow_adjoint(const StanBlock& b, int pitch, const Windows& shared, int image, float* rows) {
    const int32_t* sources = sources_of(b, image);
    const int64_t places = b.pool ? b.pooled_h * b.pooled_w : b.out_h * b.out_w;
    const float* from = b.output_gradient + image * places * b.filters;
    if (b.output_planes) {
        float* own = scratch().of_output.sized(places * b.filters);
        transpose(from, b.filters, static_cast<int>(places), own);
        from = own;
    }
    std::fill_n(rows, static_cast<int64_t>(entries_of(b, image, 1)) * pitch, 0.0f);
    if (b.pool == 0) {
        spread_adjoint(b, sources, from, rows, pitch);
    } else if (b.pool == 1) {
        const uint16_t* winners = b.winners + image * places * b.filters;
        if (b.shared)
            pool_maximum_adjoint(b, shared, winners, from, rows, pitch);
        else
            pool_maximum_adjoint(b, winners, from, rows, pitch);
    } else {
        Windows& own = scratch().windows;
        if (!b.shared) own.make(b, sources);
        pool_average_adjoint(b, b.shared ? shared : own, from, rows, pitch);
    }
}

// One thread's view of a block whose input or input's gradient is in planes: a few images at a time are copied, channels
// last, to memory of its own, and the block is told of an input that begins as far before it.
template <class Products>
class Ordered {
  public:
    Ordered(const Products& products, const StanBlock& b)
        : shared_(products),
          given_(b),
          image_(static_cast<int64_t>(b.height) * b.width * b.channels),
          input_(b.input_planes && b.input),
          gradient_(b.input_gradient_planes && b.input_gradient),
          block_(b),
          own_(block_) {}

    const Products& products() const { return input_ || gradient_ ? own_ : shared_; }

    void begin(int first, int images, bool reads) {
        if (input_ && reads) {
            float* to = scratch().of_input.sized(images * image_);
            block_.input = to - first * image_;
            for (int i = 0; i < images; ++i, to += image_)
                transpose(given_.input + (first + i) * image_, given_.channels, given_.height * given_.width, to);
        }
        if (gradient_) block_.input_gradient = scratch().of_input_gradient.sized(images * image_) - first * image_;
    }

    void end(int first, int images) const {
        if (!gradient_) return;
        for (int i = first; i < first + images; ++i)
            transpose(
                block_.input_gradient + i * image_, given_.height * given_.width, given_.channels,
                given_.input_gradient + i * image_
            );
    }

  private:
    const Products& shared_;
    const StanBlock& given_;
    int64_t image_;
    bool input_, gradient_;
    StanBlock block_;
    Products own_;
};

// sums += all rows.
void add_rows(const float* rows, int number, int pitch, float* sums) {
    for (int c = 0; c < pitch; c += lanes) {
        Vector sum = load(sums + c), other = {};  // two, for an addition not to wait for the last one
        int i = 0;
        for (const float* from = rows + c; i + 2 <= number; i += 2, from += 2 * static_cast<int64_t>(pitch)) {
            sum += load(from);
            other += load(from + pitch);
        }
        if (i < number) sum += load(rows + static_cast<int64_t>(i) * pitch + c);
        store(sums + c, sum + other);
    }
}

// Adds to the first part's sums, from `first` on, those of all other parts, always in the same order.
void add_parts(float* sums, int parts, int64_t size, int64_t first) {
    constexpr int64_t least = 4096;  // numbers for which another thread is worth its waking
    const int64_t vectors = (size - first) / lanes;
    const int slices = static_cast<int>(std::clamp<int64_t>((size - first) / least, 1, parts));
    stan::in_parallel(slices, [&](int slice) {
        const int64_t begin = first + vectors * slice / slices * lanes;
        const int64_t end = first + vectors * (slice + 1) / slices * lanes;
        for (int part = 1; part < parts; ++part)
            for (int64_t i = begin; i < end; i += lanes) store(sums + i, load(sums + i) + load(sums + part * size + i));
    });
}

// The calling thread's memory, which all threads of a call use; the other scratch memory is each thread's own. One for
// all kinds of products and both passes: transformed weights and their sums are several times as large as the weights.
struct CallMemory {
    Memory<float> packed, bias, sums, zeros;
    Windows windows;
};

CallMemory& call_memory() {
    thread_local CallMemory own;
    return own;
}

template <class Products>
void forward_by(const Products& products, const StanBlock& b) {
    const int pitch = pitch_of(b);
    CallMemory& memory = call_memory();
    float* packed = memory.packed.sized(products.output_weights());
    float* bias = memory.bias.sized(pitch);
    products.pack_outputs(packed);
    std::fill_n(bias, pitch, 0.0f);
    if (b.bias) std::copy_n(b.bias, b.filters, bias);
    if (b.pool && b.shared) memory.windows.make(b, b.sources);
    const Windows& shared = memory.windows;
    const int parts = std::max(1, std::min(b.threads, b.batch));
    stan::in_parallel(parts, [&](int part) {
        Scratch& own = scratch();
        float* rows = own.rows.sized(static_cast<size_t>(products.together()) * b.entries * pitch);
        Ordered<Products> ordered(products, b);
        ordered.products().begin(own);
        groups_of(b, products.together(), part, parts, [&](int first, int number) {
            const int64_t begin = before(b, first);
            ordered.begin(first, number, true);
            ordered.products().outputs(own, first, number, packed, bias, rows);
            if (b.relu_before) relu_rows(b, pitch, number, first, rows);
            for (int i = 0; i < number; ++i)
                follow(b, pitch, shared, first + i, rows + (before(b, first + i) - begin) * pitch);
        });
    });
}

template <class Products>
void backward_by(const Products& products, const StanBlock& b) {
    const int pitch = pitch_of(b);
    const int parts = std::max(1, std::min(b.threads, b.batch));
    const int64_t size = products.weight_sums() + pitch;  // weight gradients, then those of the bias
    CallMemory& memory = call_memory();
    const int zeros_needed = vectors_of(b.channels) * lanes;
    float* zeros = memory.zeros.sized(zeros_needed);
    std::fill_n(zeros, zeros_needed, 0.0f);
    float* packed = nullptr;
    if (b.input_gradient) {
        packed = memory.packed.sized(products.input_weights());
        products.pack_inputs(packed);
    }
    float* sums = memory.sums.sized(parts * size);
    const int64_t summed = b.weight_gradient ? 0 : products.weight_sums();  // from where on the sums are asked for
    if (b.pool && b.shared) memory.windows.make(b, b.sources);
    const Windows& shared = memory.windows;
    stan::in_parallel(parts, [&](int part) {
        Scratch& own = scratch();
        float* rows = own.rows.sized(static_cast<size_t>(products.together()) * b.entries * pitch);
        float* weights = sums + part * size;
        float* bias = weights + products.weight_sums();
        std::fill_n(weights + summed, size - summed, 0.0f);
        Ordered<Products> ordered(products, b);
        ordered.products().begin_gradients(own);
        groups_of(b, products.together(), part, parts, [&](int first, int number) {
            const int64_t begin = before(b, first);
            for (int i = 0; i < number; ++i)
                follow_adjoint(b, pitch, shared, first + i, rows + (before(b, first + i) - begin) * pitch);
            if (b.relu_before) relu_adjoint(b, pitch, number, first, rows);
            if (b.bias_gradient) add_rows(rows, entries_of(b, first, number), pitch, bias);
            ordered.begin(first, number, b.weight_gradient != nullptr);
            ordered.products().gradients(own, first, number, rows, packed, zeros, weights);
            ordered.end(first, number);
        });
    });
    add_parts(sums, parts, size, summed);
    if (b.weight_gradient) products.finish(sums);
    if (b.bias_gradient) std::copy_n(sums + products.weight_sums(), b.filters, b.bias_gradient);
}

// Calls with(products) with the first of some that suits the block, or with Direct.
template <class With>
void choose(const StanBlock& b, const With& with) {
    with(Direct(b));
}

template <class First, class... Others, class With>
void choose(const StanBlock& b, const With& with) {
    if (b.winograd == 2 ? First::fits(b) : b.winograd == 1 && First::pays(b))
        with(First(b));
    else
        choose<Others...>(b, with);
}

template <class With>
void choose_any(const StanBlock& b, const With& with) {
    choose<Winograd<5, 1>, Winograd<3, 1>, Winograd<5, 2>>(b, with);
}

}  // namespace

void forward(const StanBlock& b) {
    choose_any(b, [&](const auto& products) { forward_by(products, b); });
}

void backward(const StanBlock& b) {
    choose_any(b, [&](const auto& products) { backward_by(products, b); });
}

}  // namespace STAN_FORM
