#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <vector>

namespace mrcnn::emulation {

Dim3 thread_index, block_index, block_size;

namespace {

constexpr std::size_t kStack = 64 * 1024;
constexpr unsigned kLanes = 32;

// A place where a fixed set of threads meet, again and again.
struct Meeting {
    unsigned members = 0, arrived = 0, generation = 0;
    std::array<unsigned, kLanes> left = {}, taken = {};  // values that lanes exchange

    // Lets everybody go once all are there.
    bool open_if_complete() {
        if (members == 0 || arrived < members) return false;
        arrived = 0;
        ++generation;
        taken = left;
        return true;
    }
};

// A stack that runs one thread after the other. It is entered by makecontext once, and by _longjmp ever
// after, which costs no call of the system.
struct Fiber {
    ucontext_t context = {};
    jmp_buf place;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
    bool started = false, done = false;
};

std::deque<Fiber> fibers;
std::vector<Meeting> warps;
Meeting block;
jmp_buf scheduler;
unsigned current = 0, order_seed = 0;
bool progress = false;
std::vector<std::max_align_t> shared;
const std::function<void()>* running = nullptr;

// Back to run_block, until it resumes this fiber.
void yield() {
    if (_setjmp(fibers[current].place) == 0) _longjmp(scheduler, 1);
}

void wait_at(Meeting* meeting) {
    const unsigned generation = meeting->generation;
    ++meeting->arrived;
    progress |= meeting->open_if_complete();
    while (meeting->generation == generation) yield();
}

void run_fiber() {
    for (;;) {
        (*running)();
        fibers[current].done = progress = true;
        for (Meeting* meeting : {&block, &warps[current / kLanes]}) {
            --meeting->members;  // those that wait for the others wait for one less
            meeting->open_if_complete();
        }
        yield();
    }
}

// Runs thread i until it yields.
void resume(unsigned i) {
    Fiber& fiber = fibers[i];
    current = i;
    thread_index = Dim3(i, 0, 0);
    if (_setjmp(scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, run_fiber, 0);
    setcontext(&fiber.context);
}

std::vector<unsigned> turns(unsigned threads) {
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i) order[i] = order_seed == 1 ? threads - 1 - i : i;
    if (order_seed > 1) std::shuffle(order.begin(), order.end(), std::mt19937(order_seed));
    return order;
}

void run_block(const std::vector<unsigned>& order) {
    const auto threads = static_cast<unsigned>(order.size());
    block = {};
    block.members = threads;
    warps.assign((threads + kLanes - 1) / kLanes, {});
    for (unsigned i = 0; i < threads; ++i) {
        ++warps[i / kLanes].members;
        fibers[i].done = false;
    }
    unsigned remaining = threads;
    while (remaining > 0) {
        progress = false;
        for (const unsigned i : order) {
            if (fibers[i].done) continue;
            resume(i);
            if (fibers[i].done) --remaining;
        }
        if (!progress && remaining > 0) {
            std::fprintf(stderr, "emulation: %u threads wait for each other in vain\n", remaining);
            std::abort();
        }
    }
}

}  // namespace

void sync_block() { wait_at(&block); }

std::array<unsigned, 32> exchange(unsigned value) {
    Meeting& warp = warps[current / kLanes];
    warp.left[current % kLanes] = value;
    wait_at(&warp);
    return warp.taken;
}

void* dynamic_shared() { return shared.data(); }

void launch(Dim3 grid, Dim3 threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
    // What every GPU refuses; the kernels' own tables leave 44 KB of the 48.
    if (grid.y > 65535 || threads.x > 1024 || threads.y * threads.z != 1 || shared_bytes > 44 * 1024) {
        std::fprintf(stderr, "emulation: a launch beyond the limits of a GPU\n");
        std::abort();
    }
    running = &kernel;
    block_size = threads;
    while (fibers.size() < threads.x) fibers.emplace_back();  // a deque: fibers must not move
    const std::vector<unsigned> order = turns(threads.x);
    for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
            block_index = Dim3(x, y, 0);
            shared.assign(shared_bytes / sizeof(std::max_align_t) + 1, {});
            run_block(order);
        }
    }
}

}  // namespace mrcnn::emulation

void mrcnnEmulationOrder(unsigned order) { mrcnn::emulation::order_seed = order; }
