/* core/cpu.c - see cpu.h. */
#include "core/cpu.h"

int bsi_cpu_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("pclmul") ||
        !__builtin_cpu_supports("popcnt"))
        return BSI_CPU_SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512dq"))
        return BSI_CPU_AVX2;
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") ? BSI_CPU_VBMI2 : BSI_CPU_AVX512;
#else
    return BSI_CPU_SCALAR;
#endif
}

int bsi_cpu_within(int isa) {
    int best = bsi_cpu_best();
    return isa >= BSI_CPU_AVX512 || isa >= best ? best : isa;
}
