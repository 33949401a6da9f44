// Stochastic gradient descent with momentum and weight decay, for all parameters of a network in one call.
//
// v = momentum · v + (g + decay · w), w = w - rate · v, each number read once and written once.
#include <algorithm>

#include "api.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace STAN_FORM {
namespace {

// Below it a thread takes longer to be woken than to do its part.
constexpr int64_t least_numbers = 1 << 16;

// The numbers from `first` to `last`, of one parameter.
template <bool with_velocity>
void update(const StanSgd& s, int64_t first, int64_t last) {
    const Vector rate = all(static_cast<float>(s.rate)), momentum = all(static_cast<float>(s.momentum)),
                 decay = all(static_cast<float>(s.decay));
    for (int64_t i = first; i < last; i += lanes) {
        const int count = static_cast<int>(std::min<int64_t>(lanes, last - i));
        Vector weight = load(s.weight + i, count), step = load(s.gradient + i, count);
        // What is no number must not come of a factor of zero.
        if (s.decay != 0.0) step += decay * weight;
        if constexpr (with_velocity) {
            step += momentum * load(s.velocity + i, count);
            store(s.velocity + i, step, count);
        }
        store(s.weight + i, weight - rate * step, count);
    }
}

}  // namespace

void sgd(const StanSgd* parameters, int count, int threads) {
    int64_t numbers = 0;
    for (int k = 0; k < count; ++k) numbers += parameters[k].numbers;
    const int parts = static_cast<int>(std::clamp<int64_t>(numbers / least_numbers, 1, std::max(1, threads)));
    stan::in_parallel(parts, [&](int part) {
        int64_t first = numbers * part / parts, last = numbers * (part + 1) / parts;
        for (int k = 0; k < count && last > 0; ++k) {
            const StanSgd& s = parameters[k];
            const int64_t from = std::max<int64_t>(first, 0), to = std::min(last, s.numbers);
            if (from < to) (s.velocity ? update<true> : update<false>)(s, from, to);
            first -= s.numbers;
            last -= s.numbers;
        }
    });
}

}  // namespace STAN_FORM
