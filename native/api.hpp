// What the library exports, in C: raw pointers to float32 in NHWC order (PyTorch's channels_last).
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define STAN_EXPORT __declspec(dllexport)
#else
#define STAN_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

// A convolution at some of its entries, the fill of the others, and what follows it up to a pooling.
//
// B images of H x W x C become, by a kernel of kernel_h x kernel_w, out_h x out_w x filters; `entries` of those are
// computed in every image (all of them where `positions` is null). Then, where asked: ReLU before the pooling, the
// pooling, ReLU after it. The order of the fields is that of kernels/block/shapes.py.
struct StanBlock {
    int32_t batch, height, width, channels, filters;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
    int32_t out_h, out_w;
    int32_t entries;  // of an image; at most, where `begins` tells how many each has
    int32_t shared;   // positions and sources are the same for all images
    int32_t grid_h, grid_w, grid_top, grid_left;  // where the entries form a grid: its period and first entry; else 0
    int32_t relu_before, relu_after;
    int32_t pool;  // 0 none, 1 maximum, 2 average
    int32_t pool_h, pool_w, pool_stride_h, pool_stride_w, pooled_h, pooled_w;
    // 1: (B, C, H, W) in memory, each channel a plane of its own; the input, the output and its gradient, the input's
    // gradient.
    int32_t input_planes, output_planes, input_gradient_planes;
    int32_t winograd;  // minimal filtering: 0 never, 1 where it pays, 2 wherever it fits
    int32_t threads;

    const float* input;           // (B, H, W, C), or in planes
    const float* weight;          // (filters, kernel_h, kernel_w, C)
    const float* bias;            // (filters,) or null
    const int32_t* begins;        // (B + 1,): where the entries of each image begin in `positions`, or null
    const int32_t* positions;     // (entries,) shared, or those of all images: row * out_w + column of each, or null
    const int32_t* sources;       // (out_h * out_w,) or (B, out_h * out_w): which entry of its image fills each, or null;
                                  // negative, without pooling, ReLU and planes alone: the output keeps what it has there
    float* output;                // (B, pooled_h, pooled_w, filters), or (B, out_h, out_w, filters) without pooling
    uint16_t* winners;            // as output: which entry the maximum came from; null where no gradient is asked
    float* kept;                  // (entries of all images, filters): computed entries after ReLU; null where not needed
    const float* output_gradient; // as output
    float* input_gradient;        // as input, or null
    float* weight_gradient;       // as weight, or null
    float* bias_gradient;         // as bias, or null
};

// Local response normalisation within each channel: y = x · (1 + scale · mean of x² over the window)^-power. The order
// of the fields is that of kernels/lrn.py.
struct StanLrn {
    int64_t images;
    int32_t height, width, channels;
    int32_t size;  // of the window, odd
    int32_t threads;
    double scale, power;

    const float* input;            // (images, height, width, channels)
    float* output;                 // as input
    float* factor;                 // as input: output / input, for the backward pass; null where no gradient is asked,
                                   // or where stan_lrn_keeps_factor says so
    const float* output_gradient;  // as input
    float* input_gradient;         // as input
};

// Batch norm in training, the ReLU behind it, and a maximum pooling behind that. The order of the fields is that of
// kernels/batch_norm.py.
struct StanBatchNorm {
    int64_t rows;  // positions of all images, 2 or more
    int32_t channels, threads, relu;
    int32_t height, width;   // of an image
    int32_t pool_h, pool_w;  // of windows side by side, of up to 255 places; 0 for no pooling
    double eps, momentum;

    const float* input;            // (rows, channels)
    float* output;                 // as input, or (images, height / pool_h, width / pool_w, channels)
    uint8_t* winners;              // as a pooled output, which place of the window each is from; null where no gradient
                                   // is asked
    float* mean;                   // (channels,): the batch's
    float* inverse;                // (channels,): 1 / sqrt(biased variance + eps)
    float* running_mean;           // (channels,): moved towards the batch's by `momentum`; null for none
    float* running_var;            // (channels,): towards the unbiased variance; null where running_mean is
    const float* weight;           // (channels,): learned scale; null for ones
    const float* bias;             // (channels,): learned shift; null for zeros
    const float* output_gradient;  // as output
    float* input_gradient;         // as input; null where it is not asked for
    float* weight_gradient;        // (channels,): null where it is not asked for
    float* bias_gradient;          // (channels,): null where it is not asked for
};

// A pooling by itself: of its windows' maxima, or of their averages. The order of the fields is that of kernels/pool.py.
struct StanPool {
    int64_t batch;
    int32_t height, width, channels;
    int32_t size_h, size_w, stride_h, stride_w, pad_h, pad_w;  // of windows, each of which sees a number at least
    int32_t pooled_h, pooled_w;
    int32_t average;     // 0: maxima, of windows of up to 256 places
    int32_t count_pads;  // averages: whether the padding counts
    int32_t divisor;     // averages: what sums are divided by; 0 for how many numbers they are of
    int32_t threads;

    const float* input;            // (batch, height, width, channels)
    float* output;                 // (batch, pooled_h, pooled_w, channels)
    uint8_t* winners;              // maxima: as output, which place of the window each is from; null where no gradient
                                   // is asked
    const float* output_gradient;  // as output
    float* input_gradient;         // as input
};

// One parameter in a step of stochastic gradient descent: v = momentum · v + (g + decay · w), w = w - rate · v. The order
// of the fields is that of kernels/sgd.py.
struct StanSgd {
    int64_t numbers;
    double rate, momentum, decay;
    float* weight;          // (numbers,): w
    const float* gradient;  // as weight, in the same order: g
    float* velocity;        // as weight: v; null for none
};

// The forms of the arithmetic: 0 portable, 1 AVX2, 2 AVX-512.
STAN_EXPORT int stan_best_form();          // the best one that was built and that this processor can run
STAN_EXPORT int stan_use_form(int form);   // returns the form used from now on: the asked one, or the best below it
// A library and a package that belong together have one number; raise it here and in kernels/library.py with each
// change of what is below or of the structures above.
#define STAN_INTERFACE 9
STAN_EXPORT int stan_interface();

// PyTorch's own GOMP_parallel, or null: threads of our own.
STAN_EXPORT void stan_use_openmp(void* gomp_parallel);

STAN_EXPORT int stan_lrn_keeps_factor(double power);  // 0 where the form in use takes this power again faster

// Each returns 0, or 1 where there was not enough memory, or no thread to be had: its results are then of no use.
STAN_EXPORT int stan_block_forward(const StanBlock* block);
STAN_EXPORT int stan_block_backward(const StanBlock* block);
STAN_EXPORT int stan_lrn_forward(const StanLrn* lrn);
STAN_EXPORT int stan_lrn_backward(const StanLrn* lrn);
STAN_EXPORT int stan_batch_norm_forward(const StanBatchNorm* norm);
STAN_EXPORT int stan_batch_norm_backward(const StanBatchNorm* norm);
STAN_EXPORT int stan_pool_forward(const StanPool* pool);
STAN_EXPORT int stan_pool_backward(const StanPool* pool);
STAN_EXPORT int stan_sgd(const StanSgd* parameters, int32_t count, int32_t threads);

}  // extern "C"
