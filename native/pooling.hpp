// What follows a convolution's computed entries of one image: fill, ReLU and pooling, and their adjoints.
#pragma once

#include <vector>

#include "api.hpp"
#include "simd.hpp"

namespace STAN_FORM {

constexpr uint16_t nobody = 0xFFFF;  // no entry receives the gradient: ReLU gave zero

// The different entries that each window of a pooling sees through the fill, and how often it sees each.
struct Windows {
    std::vector<int32_t> begins, entries;
    std::vector<float> weights;  // times seen; for the average over the window's places

    void make(const StanBlock& block, const int32_t* sources) {
        begins.clear();
        entries.clear();
        weights.clear();
        places.assign(sources ? block.entries : 0, -1);
        for (int row = 0; row < block.pooled_h; ++row)
            for (int column = 0; column < block.pooled_w; ++column) {
                const int top = row * block.pool_stride_h, left = column * block.pool_stride_w;
                const int bottom = top + block.pool_h < block.out_h ? top + block.pool_h : block.out_h;
                const int right = left + block.pool_w < block.out_w ? left + block.pool_w : block.out_w;
                const size_t begin = entries.size();
                begins.push_back(static_cast<int32_t>(begin));
                for (int y = top; y < bottom; ++y)
                    for (int x = left; x < right; ++x) add(begin, sources, y * block.out_w + x);
                if (block.pool == 2)
                    for (size_t i = begin; i < entries.size(); ++i)
                        weights[i] /= static_cast<float>((bottom - top) * (right - left));
            }
        begins.push_back(static_cast<int32_t>(entries.size()));
    }

  private:
    std::vector<int32_t> places;  // where each entry is in `entries`, of the last window that has it; -1: of none yet

    // Without sources each place is an entry of its own, and none comes twice.
    void add(size_t begin, const int32_t* sources, int place) {
        const int32_t entry = sources ? sources[place] : place;
        if (sources) {
            int32_t& at = places[entry];
            if (at >= static_cast<int32_t>(begin)) {
                weights[at] += 1.0f;
                return;
            }
            at = static_cast<int32_t>(entries.size());
        }
        entries.push_back(entry);
        weights.push_back(1.0f);
    }
};

// rows (entries, pitch) to an image of the output, (places, filters); a place with a negative source keeps what it has.
inline void spread(const StanBlock& block, const int32_t* sources, const float* rows, int pitch, float* to) {
    const int places = block.out_h * block.out_w;
    for (int place = 0; place < places; ++place, to += block.filters) {
        const int32_t source = sources ? sources[place] : place;
        if (source < 0) continue;
        copy(rows + static_cast<int64_t>(source) * pitch, block.filters, to);
    }
}

inline void spread_adjoint(const StanBlock& block, const int32_t* sources, const float* from, float* rows, int pitch) {
    const int places = block.out_h * block.out_w;
    for (int place = 0; place < places; ++place, from += block.filters) {
        const int32_t source = sources ? sources[place] : place;
        if (source < 0) continue;
        float* to = rows + static_cast<int64_t>(source) * pitch;
        for (int c = 0; c < block.filters; c += lanes) store(to + c, load(to + c) + load(from + c, block.filters - c));
    }
}

inline void pool_maximum(
    const StanBlock& block, const Windows& windows, const float* rows, int pitch, float* to, uint16_t* winners
) {
    const int places = block.pooled_h * block.pooled_w;
    for (int place = 0; place < places; ++place, to += block.filters) {
        const int32_t *entry = windows.entries.data() + windows.begins[place],
                      *end = windows.entries.data() + windows.begins[place + 1];
        for (int c = 0; c < block.filters; c += lanes) {
            const int count = block.filters - c;
            Vector most = load(rows + static_cast<int64_t>(*entry) * pitch + c);
            Whole winner = all(*entry);
            for (const int32_t* other = entry + 1; other < end; ++other) {
                const Vector value = load(rows + static_cast<int64_t>(*other) * pitch + c);
                const Whole larger = (value > most) | (value != value);
                most = larger ? value : most;
                winner = larger ? all(*other) : winner;
            }
            if (block.relu_after) {
                winner = most <= all(0.0f) ? all(static_cast<int32_t>(nobody)) : winner;
                most = relu(most);
            }
            store(to + c, most, count);
            if (winners) store(winners + c, shorts(winner), count);
        }
        if (winners) winners += block.filters;
    }
}

inline void pool_maximum_adjoint(
    const StanBlock& block, const uint16_t* winners, const float* from, float* rows, int pitch
) {
    const int places = block.pooled_h * block.pooled_w;
    for (int place = 0; place < places; ++place, from += block.filters, winners += block.filters)
        for (int c = 0; c < block.filters; ++c)
            if (winners[c] != nobody) rows[static_cast<int64_t>(winners[c]) * pitch + c] += from[c];
}

// The same where the windows are known: each of their entries takes the gradient where it is the winner. Branches on
// single winners are often guessed wrong.
inline void pool_maximum_adjoint(
    const StanBlock& block, const Windows& windows, const uint16_t* winners, const float* from, float* rows, int pitch
) {
    const int places = block.pooled_h * block.pooled_w;
    for (int place = 0; place < places; ++place, from += block.filters, winners += block.filters)
        for (int c = 0; c < block.filters; c += lanes) {
            const int count = block.filters - c;
            const Vector gradient = load(from + c, count);
            const Whole winner = widened(load(winners + c, count));
            for (int i = windows.begins[place]; i < windows.begins[place + 1]; ++i) {
                const int32_t entry = windows.entries[i];
                float* to = rows + static_cast<int64_t>(entry) * pitch + c;
                store(to, load(to) + (winner == all(entry) ? gradient : Vector{}));
            }
        }
}

inline void pool_average(const StanBlock& block, const Windows& windows, const float* rows, int pitch, float* to) {
    const int places = block.pooled_h * block.pooled_w;
    for (int place = 0; place < places; ++place, to += block.filters)
        for (int c = 0; c < block.filters; c += lanes) {
            Vector sum = {};
            for (int i = windows.begins[place]; i < windows.begins[place + 1]; ++i)
                sum += load(rows + static_cast<int64_t>(windows.entries[i]) * pitch + c) * windows.weights[i];
            store(to + c, sum, block.filters - c);
        }
}

inline void pool_average_adjoint(
    const StanBlock& block, const Windows& windows, const float* from, float* rows, int pitch
) {
    const int places = block.pooled_h * block.pooled_w;
    for (int place = 0; place < places; ++place, from += block.filters)
        for (int c = 0; c < block.filters; c += lanes) {
            const Vector gradient = load(from + c, block.filters - c);
            for (int i = windows.begins[place]; i < windows.begins[place + 1]; ++i) {
                float* to = rows + static_cast<int64_t>(windows.entries[i]) * pitch + c;
                store(to, load(to) + gradient * windows.weights[i]);
            }
        }
}

}  // namespace STAN_FORM
