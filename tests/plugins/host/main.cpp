// mrcnn_plugin_host LIBRARY [--gpu] [--list] [--leak] [NAME…]
//
// Runs the checks of those names, or all that need no GPU, or with --gpu all that do. With --leak it loses a
// block of memory besides, which shows whether a leak would be seen. One line for each check:
//
//   ok plugin_identity
//   FAILED roi_align_formats: rois: not … (check_formats.cpp:71)
//   skipped gpu_nms: no GPU
//
// Exit status: 0, 1 if a check failed, 2 for wrong arguments, 77 if every check was skipped.

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "host.h"

// Asked by the leak sanitizer where it is linked: what NVIDIA's driver keeps is not ours.
extern "C" const char* __lsan_default_suppressions();
const char* __lsan_default_suppressions() { return "leak:libcuda.so"; }

namespace {

constexpr int kStatusFailed = 1, kStatusWrong = 2, kStatusSkipped = 77;

int refuse(const std::string& why) {
    std::fprintf(stderr, "%s\nusage: mrcnn_plugin_host LIBRARY [--gpu] [--list] [--leak] [NAME...]\n",
                 why.c_str());
    return kStatusWrong;
}

enum class Outcome { kOk, kFailed, kSkipped };

Outcome run(const host::Check& check) {
    try {
        if (check.needs_gpu && !host::has_gpu()) throw host::Skipped("no GPU");
        check.body();
        std::printf("ok %s\n", check.name);
        return Outcome::kOk;
    } catch (const host::Skipped& reason) {
        std::printf("skipped %s: %s\n", check.name, reason.what());
        return Outcome::kSkipped;
    } catch (const std::exception& error) {
        std::printf("FAILED %s: %s\n", check.name, error.what());
        return Outcome::kFailed;
    }
}

int run_all(const std::vector<const host::Check*>& selected) {
    bool all_skipped = true, failed = false;
    for (const host::Check* check : selected) {
        const Outcome outcome = run(*check);
        std::fflush(stdout);  // before the next check can end the process
        all_skipped = all_skipped && outcome == Outcome::kSkipped;
        failed = failed || outcome == Outcome::kFailed;
    }
    if (failed) return kStatusFailed;
    return all_skipped ? kStatusSkipped : 0;
}

// Overwrites the only pointer to a block, wherever the compiler holds it.
void lose(char* block) {
    static char* volatile holder;
    holder = block;
    holder[0] = 1;
    holder = nullptr;
}

}  // namespace

int main(int argc, char** argv) {
    bool list = false, gpu = false, leak = false;
    std::vector<std::string> words;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word == "--list") {
            list = true;
        } else if (word == "--gpu") {
            gpu = true;
        } else if (word == "--leak") {
            leak = true;
        } else if (word.compare(0, 2, "--") == 0) {
            return refuse("unknown option " + word);
        } else {
            words.push_back(word);
        }
    }
    std::vector<const host::Check*> selected;
    for (const host::Check& check : host::checks()) {
        if (check.needs_gpu == gpu) selected.push_back(&check);
    }
    if (list) {
        for (const host::Check* check : selected) std::printf("%s: %s\n", check->name, check->rule);
        return 0;
    }
    if (words.empty()) return refuse("which library?");
    if (words.size() > 1) selected.clear();
    for (std::size_t i = 1; i < words.size(); ++i) {
        const host::Check* found = nullptr;
        for (const host::Check& check : host::checks()) {
            if (words[i] == check.name) found = &check;
        }
        if (found == nullptr) return refuse("no check " + words[i]);
        selected.push_back(found);
    }
    try {
        host::open_library(words[0]);
    } catch (const std::exception& error) {
        return refuse(error.what());
    }
    if (leak) lose(new char[12345]);
    return run_all(selected);
}
