// Which instructions a file may use: the build says it through the compiler's flags, and each name below stands for one.
//   RECURRA_AVX512  AVX512F, BW, DQ and VL
//   RECURRA_VNNI    AVX512_VNNI beside it
//   RECURRA_BF16    AVX512_BF16 beside it
//   RECURRA_AVX2    AVX2 and FMA, where AVX-512 is not
// Under RECURRA_EMULATED (`make emulate`) the first is defined, the build defines the others where it wants them, and
// the instructions are functions of libsimde that run on AVX2.
#pragma once

#if defined(RECURRA_EMULATED)
#include "tests/emulated.hpp"
#define RECURRA_AVX512 1
// what a register of this processor holds
constexpr long recurra_register_bytes = 32;
#else
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define RECURRA_AVX512 1
#if defined(__AVX512VNNI__)
#define RECURRA_VNNI 1
#endif
#if defined(__AVX512BF16__)
#define RECURRA_BF16 1
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#define RECURRA_AVX2 1
#endif
constexpr long recurra_register_bytes = 64;
#endif
