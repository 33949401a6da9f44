// Chooses the form of the arithmetic that the processor can run, and passes calls on to it.
#include "api.hpp"

#include <algorithm>

// The arithmetic of each form, as its translation units define it.
#define STAN_DECLARE(form)                          \
    namespace form {                                \
    void forward(const StanBlock&);                 \
    void backward(const StanBlock&);                \
    void lrn_forward(const StanLrn&);               \
    void lrn_backward(const StanLrn&);              \
    bool lrn_keeps_factor(double);                  \
    void batch_norm_forward(const StanBatchNorm&);  \
    void batch_norm_backward(const StanBatchNorm&); \
    void pool_forward(const StanPool&);             \
    void pool_backward(const StanPool&);            \
    void sgd(const StanSgd*, int, int);             \
    }
STAN_DECLARE(portable)
#ifdef STAN_X86
STAN_DECLARE(avx2)
STAN_DECLARE(avx512)
#endif

namespace {

struct Form {
    void (*forward)(const StanBlock&);
    void (*backward)(const StanBlock&);
    void (*lrn_forward)(const StanLrn&);
    void (*lrn_backward)(const StanLrn&);
    bool (*lrn_keeps_factor)(double);
    void (*batch_norm_forward)(const StanBatchNorm&);
    void (*batch_norm_backward)(const StanBatchNorm&);
    void (*pool_forward)(const StanPool&);
    void (*pool_backward)(const StanPool&);
    void (*sgd)(const StanSgd*, int, int);
};

#define STAN_FORM_OF(form)                                                                \
    Form{form::forward, form::backward, form::lrn_forward, form::lrn_backward,            \
         form::lrn_keeps_factor, form::batch_norm_forward, form::batch_norm_backward, form::pool_forward, \
         form::pool_backward, form::sgd}

const Form forms[] = {
    STAN_FORM_OF(portable),
#ifdef STAN_X86
    STAN_FORM_OF(avx2),
    STAN_FORM_OF(avx512),
#endif
};

int best() {
#ifdef STAN_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
               ? 2
               : 1;
#else
    return 0;
#endif
}

int used = best();

// No exception may leave for who calls from C. They are of memory, and of threads that the system refuses.
template <class Call, class... Given>
int done(Call call, const Given&... given) {
    try {
        call(given...);
        return 0;
    } catch (...) {
        return 1;
    }
}

}  // namespace

extern "C" {

int stan_best_form() { return best(); }
int stan_use_form(int form) { return used = std::clamp(form, 0, best()); }
int stan_interface() { return STAN_INTERFACE; }

int stan_lrn_keeps_factor(double power) { return forms[used].lrn_keeps_factor(power); }

int stan_block_forward(const StanBlock* block) { return done(forms[used].forward, *block); }
int stan_block_backward(const StanBlock* block) { return done(forms[used].backward, *block); }
int stan_lrn_forward(const StanLrn* lrn) { return done(forms[used].lrn_forward, *lrn); }
int stan_lrn_backward(const StanLrn* lrn) { return done(forms[used].lrn_backward, *lrn); }
int stan_batch_norm_forward(const StanBatchNorm* norm) { return done(forms[used].batch_norm_forward, *norm); }
int stan_batch_norm_backward(const StanBatchNorm* norm) { return done(forms[used].batch_norm_backward, *norm); }
int stan_pool_forward(const StanPool* pool) { return done(forms[used].pool_forward, *pool); }
int stan_pool_backward(const StanPool* pool) { return done(forms[used].pool_backward, *pool); }
int stan_sgd(const StanSgd* parameters, int32_t count, int32_t threads) {
    return done(forms[used].sgd, parameters, count, threads);
}

}  // extern "C"
