// The functions that a library offers, each with its name and the kinds of what it returns and takes: Python reads the
// table, so that a function's C++ is the only place where its arguments are told.

#pragma once

#include <cstdint>
#include <type_traits>

namespace {

// v: nothing; b: bool; i: 64-bit integer; f: float; p: pointer.
template <class X>
constexpr char kind_of() {
    static_assert(std::is_void_v<X> || std::is_same_v<X, bool> || std::is_same_v<X, std::int64_t> ||
                      std::is_same_v<X, float> || std::is_pointer_v<X>,
                  "Python has no word for this");
    return std::is_void_v<X> ? 'v' : std::is_same_v<X, bool> ? 'b' : std::is_pointer_v<X> ? 'p'
                                 : std::is_same_v<X, float> ? 'f' : 'i';
}

template <class Result, class... Arguments>
struct Kinds {
    static constexpr char text[] = {kind_of<Result>(), kind_of<Arguments>()..., '\0'};
};

struct Function {
    const char* name;
    const char* kinds;  // first that of what it returns
    void* address;
};

template <class Result, class... Arguments>
Function function(const char* name, Result (*address)(Arguments...)) {
    return {name, Kinds<Result, Arguments...>::text, reinterpret_cast<void*>(address)};
}

}  // namespace

// A library writes its own once: the functions, and after them one without a name.
extern "C" const Function* functions();
