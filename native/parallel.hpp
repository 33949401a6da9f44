// Runs the parts of a job on several threads.
#pragma once

#include <functional>

namespace stan {

// Calls part(0) to part(parts - 1), each once, on up to `parts` threads; returns when all are done. Throws bad_alloc
// where one of them has thrown.
void in_parallel(int parts, const std::function<void(int)>& part);

}  // namespace stan
