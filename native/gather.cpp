// Gathers images of bytes by their numbers and normalises them on the way: (pixel - mean) · scale.
#include <algorithm>

#include "api.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace STAN_FORM {
namespace {

// The roundings are those of the three operations one after the other, so that every form gives the same bits.
void normalise(const uint8_t* from, const float* mean, float scale, int64_t numbers, float* __restrict to) {
    if (mean)
        for (int64_t i = 0; i < numbers; ++i) to[i] = (static_cast<float>(from[i]) - mean[i]) * scale;
    else
        for (int64_t i = 0; i < numbers; ++i) to[i] = static_cast<float>(from[i]) * scale;
}

}  // namespace

void gather(const StanGather& g) {
    const int parts = static_cast<int>(std::clamp<int64_t>(g.batch, 1, std::max(1, g.threads)));
    stan::in_parallel(parts, [&](int part) {
        for (int64_t i = g.batch * part / parts; i < g.batch * (part + 1) / parts; ++i)
            normalise(g.images + g.index[i] * g.numbers, g.mean, g.scale, g.numbers, g.output + i * g.numbers);
    });
}

}  // namespace STAN_FORM
