// Memory that grows and is kept, aligned to cache lines: vectors that straddle two lines are read twice.
#pragma once

#include <cstddef>
#include <new>

namespace STAN_FORM {

template <class T>
class Memory {
  public:
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { release(); }

    // Returns room for so many; what was in it may be lost.
    T* sized(size_t number) {
        if (number > room_) {
            release();
            start_ = static_cast<T*>(::operator new(number * sizeof(T), line));
            room_ = number;
        }
        return start_;
    }

    // What `sized` returned last.
    T* start() const { return start_; }

  private:
    static constexpr std::align_val_t line{64};
    void release() {
        if (start_) ::operator delete(start_, line);
        start_ = nullptr;
        room_ = 0;
    }
    T* start_ = nullptr;
    size_t room_ = 0;
};

}  // namespace STAN_FORM
