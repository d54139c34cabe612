// Calls the functions of a library that is linked with this, as its standard input says, and writes back what they did.
//
// A call: the name's length and the name; of each argument what function_table.h calls its kind: the number itself, or
// of a pointer so many bytes (none: -1) and these. The answer: what it returned, and all bytes that pointers led to.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

struct Function {
    const char *name, *kinds;
    void* address;
};

extern "C" const Function* functions();

namespace {

template <class X>
X taken() {
    X x;
    if (std::fread(&x, sizeof x, 1, stdin) != 1) std::exit(std::feof(stdin) ? 0 : 1);
    return x;
}

// Integers and pointers reach a function in registers of their own, or behind each other on the stack; so do floats in
// others, and of those there are few: to call with more of both than it takes is to call it.
bool call(const Function& function, const std::int64_t* i, const float* f) {
    using Most = bool (*)(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                          std::int64_t, std::int64_t, std::int64_t, std::int64_t, float, float, float, float);
    return reinterpret_cast<Most>(function.address)(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10],
                                                    i[11], i[12], i[13], i[14], i[15], f[0], f[1], f[2], f[3]);
}

}  // namespace

int main() {
    for (;;) {
        std::string name(taken<std::int64_t>(), ' ');
        for (char& letter : name) letter = taken<char>();
        const Function* function = functions();
        while (function->name && name != function->name) ++function;
        if (function->name == nullptr) return 2;
        std::int64_t integers[16] = {}, *integer = integers;
        float floats[4] = {}, *one = floats;
        std::vector<std::vector<char>> memory;
        for (const char* kind = function->kinds + 1; *kind; ++kind) {
            if (*kind == 'i') *integer++ = taken<std::int64_t>();
            if (*kind == 'f') *one++ = taken<float>();
            if (*kind != 'p') continue;
            const std::int64_t bytes = taken<std::int64_t>();
            memory.emplace_back(bytes < 0 ? 0 : bytes);
            if (bytes > 0 && std::fread(memory.back().data(), 1, bytes, stdin) != std::size_t(bytes)) return 1;
            *integer++ = bytes < 0 ? 0 : reinterpret_cast<std::int64_t>(memory.back().data());
        }
        const bool done = call(*function, integers, floats) || function->kinds[0] == 'v';
        std::fwrite(&done, 1, 1, stdout);
        for (const auto& bytes : memory) std::fwrite(bytes.data(), 1, bytes.size(), stdout);
        std::fflush(stdout);
    }
}
