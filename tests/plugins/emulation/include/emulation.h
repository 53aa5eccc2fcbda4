// Runs CUDA kernels on the CPU, one block after the other, its threads as fibers that take turns.
//
// What it shows: indices, barriers, votes, limits of a launch and the order of kernels, in whatever order the
// threads run. What it does not: memory models, speed.
#ifndef MRCNN_EMULATION_EMULATION_H_
#define MRCNN_EMULATION_EMULATION_H_

#include <array>
#include <cstddef>
#include <functional>

namespace mrcnn::emulation {

struct Dim3 {
    unsigned x, y, z;
    Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern Dim3 thread_index, block_index, block_size;

// __syncthreads: waits for all threads of the block that still run.
void sync_block();

// Gives each lane of the warp the values of all 32; all of them must call it.
std::array<unsigned, 32> exchange(unsigned value);

void* dynamic_shared();

// kernel<<<grid, block, shared_bytes>>>: calls `kernel` once per thread. Ends the process with a message
// where threads wait for each other in vain.
void launch(Dim3 grid, Dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

}  // namespace mrcnn::emulation

// In which order threads take turns: 0 ascending, 1 descending, any other value a shuffle of that seed.
extern "C" __attribute__((visibility("default"))) void mrcnnEmulationOrder(unsigned order);

#endif  // MRCNN_EMULATION_EMULATION_H_
