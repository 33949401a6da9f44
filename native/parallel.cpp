// Threads: those of the OpenMP runtime that the process uses already, or our own where there is none.
//
// Two pools of spinning threads on the same cores take the cores from each other, so PyTorch's own runtime is used
// where it can be found: the caller hands over its GOMP_parallel. In a forked child that runtime, and our own pool, may
// wait for threads that are the parent's alone: a child has a pool of its own. One that was forked before this library
// was loaded is the caller's to notice.
#include "parallel.hpp"

#if __has_include(<pthread.h>)
#include <pthread.h>
#define STAN_FORKS
#endif

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "api.hpp"

namespace stan {
namespace {

struct Job {
    const std::function<void(int)>* part;
    int parts;
    std::fenv_t calling{};  // how the calling thread computes: whether denormals count as zero, and how it rounds
    std::atomic<int> next{0};
    std::atomic<bool> failed{false};

    // What a part throws must not leave the thread: that would end the process.
    void work() {
        for (int number; (number = next.fetch_add(1)) < parts;) try {
                (*part)(number);
            } catch (...) {
                failed = true;
            }
    }
};

// Works in any thread as in the calling one. Each has that from the thread that began it, whatever became of that since,
// and which thread does a part is chance: one call would have several results. A thread of PyTorch's gets back its own.
void work(void* job) {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&static_cast<Job*>(job)->calling);
    static_cast<Job*>(job)->work();
    std::fesetenv(&own);
}

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel gomp_parallel = nullptr;

// Waits to be notified. condition_variable::wait is another symbol since GCC 12: what is built there would ask every other
// machine for as new a C++ runtime.
void wait_for(std::condition_variable& what, std::unique_lock<std::mutex>& lock) {
#ifdef STAN_FORKS
    pthread_cond_wait(what.native_handle(), lock.mutex()->native_handle());
#else
    what.wait(lock);
#endif
}

// Threads that wait for jobs; made when first needed, never ended: the process's end takes them.
class Pool {
  public:
    void run(Job& job) {
        std::unique_lock<std::mutex> turn(turns_);  // one job at a time
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (workers_ < job.parts - 1) {
                std::thread([this] { wait(); }).detach();
                ++workers_;
            }
            job_ = &job;
            helpers_ = job.parts - 1;
            ++round_;
        }
        begun_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        helpers_ = 0;
        while (busy_ != 0) wait_for(ended_, lock);
        job_ = nullptr;
    }

  private:
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (uint64_t seen = 0;;) {
            while (round_ == seen) wait_for(begun_, lock);
            seen = round_;
            if (helpers_ <= 0) continue;
            --helpers_;
            ++busy_;
            Job* job = job_;
            lock.unlock();
            stan::work(job);
            lock.lock();
            if (--busy_ == 0) ended_.notify_all();
        }
    }

    std::mutex turns_, mutex_;
    std::condition_variable begun_, ended_;
    Job* job_ = nullptr;
    uint64_t round_ = 0;
    int workers_ = 0, helpers_ = 0, busy_ = 0;
};

// Never destroyed: its threads may outlive static destructors.
Pool* pool = new Pool;

#ifdef STAN_FORKS
void begin_child() {
    gomp_parallel = nullptr;
    pool = new Pool;  // the parent's may be locked, by a thread that is not here
}
[[maybe_unused]] const int watched = pthread_atfork(nullptr, nullptr, begin_child);
#endif

}  // namespace

void in_parallel(int parts, const std::function<void(int)>& part) {
    Job job{&part, parts};
    if (parts > 1) std::fegetenv(&job.calling);
    if (parts <= 1)
        job.work();
    else if (gomp_parallel)
        gomp_parallel(work, &job, static_cast<unsigned>(parts), 0);
    else
        pool->run(job);
    // Parts ask for nothing but memory. The exception itself would want a newer C++ runtime to travel.
    if (job.failed) throw std::bad_alloc();
}

}  // namespace stan

extern "C" STAN_EXPORT void stan_use_openmp(void* gomp_parallel) {
    stan::gomp_parallel = reinterpret_cast<stan::GompParallel>(gomp_parallel);
}
