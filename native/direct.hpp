// The products of a block as they are written: any list of entries, any stride.
#pragma once

#include "geometry.hpp"
#include "input_gather.hpp"

namespace STAN_FORM {

class Direct {
  public:
    explicit Direct(const StanBlock& b)
        : b_(b),
          padded_(b, (b.out_h - 1) * b.stride_h + b.kernel_h, b.pad_top),
          pitch_(pitch_of(b)),
          runs_{b.kernel_h, b.kernel_w * b.channels, padded_.row},
          terms_(static_cast<int64_t>(b.kernel_h) * b.kernel_w * b.channels),
          gather_(b, InputGather::rows_of(b), InputGather::columns_of(b)),
          gathers_(b.grid_h && gather_.pays()) {}

    // Images are taken together until they have so many entries: the weight gradients' sums are then loaded less often.
    int together() const { return std::clamp(128 / std::max(b_.entries, 1), 1, std::max(b_.batch, 1)); }

    int64_t output_weights() const { return terms_ * pitch_; }
    void pack_outputs(float* to) const { pack_for_outputs(b_.weight, b_.filters, terms_, to); }

    int64_t input_weights() const { return gathers_ ? gather_.weights() : packed_for_inputs(b_.filters, runs_); }
    void pack_inputs(float* to) const {
        if (gathers_)
            gather_.pack(b_.weight, to);
        else
            pack_for_inputs(b_.weight, b_.filters, runs_, to);
    }

    // rows (entries of these images, pitch) from the input. bias: pitch floats.
    void outputs(Scratch& own, int first, int images, const float* weights, const float* bias, float* rows) const {
        const int32_t* at = read(own, first, images, true);
        STAN_FORM::outputs(own.images.start(), at, entries_of(b_, first, images), runs_, weights, bias, rows, pitch_);
    }

    int64_t weight_sums() const { return terms_ * pitch_; }

    // Makes a thread ready for `outputs` and `gradients`.
    void begin(Scratch& own) const {
        if (!b_.shared) return;
        int32_t* at = own.at.sized(static_cast<size_t>(together()) * b_.entries);
        for (int i = 0; i < together(); ++i) locate(0, i * padded_.floats, at + static_cast<int64_t>(i) * b_.entries);
    }

    // Makes it ready for `gradients`, too.
    void begin_gradients(Scratch& own) const {
        begin(own);
        if (!b_.input_gradient) return;
        const int64_t floats = static_cast<int64_t>(together()) * (gathers_ ? gather_.image() : padded_.floats) + 3 * lanes;
        std::fill_n(own.image_gradients.sized(floats), floats, 0.0f);
        if (gathers_) gather_.locate(together(), own.gather_at);
    }

    // Adds to the weights' sums, and writes the input's gradients, from the rows' gradients. zeros: some floats.
    void gradients(
        Scratch& own, int first, int images, const float* rows, const float* weights, const float* zeros, float* sums
    ) const {
        const int32_t* at = read(own, first, images, b_.weight_gradient != nullptr);
        const int entries = entries_of(b_, first, images);
        if (b_.weight_gradient) weight_gradients(own.images.start(), at, entries, runs_, rows, sums, pitch_);
        if (!b_.input_gradient) return;
        float* gradients = own.image_gradients.start();
        if (gathers_) {
            for (int i = 0; i < images; ++i)
                gather_.place(
                    rows + static_cast<int64_t>(i) * b_.entries * pitch_, pitch_,
                    gradients + static_cast<int64_t>(i) * gather_.image()
                );
            gather_.run(
                gradients, images, together(), weights, zeros, own.gather_at.start(), own.sums,
                b_.input_gradient + static_cast<int64_t>(first) * b_.height * b_.width * b_.channels
            );
            return;
        }
        std::fill_n(gradients, static_cast<int64_t>(images) * padded_.floats, 0.0f);
        input_gradients(rows, pitch_, b_.filters, at, entries, runs_, weights, gradients);
        for (int i = 0; i < images; ++i) padded_.unpad(b_, first + i, gradients + static_cast<int64_t>(i) * padded_.floats);
    }

    // The weights' gradients from their sums.
    void finish(const float* sums) const {
        transpose(sums, pitch_, static_cast<int>(terms_), b_.filters, b_.weight_gradient, terms_);
    }

  private:
    // Pads images; returns where their entries begin in them: `begin` has noted it where all images share them.
    const int32_t* read(Scratch& own, int first, int images, bool input) const {
        float* padded = own.images.sized(static_cast<size_t>(together()) * padded_.floats);
        int32_t* at = own.at.sized(static_cast<size_t>(together()) * b_.entries);
        for (int i = 0; i < images; ++i) {
            if (input) padded_.pad(b_, first + i, padded + static_cast<int64_t>(i) * padded_.floats);
            if (!b_.shared) locate(first + i, i * padded_.floats, at + before(b_, first + i) - before(b_, first));
        }
        return at;
    }

    // Where the entries of an image begin in a padded image that itself begins at `base`.
    void locate(int image, int base, int32_t* at) const {
        const int32_t* positions = b_.positions == nullptr || b_.shared ? b_.positions : b_.positions + before(b_, image);
        const int entries = entries_of(b_, image, 1);
        for (int i = 0; i < entries; ++i) {
            const int place = positions ? positions[i] : i;
            at[i] = base + place / b_.out_w * b_.stride_h * padded_.row + place % b_.out_w * b_.stride_w * b_.channels;
        }
    }

    const StanBlock& b_;
    Padded padded_;
    int pitch_;
    Runs runs_;
    int64_t terms_;
    InputGather gather_;
    bool gathers_;
};

}  // namespace STAN_FORM
