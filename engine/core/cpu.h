/* core/cpu.h - which instructions this machine has. */
#ifndef BSI_CORE_CPU_H
#define BSI_CORE_CPU_H

/** Sets that code is written for, each with all before it. Up to AVX-512 the numbers are those of bsi_isa (flow/block.h); VBMI2 is what
 *  "avx512" takes in newer machines. The -m flags of each are in CMakeLists.txt. */
enum { BSI_CPU_SCALAR, BSI_CPU_AVX2, BSI_CPU_AVX512, BSI_CPU_VBMI2 };

/** The last of them that runs here. Any thread, and before main. Cost: some ten loads. */
int bsi_cpu_best(void);
/** The same for who was told not to take more than `isa` (a bsi_isa): with AVX-512 also VBMI2. */
int bsi_cpu_within(int isa);

#endif
